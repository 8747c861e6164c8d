package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// The snapshot format, version 1: the line "sovmesh state 1\n", then records of
// a table byte, a length (4 bytes, big endian) and JSON (or, for table tree, the
// compact range), tables in the order below, rows in key order; then table 'Z'
// with the SHA-256 of everything before its own table byte. That hash is the
// state's digest.
const snapshotMagic = "sovmesh state 1\n"

// The tables, in the order in which a snapshot holds them.
const (
	recScalars     = 'A'
	recTree        = 'B'
	recPack        = 'C'
	recRegion      = 'D'
	recPending     = 'E'
	recNode        = 'F'
	recTask        = 'G'
	recJob         = 'H'
	recToken       = 'I'
	recJoinToken   = 'J'
	recTenant      = 'K'
	recInvite      = 'L'
	recReservation = 'M'
	recGrant       = 'N'
	recRevoked     = 'O'
	recKey         = 'P'
	recResult      = 'Q'
	recCheckpoint  = 'R'
	recWitness     = 'S'
	recWitnessed   = 'T'
	recSegment     = 'U'
	recErasure     = 'V'
	recEnd         = 'Z'

	maxRecord = 16 << 20
)

// keyed is a row whose key is not in its value.
type keyed[V any] struct {
	Key string `json:"k"`
	Val V      `json:"v"`
}

type packRecord struct {
	Tables map[string][]byte `json:"tables"`
}

type resultRecord struct {
	First   uint64   `json:"first,omitempty"` // of the ring, in its first record only
	Salt    []byte   `json:"salt"`
	Index   uint64   `json:"index"`
	Leaf    uint64   `json:"leaf"`
	ID      string   `json:"id,omitempty"`
	Refused *Refused `json:"refused,omitempty"`
}

// Digest is the hex SHA-256 of the whole state. Replicas that applied the same
// commands have the same digest.
func (v *View) Digest() string {
	w := &recordWriter{w: bufio.NewWriter(io.Discard), sum: sha256.New()}
	v.records(w)
	return hex.EncodeToString(w.sum.Sum(nil))
}

// Write writes a snapshot.
func (v *View) Write(to io.Writer) error {
	w := &recordWriter{w: bufio.NewWriterSize(to, 1<<16), sum: sha256.New()}
	v.records(w)
	w.record(recEnd, w.sum.Sum(nil))
	if err := errors.Join(w.err, w.long); err != nil {
		return err
	}
	return w.w.Flush()
}

type recordWriter struct {
	w    *bufio.Writer
	sum  hash.Hash
	err  error
	long error // a record that no [Restore] would read
}

func (w *recordWriter) bytes(b []byte) {
	if w.err == nil {
		w.sum.Write(b)
		_, w.err = w.w.Write(b)
	}
}

func (w *recordWriter) record(table byte, data []byte) {
	if len(data) > maxRecord && w.long == nil {
		w.long = fmt.Errorf("snapshot: table %c: a record of %d bytes, and %d is the most that is read again", table, len(data), maxRecord)
	}
	head := binary.BigEndian.AppendUint32([]byte{table}, uint32(len(data)))
	w.bytes(head)
	w.bytes(data)
}

func (w *recordWriter) json(table byte, v any) {
	data, err := json.Marshal(v)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("table %c: %w", table, err)
	}
	w.record(table, data)
}

// ordered is a table or the roster.
type ordered[V any] interface {
	put(key string, v V)
	ascend(from string, visit func(key string, v V) bool)
	last() (string, bool)
}

func writeTable[V any](w *recordWriter, table byte, t ordered[V]) {
	t.ascend("", func(_ string, v V) bool { w.json(table, v); return w.err == nil })
}

func writeKeyed[V any](w *recordWriter, table byte, t table[V]) {
	t.ascend("", func(key string, v V) bool { w.json(table, keyed[V]{key, v}); return w.err == nil })
}

