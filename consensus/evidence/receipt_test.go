package evidence

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// tilesOf keeps a log's tiles in memory.
type tilesOf map[string][]byte

func (m tilesOf) ReadTile(_ context.Context, t ledger.Tile) ([]byte, error) {
	for ; t.Width <= ledger.TileWidth; t.Width++ {
		if data, ok := m[t.Path()]; ok {
			return data, nil
		}
	}
	return nil, errors.New("no tile " + t.Path())
}

func (l *aLog) tiles(t testing.TB) tilesOf {
	t.Helper()
	out, edge := tilesOf{}, new(ledger.Edge)
	keep := func(tile ledger.Tile, data []byte) error { out[tile.Path()] = bytes.Clone(data); return nil }
	for _, e := range l.leaves {
		if err := edge.Append(ledger.HashLeaf(e), keep); err != nil {
			t.Fatal(err)
		}
	}
	for tile, data := range edge.Partial() {
		_ = keep(tile, data)
	}
	return out
}

// receipt is one over leaves of the log, under its newest checkpoint.
func (l *aLog) receipt(t testing.TB, indexes ...uint64) *Receipt {
	t.Helper()
	size := uint64(len(l.leaves))
	note := l.note(t, size, l.root(size))
	c, err := ledger.ParseSignedCheckpoint(note)
	if err != nil {
		t.Fatal(err)
	}
	r := &Receipt{Checkpoint: c}
	for _, i := range indexes {
		hashes, err := ledger.ProveInclusion(t.Context(), l.tiles(t), ledger.Head{Size: size, Root: l.root(size)}, i)
		if err != nil {
			t.Fatal(err)
		}
		r.Leaves = append(r.Leaves, ReceiptLeaf{Index: i, Entry: l.leaves[i], Hashes: hashes})
	}
	return r
}

