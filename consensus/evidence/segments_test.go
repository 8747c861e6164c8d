package evidence

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// replaced puts a run of segments into the place of the region's.
func replaced(files []file, region string, run []byte) (out []file) {
	for _, f := range files {
		if f.name == runName(region, dirSegments, 0) {
			f.data = run
		}
		if f.data != nil {
			out = append(out, f)
		}
	}
	return out
}

func TestReceiptsAgainstTheirSegment(t *testing.T) {
	other := func(r []receipt.Kept, i int, leaf []byte) []receipt.Kept {
		r = slices.Clone(r)
		r[i] = receipt.Kept{Leaf: leaf, Hash: ledger.HashLeaf(leaf)}
		return r
	}
	tests := []struct {
		name    string
		change  func(a []*answered) []byte
		verdict string // that does not hold; empty if all do
		says    string
	}{
		{"as they were", nil, "", ""},
		{"of one the hash alone", func(a []*answered) []byte {
			r := a[0].kept()
			r[3].Leaf = nil
			return AppendSegment(AppendSegment(nil, a[0].leaf, r), a[1].leaf, a[1].kept())
		}, "", ""},
		{"one changed", func(a []*answered) []byte {
			return AppendSegment(nil, a[0].leaf, other(a[0].kept(), 3, append(bytes.Clone(a[0].leaves[3]), '!')))
		}, Integrity, "not those that it commits to"},
		{"a hash changed", func(a []*answered) []byte {
			r := a[0].kept()
			r[3] = receipt.Kept{}
			return AppendSegment(nil, a[0].leaf, r)
		}, Integrity, "not those that it commits to"},
		{"one left out", func(a []*answered) []byte { return AppendSegment(nil, a[0].leaf, a[0].kept()[1:]) }, Integrity, "segment of 5 receipts, and 4"},
		{"two exchanged", func(a []*answered) []byte {
			r := a[0].kept()
			r[1], r[2] = r[2], r[1]
			return AppendSegment(nil, a[0].leaf, r)
		}, Integrity, "not those"},
		{"one more", func(a []*answered) []byte {
			return AppendSegment(nil, a[0].leaf, append(a[0].kept(), a[0].kept()[0]))
		}, Integrity, "and 6 are here"},
		{"of another leaf", func(a []*answered) []byte { return AppendSegment(nil, a[0].leaf-1, a[0].kept()) }, Integrity, "no segment of this pack"},
		{"twice", func(a []*answered) []byte {
			return AppendSegment(AppendSegment(nil, a[0].leaf, a[0].kept()), a[0].leaf, a[0].kept())
		}, Integrity, "they come twice"},
		{"the second left out", func(a []*answered) []byte { return AppendSegment(nil, a[0].leaf, a[0].kept()) }, Completeness, "the inference receipts of 1 segment of chain h:1, leaves 5 to 5, are not here"},
		{"the first left out", func(a []*answered) []byte { return AppendSegment(nil, a[1].leaf, a[1].kept()) }, Completeness, "leaves 4 to 4, are not here"},
		{"all left out", func([]*answered) []byte { return nil }, Completeness, "2 segments of chain h:1, leaves 4 to 5, are not here: the pack does not say why"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m := newMesh(t, "")
			files := m.files(t)
			if tc.change != nil {
				files = replaced(files, "ber-1", tc.change(m.logs[1].answered))
			}
			rep := verified(t, m.policy, packed(t, files))
			if tc.verdict == "" {
				if !rep.OK() {
					t.Fatalf("%+v", rep.Verdicts)
				}
				return
			}
			if v := rep.Verdict(tc.verdict); rep.OK() || v.State == Holds || !strings.Contains(strings.Join(v.Findings, "\n"), tc.says) {
				t.Errorf("%s is %s: %q; all: %+v", tc.verdict, v.State, v.Findings, rep.Verdicts)
			}
		})
	}
}

// A segment of what is no receipt, or of another day's, was committed as it is:
// the root holds, and the receipts are judged by themselves.
func TestReceiptsAreJudgedByThemselves(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	a := l.answers(t, 3, 2, l.named("bb"))
	one, err := receipt.Decode(a.leaves[0])
	if err != nil {
		t.Fatal(err)
	}
	one.Start = one.Start.AddDate(0, 0, -1)
	if a.leaves[0], err = one.Encode(); err != nil {
		t.Fatal(err)
	}
	a.leaves[1] = []byte("what is no receipt")
	l.answered, l.leaves, l.roots["cc"] = l.answered[:2], l.leaves[:a.leaf], a.root()
	now := at(len(l.leaves)).Format(time.RFC3339Nano)
	a.leaf = l.add(t, kindSegment, showing(ledger.ShownChain, "h:1"), showing(ledger.ShownSegment, "3"), showing(ledger.ShownCount, "2"),
		showing(ledger.ShownRoot, a.root()), showing(ledger.ShownPrev, l.named("bb")), showing(ledger.ShownFrom, now), showing(ledger.ShownTo, now))
	l.answered = append(l.answered, a)
	l.sign()
	rep := verified(t, m.policy, packed(t, m.files(t)))
	if v := rep.Verdict(Time); v.State != Fails || !strings.Contains(v.Says, "receipt 0 of leaf 7") {
		t.Errorf("%+v", v)
	}
	if v := rep.Verdict(Integrity); v.State != Fails || !strings.Contains(v.Says, "receipt 1 of leaf 7") {
		t.Errorf("%+v", v)
	}
}