func (v *View) records(w *recordWriter) {
	w.bytes([]byte(snapshotMagic))
	w.json(recScalars, v.scalars)
	w.record(recTree, v.tree.Marshal())
	v.packs.ascend("", func(_ string, p *residency.Pack) bool { w.json(recPack, packRecord{p.Tables()}); return w.err == nil })
	writeTable(w, recRegion, v.regions)
	writeTable(w, recPending, v.pendingPeers)
	writeTable(w, recNode, v.nodes)
	writeTable(w, recTask, v.tasks)
	writeTable(w, recJob, v.jobs)
	writeTable(w, recToken, v.tokens)
	writeTable(w, recJoinToken, v.joinTokens)
	writeTable(w, recTenant, v.tenants)
	writeTable(w, recInvite, v.invites)
	writeTable(w, recReservation, v.reservations)
	writeKeyed(w, recGrant, v.grants)
	writeKeyed(w, recRevoked, v.revoked)
	writeKeyed(w, recKey, v.idempotency)
	first := v.recent.first
	for _, chunk := range v.recent.chunks {
		for i := range chunk {
			r := &chunk[i]
			w.json(recResult, resultRecord{first, r.Salt[:], r.Index, r.Leaf, r.ID, r.Refused})
			first = 0
		}
	}
	writeTable(w, recCheckpoint, v.checkpoints)
	writeTable(w, recWitness, v.witnesses)
	writeTable(w, recWitnessed, v.witnessed)
	writeTable(w, recSegment, v.segments)
	writeTable(w, recErasure, v.erasures)
}

// Restore reads a snapshot. It is strict: order, unknown fields, trailing bytes
// and the digest are checked, and nothing of a bad snapshot is used.
func Restore(from io.Reader) (*State, error) {
	r := &recordReader{r: bufio.NewReaderSize(from, 1<<16), sum: sha256.New()}
	magic := make([]byte, len(snapshotMagic))
	if err := r.full(magic); err != nil || string(magic) != snapshotMagic {
		return nil, errors.New("no snapshot of a version that this program reads")
	}
	s := New()
	// The restored state has no node usage yet to be kept by putTask.
	for last := byte(0); ; {
		table, data, digest, err := r.next()
		if err != nil {
			return nil, err
		}
		if table < last || table == last && (table == recScalars || table == recTree) {
			return nil, fmt.Errorf("snapshot: table %q is not in its place", table)
		}
		last = table
		if table == recEnd {
			return s.restored(r, data, digest)
		}
		if err := s.restore(table, data); err != nil {
			return nil, fmt.Errorf("snapshot: table %c: %w", table, err)
		}
	}
}

// restored checks the end, and that what is derived fits what was stored.
func (s *State) restored(r *recordReader, data, digest []byte) (*State, error) {
	if !bytes.Equal(data, digest) {
		return nil, errors.New("snapshot: its digest is not that of its content")
	}
	if _, err := r.r.ReadByte(); err != io.EOF {
		return nil, errors.New("snapshot: something follows its end")
	}
	if s.Active != "" && !s.packs.has(s.Active) {
		return nil, fmt.Errorf("snapshot: law pack %s is active and not held", s.Active)
	}
	waiting := s.Waiting
	s.Waiting = 0
	s.reservations.ascend("", func(_ string, r *Reservation) bool { s.holdFor(r, 1); return true })
	s.jobs.ascend("", func(_ string, j *jobRecord) bool {
		s.account(j, 1)
		if j.End != 0 {
			s.ended.put(seqKey(j.End), j.ID)
		}
		return true
	})
	s.onNode.ascend("", func(_ string, t *taskRecord) bool { s.standBeside(t, 1); return true })
	if s.Waiting != waiting {
		return nil, fmt.Errorf("snapshot: %d jobs wait, %d were counted", s.Waiting, waiting)
	}
	return s, nil
}

type recordReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (r *recordReader) full(b []byte) error {
	if _, err := io.ReadFull(r.r, b); err != nil {
		return fmt.Errorf("snapshot: it ends too early: %w", err)
	}
	r.sum.Write(b)
	return nil
}

// next reads one record; digest is the hash of everything before it.
func (r *recordReader) next() (table byte, data, digest []byte, err error) {
	digest = r.sum.Sum(nil)
	var head [5]byte
	if err := r.full(head[:]); err != nil {
		return 0, nil, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxRecord {
		return 0, nil, nil, fmt.Errorf("snapshot: a record of %d bytes", n)
	}
	// Grown as it is read: a length alone reserves no memory.
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r.r, int64(n)); err != nil {
		return 0, nil, nil, fmt.Errorf("snapshot: it ends too early: %w", err)
	}
	r.sum.Write(buf.Bytes())
	return head[0], buf.Bytes(), digest, nil
}

// restoreRow reads one row of a table and refuses rows out of order.
func restoreRow[V any](data []byte, t ordered[*V], key func(*V) string) error {
	v := new(V)
	if err := strict(data, v); err != nil {
		return err
	}
	return putLast(t, key(v), v)
}