func encoded(t testing.TB, r *Receipt) []byte {
	t.Helper()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAReceiptHolds(t *testing.T) {
	m := newMesh(t, "")
	data := encoded(t, m.logs[0].receipt(t, 1, 2, 3))
	rep := verified(t, m.policy, data)
	if !rep.OK() || rep.Kind != KindReceipt || rep.Regions[0].Leaves != 3 || rep.Regions[0].Placements != 1 {
		t.Errorf("%+v", rep)
	}
	for _, name := range []string{Consistency, Completeness} {
		if v := rep.Verdict(name); v.State != NotShown || !v.Aside || v.Says == "" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if rep := verified(t, nil, data); rep.OK() || rep.Verdict(Integrity).State != Holds || !strings.HasPrefix(rep.Verdict(Origin).Says, "self-declared") {
		t.Errorf("without a policy: %+v", rep.Verdicts)
	}
	// Each part is a proof that foreign tools read.
	for i, part := range proofsOf(data) {
		if _, err := ledger.Verify(m.policy, part, m.logs[0].leaves[i+1]); err != nil {
			t.Errorf("part %d: %v", i, err)
		}
	}
}

func TestAttacksOnReceipts(t *testing.T) {
	tests := []struct {
		name          string
		change        func(t *testing.T, m *aMesh, r *Receipt)
		verdict, says string
	}{
		{"another leaf", func(t *testing.T, m *aMesh, r *Receipt) { r.Leaves[0].Entry = m.logs[0].leaves[3] }, Integrity, "not what stands there"},
		{"another index", func(_ *testing.T, _ *aMesh, r *Receipt) { r.Leaves[0].Index = 0 }, Integrity, "not what stands there"},
		{"another proof", func(_ *testing.T, _ *aMesh, r *Receipt) { r.Leaves[0].Hashes[0][5] ^= 1 }, Integrity, "not what stands there"},
		{"newer than its checkpoint", func(t *testing.T, m *aMesh, r *Receipt) {
			old, err := ledger.ParseSignedCheckpoint(m.logs[0].note(t, 2, m.logs[0].root(2)))
			if err != nil {
				t.Fatal(err)
			}
			r.Checkpoint = old
		}, Freshness, "newer than the receipt's checkpoint"},
		{"re-keyed", func(t *testing.T, m *aMesh, r *Receipt) {
			*r = *newMesh(t, "other").logs[0].receipt(t, 1)
		}, Origin, "signature"},
		{"not witnessed", func(t *testing.T, m *aMesh, r *Receipt) {
			m.logs[0].cosignedBy = nil
			*r = *m.logs[0].receipt(t, 1)
		}, Consistency, "not witnessed"},
		{"of an unlawful placement", func(t *testing.T, m *aMesh, r *Receipt) {
			j := m.logs[0].here("EU")
			j.Facts.Country = "US"
			i := m.logs[0].add(t, kindAssign, judging(j))
			*r = *m.logs[0].receipt(t, i)
		}, Law, "is refused"},
		{"of a law pack that is nowhere", func(t *testing.T, m *aMesh, r *Receipt) {
			j := m.logs[0].here("EU")
			j.LawPack = "sha256:" + strings.Repeat("ab", 32)
			i := m.logs[0].add(t, kindAssign, judging(j))
			*r = *m.logs[0].receipt(t, i)
		}, Law, "not here"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m := newMesh(t, "")
			r := m.logs[0].receipt(t, 1, 2)
			tc.change(t, m, r)
			rep := verified(t, m.policy, encoded(t, r))
			v := rep.Verdict(tc.verdict)
			if rep.OK() || v.State == Holds || !strings.Contains(strings.Join(v.Findings, "\n"), tc.says) {
				t.Errorf("%s is %s: %q, want %q; all: %+v", tc.verdict, v.State, v.Findings, tc.says, rep.Verdicts)
			}
		})
	}
}

// No byte of a receipt can change, and none be missing or too many.
func TestEveryByteOfAReceiptCounts(t *testing.T) {
	m := newMesh(t, "")
	data := encoded(t, m.logs[0].receipt(t, 1, 2))
	for i := range data {
		for _, bit := range []byte{1, 0x20} {
			bad := bytes.Clone(data)
			bad[i] ^= bit
			if rep := verified(t, m.policy, bad); rep.OK() {
				t.Fatalf("bit %#x of byte %d changed, and all holds: %q", bit, i, lineAt(bad, i))
			}
		}
		// A receipt of fewer leaves is a receipt of fewer leaves.
		if rep := verified(t, m.policy, data[:i]); rep.OK() && len(proofsOf(data)[0]) != i {
			t.Fatalf("cut at %d, and all holds", i)
		}
	}
	if rep := verified(t, m.policy, append(bytes.Clone(data), '\n')); rep.OK() {
		t.Error("a byte too many, and all holds")
	}
}

func FuzzReceipt(f *testing.F) {
	m := newMesh(f, "")
	f.Add(encoded(f, m.logs[0].receipt(f, 1, 2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseReceipt(data)
		if err != nil {
			return
		}
		if again, err := r.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("what was read has another encoding: %v", err)
		}
	})
}

// Two files of one log that differ show the fork, whoever signed them.
func TestFilesAreComparedWithEachOther(t *testing.T) {
	m, forked := newMesh(t, ""), newMesh(t, "")
	l := forked.logs[0]
	l.leaves, l.sizes = l.leaves[:4], nil
	l.add(t, "job.submit", judging(l.here("EU")))
	l.sign()
	a := NewAuditor(m.policy, Options{Now: noon, Several: true})
	for name, data := range map[string][]byte{"whole.tar": packed(t, m.files(t)), "receipt.txt": encoded(t, l.receipt(t, 4))} {
		if err := a.Read(name, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	for _, rep := range a.Reports() {
		if v := rep.Verdict(Consistency); rep.OK() || v.State != Fails || !strings.Contains(v.Says, "the log was forked") {
			t.Errorf("%s: %+v", rep.File, v)
		}
	}
}

// What files say of how many leaves there are is not counted through.
func TestFilesAreComparedByWhatTheyHave(t *testing.T) {
	m := newMesh(t, "")
	files := m.files(t)
	files[1].data = bytes.ReplaceAll(files[1].data, []byte("\"end\": 7"), []byte("\"end\": 9000000000000000000"))
	far := m.logs[0].receipt(t, 1, 2)
	far.Leaves[1].Index = 1 << 62
	for name, data := range map[string][]byte{"pack": packed(t, files), "receipt": encoded(t, far)} {
		a := NewAuditor(m.policy, Options{Now: noon, Several: true})
		for range 2 {
			if err := a.Read(name, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan []*Report, 1)
		go func() { done <- a.Reports() }()
		select {
		case reports := <-done:
			if reports[0].OK() || reports[1].OK() {
				t.Errorf("%s: it holds", name)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: nothing comes of it", name)
		}
	}
}

// An auditor that would not compare files does not take a second one.
func TestFilesCannotBeReadUncompared(t *testing.T) {
	m := newMesh(t, "")
	data := encoded(t, m.logs[0].receipt(t, 1))
	for name, a := range map[string]*Auditor{"one": NewAuditor(m.policy, Options{Now: noon}), "late": NewAuditor(m.policy, Options{Now: noon, Several: true})} {
		if err := a.Read("first", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if name == "late" {
			before := a.Reports()[0]
			if again := a.Reports()[0]; len(again.NotShownHere) != len(before.NotShownHere) {
				t.Errorf("reports differ: %q and %q", before.NotShownHere, again.NotShownHere)
			}
		}
		var wrong *Misuse
		if err := a.Read("second", bytes.NewReader(data)); !errors.As(err, &wrong) {
			t.Errorf("%s: a second file is taken: %v", name, err)
		}
	}
}