// An export has the receipts of its time, and says of which nodes it has none.
func TestAnExportHasReceiptsOrSaysThatItHasNone(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	rep := verified(t, m.policy, exported(t, l.exporter(t)))
	mustHold(t, rep)
	if r := rep.Regions[0]; r.Receipts != 10 || r.Absent != 0 {
		t.Errorf("%+v", r)
	}
	absent := func(why string, of ...uint64) *Exporter {
		e := l.exporter(t)
		all := e.Segments
		e.Segments = func(ctx context.Context, chain string, seq uint64) ([]receipt.Kept, error) {
			if slices.Contains(of, seq) {
				return nil, &AbsentError{why}
			}
			return all(ctx, chain, seq)
		}
		return e
	}
	for why, words := range absences() {
		for _, of := range [][]uint64{{1}, {2}, {1, 2}} {
			rep := verified(t, m.policy, exported(t, absent(why, of...)))
			v := rep.Verdict(Completeness)
			if rep.OK() || v.State != NotShown || !strings.Contains(v.Says, words) || rep.Regions[0].Absent != uint64(len(of)) {
				t.Errorf("%s %v: %+v", why, of, v)
			}
		}
	}
	// With a filter the region chooses: what it could not have it says, and that it
	// chose is among what is not shown.
	e := absent(AbsentAway, 2)
	e.Filter.Tenant = "acme"
	if rep := verified(t, m.policy, exported(t, e)); rep.Verdict(Completeness).State != NotShown {
		t.Errorf("%+v", rep.Verdicts)
	}
	e = l.exporter(t)
	e.Filter.Tenant = "acme"
	all := e.Segments
	e.Segments = func(ctx context.Context, chain string, seq uint64) ([]receipt.Kept, error) {
		if seq == 1 {
			return nil, nil
		}
		r, err := all(ctx, chain, seq)
		for i := range r[1:] {
			r[i+1].Leaf = nil
		}
		return r, err
	}
	data := exported(t, e)
	rep = verified(t, m.policy, data)
	mustHold(t, rep)
	if rep.Regions[0].Receipts != 1 || !strings.Contains(strings.Join(rep.NotShownHere, "\n"), "region fra-1 chose them") {
		t.Errorf("%+v", rep)
	}
	if bytes.Contains(data, []byte("req_2_1")) || !bytes.Contains(data, []byte("req_2_0")) {
		t.Error("the pack has another tenant's receipt, or not the tenant's own")
	}
	// A node that gives other receipts than it committed.
	e = l.exporter(t)
	e.Segments = func(ctx context.Context, chain string, seq uint64) ([]receipt.Kept, error) {
		r, err := all(ctx, chain, seq)
		r[0] = receipt.Kept{Leaf: []byte("x"), Hash: ledger.HashLeaf([]byte("x"))}
		return r, err
	}
	if rep := verified(t, m.policy, exported(t, e)); rep.Verdict(Completeness).State != NotShown || !strings.Contains(rep.Verdict(Completeness).Says, "not what it committed") {
		t.Errorf("%+v", rep.Verdicts)
	}
	// A node that goes away in the middle breaks the export off.
	e = l.exporter(t)
	asked := 0
	e.Segments = func(ctx context.Context, chain string, seq uint64) ([]receipt.Kept, error) {
		if asked++; asked > 2 {
			return nil, &AbsentError{AbsentAway}
		}
		return all(ctx, chain, seq)
	}
	if err := e.Write(t.Context(), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "a moment ago") {
		t.Errorf("%v", err)
	}
}

// What is said to be absent must be of the pack.
func TestAbsenceIsOfThePack(t *testing.T) {
	m := newMesh(t, "")
	e := m.logs[0].exporter(t)
	e.Segments = func(context.Context, string, uint64) ([]receipt.Kept, error) {
		return nil, &AbsentError{AbsentAway}
	}
	files := unpacked(t, exported(t, e))
	for _, change := range []func(*Absent){
		func(a *Absent) { a.Last = 99 }, func(a *Absent) { a.First, a.Last = 5, 4 }, func(a *Absent) { a.Why = "because" },
	} {
		d, err := ParseDescription(files[1].data)
		if err != nil {
			t.Fatal(err)
		}
		change(&d.Regions[0].Absent[0])
		changed := slices.Clone(files)
		if changed[1].data, err = d.Encode(); err != nil {
			t.Fatal(err)
		}
		if rep := verified(t, m.policy, packed(t, changed)); rep.Verdict(Completeness).State != Fails {
			t.Errorf("%+v", rep.Verdicts)
		}
	}
}

func FuzzSegments(f *testing.F) {
	f.Add(AppendSegment(AppendSegment(nil, 3, []receipt.Kept{{Leaf: []byte("a")}, {Leaf: []byte("bc")}, {Hash: ledger.Hash{1}}}), 9, nil))
	f.Add(binary.BigEndian.AppendUint32(make([]byte, 8), 1<<31))
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		err := ParseSegments(data, func(leaf uint64, receipts []receipt.Kept) error {
			again = AppendSegment(again, leaf, receipts)
			return nil
		})
		switch {
		case err == nil && !slices.Equal(again, data):
			t.Fatalf("%x is read, and written as %x", data, again)
		case err != nil && !errors.Is(err, ErrArchive):
			t.Fatal(err)
		}
	})
}
