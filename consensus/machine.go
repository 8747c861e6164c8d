package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// machine is the one adapter between raft and the state. Its Apply, Snapshot
// and Restore are called by one goroutine of raft's.
type machine struct {
	state *state.State
	fail  func(error)
	// ledger takes the leaves; nil keeps none. It is set before raft starts, and
	// again by reopen when the log is begun anew for the n-th time.
	ledger   *store.Store
	restarts int
	reopen   func(restarts int) (*store.Store, error)
	// broken is set once a command could not be applied: from then on nothing
	// is, so that no snapshot of a half-right state is ever written.
	broken error

	view    atomic.Pointer[state.View]
	marks   chan *state.View
	compare chan state.CompareDigest

	mu      sync.Mutex
	changed chan struct{} // closed when the view changes; guarded by mu
	last    entry         // the one that was applied last; guarded by mu
}

// entry names one of raft's log: two of the same index and term are the same, and
// so is all that lies before them. None has term 0.
type entry struct{ index, term uint64 }

func newMachine(fail func(error)) *machine {
	m := &machine{state: state.New(), fail: fail, marks: make(chan *state.View, 4), compare: make(chan state.CompareDigest, 4), changed: make(chan struct{})}
	m.view.Store(m.state.Freeze())
	return m
}

// A log entry of ours is a batch: a version byte, the CRC-32C of what follows
// (raft-wal checks the end of its log, not what lies within), then commands,
// each behind its length. Numbers are 4 bytes, big endian.
const (
	batchVersion = 1
	batchHead    = 5
)

func encodeBatch(all []*proposal) []byte {
	n := batchHead
	for _, p := range all {
		n += 4 + len(p.raw)
	}
	out := append(make([]byte, 0, n), batchVersion, 0, 0, 0, 0)
	for _, p := range all {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p.raw)))
		out = append(out, p.raw...)
	}
	binary.BigEndian.PutUint32(out[1:], crc32.Checksum(out[batchHead:], castagnoli()))
	return out
}

func decodeBatch(data []byte) (raws [][]byte, err error) {
	if len(data) < batchHead || data[0] != batchVersion {
		return nil, errors.New("a log entry of a newer program: upgrade this node")
	}
	sum := binary.BigEndian.Uint32(data[1:])
	if data = data[batchHead:]; crc32.Checksum(data, castagnoli()) != sum {
		return nil, errors.New("a log entry is not what was written: its checksum differs")
	}
	for len(data) > 0 {
		if len(data) < 4 {
			return nil, errors.New("a log entry is cut short")
		}
		n := binary.BigEndian.Uint32(data)
		if data = data[4:]; uint64(n) > uint64(len(data)) {
			return nil, errors.New("a log entry is cut short")
		}
		raws = append(raws, data[:n:n])
		data = data[n:]
	}
	return raws, nil
}

// castagnoli is the table of CRC-32C, which processors compute themselves; the
// package makes it once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Apply implements raft.FSM. It gives []state.Result, or an error once broken.
func (m *machine) Apply(l *raft.Log) (answer any) {
	if m.broken != nil {
		return m.broken
	}
	defer func() {
		if p := recover(); p != nil {
			m.breakOff(fmt.Errorf("index %d: %v", l.Index, p))
			answer = m.broken
		}
	}()
	raws, err := decodeBatch(l.Data)
	if err != nil {
		m.breakOff(fmt.Errorf("index %d: %w", l.Index, err))
		return m.broken
	}
	results := make([]state.Result, len(raws))
	kept := 0
	for i, raw := range raws {
		results[i] = m.state.Apply(l.Index, raw)
		m.digest(raw, results[i])
		if m.state.Restarts != m.restarts && err == nil { // this leaf is the first of a new log
			err = m.keep(raws[kept:i], results[kept:i])
			err = errors.Join(err, m.follow())
			kept = i
		}
	}
	if err = errors.Join(err, m.keep(raws[kept:], results[kept:])); err != nil {
		m.breakOff(err)
		return m.broken
	}
	m.publish(entry{l.Index, l.Term})
	return results
}

// keep hands the leaves of a batch, with what opens them, to the ledger. It
// fails only if the ledger holds other leaves at their places.
func (m *machine) keep(raws [][]byte, results []state.Result) error {
	if m.ledger == nil {
		return nil
	}
	var first uint64
	records := make([]store.Record, 0, len(raws))
	for i, r := range results {
		if r.Entry == nil {
			continue // known already: it has its leaf
		}
		if len(records) == 0 {
			first = r.Leaf
		}
		records = append(records, store.Record{Entry: r.Entry, Opening: &store.Opening{Salt: r.Salt, Command: raws[i]}})
	}
	return m.ledger.Append(first, records)
}

// follow takes up the ledger of the log that the state is at: each log begun
// anew has files of its own, and those of the old ones stay.
func (m *machine) follow() error {
	if m.state.Restarts == m.restarts || m.reopen == nil {
		m.restarts = m.state.Restarts
		return nil
	}
	s, err := m.reopen(m.state.Restarts)
	if err != nil {
		return err
	}
	m.ledger, m.restarts = s, m.state.Restarts
	return nil
}

func (m *machine) breakOff(err error) {
	m.broken = err
	m.fail(err)
}

// digest passes on what concerns the comparison of replicas.
func (m *machine) digest(raw []byte, r state.Result) {
	_, kind, err := state.DecodeHead(raw)
	if err != nil || r.Refused != nil || r.Repeated {
		return
	}
	switch kind {
	case state.KindMarkDigest:
		select {
		case m.marks <- m.state.Freeze():
		default: // this replica is busy with earlier ones
		}
	case state.KindCompareDigest:
		_, cmd, err := state.Decode(raw)
		if c, ok := cmd.(state.CompareDigest); ok && err == nil {
			select {
			case m.compare <- c:
			default:
			}
		}
	}
}

func (m *machine) publish(last entry) {
	m.view.Store(m.state.Freeze())
	m.mu.Lock()
	m.last = last
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
}

// watch gives the view and a channel that closes when there is a newer one.
func (m *machine) watch() (*state.View, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.Load(), m.changed
}

// applied gives the entry that was applied last, and a channel that closes when
// there is a newer one.
func (m *machine) applied() (entry, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, m.changed
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if m.broken != nil {
		return nil, m.broken
	}
	return snapshot{m.view.Load(), m.ledger}, nil
}

// Restore implements raft.FSM.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	if m.broken != nil {
		return m.broken
	}
	s, err := state.Restore(r)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	m.state = s
	err = m.follow()
	if err == nil && m.ledger != nil {
		err = m.ledger.Rebase(s.LedgerTree())
	}
	if err != nil {
		m.breakOff(fmt.Errorf("restore snapshot: %w", err))
		return m.broken
	}
	m.publish(entry{}) // a snapshot does not say of which term it is
	return nil
}

type snapshot struct {
	view   *state.View
	ledger *store.Store
}

// Persist writes the snapshot once the leaves it covers are on disk: after it,
// raft's log forgets them.
func (s snapshot) Persist(to raft.SnapshotSink) error {
	if s.ledger != nil {
		if err := s.ledger.Sync(); err != nil {
			_ = to.Cancel()
			return fmt.Errorf("write snapshot: its ledger entries first: %w", err)
		}
	}
	if err := s.view.Write(to); err != nil {
		_ = to.Cancel()
		return fmt.Errorf("write snapshot: %w", err)
	}
	return to.Close()
}

func (snapshot) Release() {}
