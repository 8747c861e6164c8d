package mesh

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// stolenLog is a region's log in the hands of somebody who has its leaves and
// its secret key: the region's own operator, say.
type stolenLog struct {
	m      *Mesh
	region placement.RegionID
	origin string
	signer *ledger.Signer
	leaves [][]byte
}

// stolenLog takes the key from a disk, and the leaves as a replica gets them.
func (m *Mesh) stolenLog(id placement.RegionID) *stolenLog {
	m.t.Helper()
	secret, err := os.ReadFile(filepath.Join(m.host(id, "n1").dir, "ledger.keys"))
	m.must(err)
	signer, err := ledger.ParseSigner(strings.Split(string(secret), "\n")[0])
	m.must(err)
	l := &stolenLog{m: m, region: id, origin: signer.Verifier().Name(), signer: signer}
	r := m.rogue(m.stolen(id, m.region(id).hosts[len(m.region(id).hosts)-1].name), outside(9))
	defer r.stop()
	from := r.mesh.Ledger(m.peer(id, "n1"))
	for size := m.region(id).newest().LedgerSize(); uint64(len(l.leaves)) < size; {
		at := uint64(len(l.leaves))
		width := int(min(size-at, ledger.TileWidth))
		data, err := from.ReadTile(m.t.Context(), ledger.Tile{Level: ledger.EntriesLevel, Index: at / ledger.TileWidth, Width: width})
		m.must(err)
		all, err := ledger.ParseBundle(data, width)
		m.must(err)
		l.leaves = append(l.leaves, all...)
	}
	return l
}

func (l *stolenLog) leaf(i uint64) *ledger.Leaf {
	l.m.t.Helper()
	out, err := ledger.Decode(l.leaves[i])
	l.m.must(err)
	return out
}

func (l *stolenLog) encoded(x *ledger.Leaf) []byte {
	l.m.t.Helper()
	out, err := x.Encode()
	l.m.must(err)
	return out
}

// replaceTail makes other leaves of the last n: the same acts by somebody else.
func (l *stolenLog) replaceTail(n int) {
	for i := len(l.leaves) - n; i < len(l.leaves); i++ {
		x := l.leaf(uint64(i))
		x.Commitment[0] ^= 1
		l.leaves[i] = l.encoded(x)
	}
}

// repeatAsPermitted appends a refusal once more, as replicas that lie would have
// recorded it.
func (l *stolenLog) repeatAsPermitted(refusal uint64) {
	x := l.leaf(refusal)
	x.Code, x.Time = "", time.Now()
	x.Index = l.leaf(uint64(len(l.leaves)-1)).Index + 1
	for i := range x.Judged {
		x.Judged[i].Verdict = string(residency.Permitted)
	}
	l.leaves = append(l.leaves, l.encoded(x))
}

func (l *stolenLog) tree() *ledger.Tree {
	t := ledger.NewTree()
	for _, e := range l.leaves {
		t.Append(e)
	}
	return t
}

// sign signs the whole log.
func (l *stolenLog) sign() *ledger.SignedCheckpoint {
	l.m.t.Helper()
	t := l.tree()
	c := ledger.Checkpoint{Origin: l.origin, Size: t.Size(), Root: t.Root()}
	line, err := l.signer.Sign(c)
	l.m.must(err)
	note, err := ledger.NewSignedCheckpoint(c, line)
	l.m.must(err)
	return note
}

// files are the log as a store.
func (l *stolenLog) files() *store.Store {
	l.m.t.Helper()
	s, err := store.Open(store.Memory())
	l.m.must(err)
	for i, e := range l.leaves {
		l.m.must(s.Append(uint64(i), []store.Record{{Entry: e}}))
	}
	return s
}

// ask is an add-checkpoint request to a witness that has seen so many leaves,
// with a proof that the leaves here extend each other.
func (l *stolenLog) ask(seen uint64, note *ledger.SignedCheckpoint) []byte {
	l.m.t.Helper()
	a := ledger.AddCheckpoint{OldSize: seen, Checkpoint: note}
	if c := note.Unverified(); seen > 0 && seen < c.Size {
		files := l.files()
		edge, err := ledger.ReadEdge(l.m.t.Context(), files, seen)
		l.m.must(err)
		a.Hashes, err = ledger.ProveConsistency(l.m.t.Context(), files, ledger.Head{Size: seen, Root: edge.Root()}, c.Head())
		l.m.must(err)
	}
	body, err := a.Encode()
	l.m.must(err)
	return body
}

// cosign has a region's witness cosign, over the protocol.
func (l *stolenLog) cosign(id placement.RegionID, note *ledger.SignedCheckpoint) *ledger.SignedCheckpoint {
	l.m.t.Helper()
	v := l.m.region(id).newest()
	key, err := ledger.ParseVerifier(v.Self().WitnessKey)
	l.m.must(err)
	status, answer := l.m.request(http.MethodPost, id, "n1", api.WitnessPrefix+"/add-checkpoint", nil, string(l.ask(v.Witnessed(l.origin).Size, note)))
	if status != http.StatusOK {
		l.m.t.Fatalf("%s does not cosign: %d %s", id, status, answer)
	}
	line, err := ledger.AcceptCosignature(key, note.Unverified(), answer)
	l.m.must(err)
	out, err := note.With(line)
	l.m.must(err)
	return out
}

// pack is what the region would hand to an auditor, with this log for its own.
func (l *stolenLog) pack(note *ledger.SignedCheckpoint) []byte {
	l.m.t.Helper()
	x := evidence.Exporter{
		Mesh: Domain, Region: string(l.region), Origin: l.origin, Now: time.Now(), Source: stolenSource{l.files(), l},
		Checkpoints: []evidence.Signed{{Size: note.Unverified().Size, Note: note.Encode(), At: time.Now()}},
	}
	var buf bytes.Buffer
	l.m.must(x.Write(l.m.t.Context(), &buf))
	return buf.Bytes()
}

// stolenSource has the leaves and what everybody knows.
type stolenSource struct {
	*store.Store
	l *stolenLog
}

func (stolenSource) Opening(uint64) ([]byte, bool, error) { return nil, false, nil }

func (stolenSource) LawPack(hash string) map[string][]byte {
	if own := residency.Embedded(); own.Hash() == hash {
		return own.Tables()
	}
	return nil
}

func (s stolenSource) Bundle(digest string, _ uint64) []byte {
	for _, r := range s.l.m.region(s.l.region).newest().Regions() {
		if sum := sha256.Sum256(r.Bundle); hex.EncodeToString(sum[:]) == digest {
			return r.Bundle
		}
	}
	return nil
}