func restoreKeyed[V any](data []byte, t table[V]) (keyed[V], error) {
	var r keyed[V]
	if err := strict(data, &r); err != nil {
		return r, err
	}
	return r, putLast(t, r.Key, r.Val)
}

func putLast[V any](t ordered[V], key string, v V) error {
	if last, ok := t.last(); ok && last >= key {
		return fmt.Errorf("row %q is not in its place", key)
	}
	t.put(key, v)
	return nil
}

func (s *State) restore(table byte, data []byte) (err error) {
	switch table {
	case recScalars:
		return strict(data, &s.scalars)
	case recTree:
		s.tree, err = ledger.UnmarshalTree(data)
		return err
	case recPack:
		var p packRecord
		if err := strict(data, &p); err != nil {
			return err
		}
		pack, err := residency.LoadPack(p.Tables)
		if err != nil {
			return err
		}
		return putLast(s.packs, pack.Hash(), pack)
	case recRegion:
		return restoreRow(data, s.regions, func(r *placement.Region) string {
			if r.Self {
				s.self = r
			}
			return string(r.ID)
		})
	case recPending:
		return restoreRow(data, s.pendingPeers, func(r *placement.Region) string { return string(r.ID) })
	case recNode:
		return restoreRow(data, s.nodes, func(n *placement.Node) string { return string(n.ID) })
	case recTask:
		return restoreRow(data, s.tasks, func(t *taskRecord) string {
			if t.Status.Live() {
				s.onNode.put(string(t.Node)+"\x00"+string(t.ID), t)
				s.hold(t, 1)
				if t.Stop {
					s.leave(t, 1)
				}
			}
			return string(t.ID)
		})
	case recJob:
		return restoreRow(data, s.jobs, func(j *jobRecord) string { j.Job = s.shared(j.Job); return string(j.ID) })
	}
	return s.restoreRest(table, data)
}

func (s *State) restoreRest(table byte, data []byte) error {
	switch table {
	case recToken:
		return restoreRow(data, s.tokens, func(t *Token) string { s.tokenHashes.put(t.Hash, t); return t.ID })
	case recJoinToken:
		return restoreRow(data, s.joinTokens, func(t *joinToken) string { return t.Hash })
	case recTenant:
		return restoreRow(data, s.tenants, func(t *Tenant) string { return string(t.ID) })
	case recInvite:
		return restoreRow(data, s.invites, func(i *Invite) string { return i.Hash })
	case recReservation:
		return restoreRow(data, s.reservations, func(r *Reservation) string {
			if !r.Consumed {
				s.expiries.put(expiryKey(r), r.Key)
			}
			return r.Key
		})
	case recGrant:
		r, err := restoreKeyed[*Grant](data, s.grants)
		if err != nil || r.Val == nil {
			return errors.Join(err, errors.New("a grant is not well formed"))
		}
		s.fifoGrants.put(seqKey(r.Val.Seq), r.Key)
		return nil
	case recRevoked:
		_, err := restoreKeyed[time.Time](data, s.revoked)
		return err
	case recKey:
		r, err := restoreKeyed[*idempotent](data, s.idempotency)
		if err != nil || r.Val == nil {
			return errors.Join(err, errors.New("a key is not well formed"))
		}
		s.fifoKeys.put(seqKey(r.Val.Seq), r.Key)
		return nil
	case recResult:
		return s.restoreResult(data)
	case recCheckpoint:
		return restoreRow(data, s.checkpoints, func(c *Checkpoint) string { return seqKey(c.Size) })
	case recWitness:
		return restoreRow(data, s.witnesses, func(w *Witness) string { return w.Name })
	case recWitnessed:
		return restoreRow(data, s.witnessed, func(w *Witnessed) string { return w.Origin })
	case recSegment:
		return restoreRow(data, s.segments, func(g *Segment) string { return string(g.Node) })
	case recErasure:
		return restoreRow(data, s.erasures, func(e *Erasure) string { return seqKey(e.Seq) })
	}
	return fmt.Errorf("no such table")
}

func (s *State) restoreResult(data []byte) error {
	var r resultRecord
	if err := strict(data, &r); err != nil {
		return err
	}
	if len(r.Salt) != 16 || r.First%recentChunk != 0 || r.First != 0 && len(s.recent.chunks) > 0 {
		return errors.New("a remembered result is not well formed")
	}
	if len(s.recent.chunks) == 0 {
		s.recent.first = r.First
	}
	s.remember(recentResult{Salt: [16]byte(r.Salt), Index: r.Index, Leaf: r.Leaf, ID: r.ID, Refused: r.Refused})
	return nil
}
