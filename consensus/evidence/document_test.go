package evidence

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// answered is a segment of inference receipts in a log, with the node that made
// them.
type answered struct {
	l      *aLog
	node   *identity.Credential
	leaf   uint64 // of the ledger
	seq    uint64
	keys   []ledger.Salt
	leaves [][]byte
}

// credential certifies a node of the log's region.
func (l *aLog) credential(t testing.TB, node string, when time.Time) *identity.Credential {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := l.ca.IssueNode(csr, placement.NodeID(node), when, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.NewCredential(key, chain)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answers adds a segment of n receipts.
func (l *aLog) answers(t testing.TB, seq, n int, prev string) *answered {
	t.Helper()
	a := &answered{l: l, seq: uint64(seq)}
	when := at(len(l.leaves)).Add(-time.Second)
	for i := range n {
		random := seed("answer", l.region, fmt.Sprint(seq, i))
		key := ledger.Salt(random[:16])
		leaf := receipt.Leaf{
			Salt: receipt.SaltOf(key), RequestID: fmt.Sprintf("req_%d_%d", seq, i), Request: receipt.Commit(key, receipt.OfRequest, []byte("hello")), Model: "m", Tag: "EEA",
			LawPack: "p", Entry: ledger.Opaque(key, "n1"), Region: l.region, Start: when.Add(-time.Millisecond), End: when, Outcome: receipt.Answered, Status: 200, Evidence: receipt.Required,
		}
		data, err := leaf.Encode()
		if err != nil {
			t.Fatal(err)
		}
		a.keys, a.leaves = append(a.keys, key), append(a.leaves, data)
	}
	a.leaf = l.add(t, kindSegment, showing(ledger.ShownChain, "h:1"), showing(ledger.ShownSegment, fmt.Sprint(seq)), showing(ledger.ShownCount, fmt.Sprint(n)),
		showing(ledger.ShownRoot, a.root()), showing(ledger.ShownPrev, prev),
		showing(ledger.ShownFrom, when.Add(-time.Millisecond).Format(time.RFC3339Nano)), showing(ledger.ShownTo, when.Format(time.RFC3339Nano)))
	l.answered = append(l.answered, a)
	return a
}

// third is a segment behind the story's two.
func (l *aLog) third(t testing.TB, n int) *answered {
	a := l.answers(t, 3, n, l.named("bb"))
	a.node = l.credential(t, "n1", noon)
	return a
}

func (a *answered) root() string {
	root := receipt.Root(a.leaves)
	return hex.EncodeToString(root[:])
}

// kept are the receipts as a pack has them.
func (a *answered) kept() (out []receipt.Kept) {
	for _, l := range a.leaves {
		out = append(out, receipt.Kept{Leaf: l, Hash: ledger.HashLeaf(l)})
	}
	return out
}

// document is receipt i as its owner is given it.
func (a *answered) document(t testing.TB, i int) *receipt.Document {
	t.Helper()
	d := &receipt.Document{ID: receipt.ID{Region: a.l.region, Chain: "1", Seq: a.seq, Index: uint64(i)}.String(), State: receipt.Committed, Leaf: a.leaves[i], Key: a.keys[i][:]}
	l, err := receipt.Decode(a.leaves[i])
	if err != nil {
		t.Fatal(err)
	}
	d.Says = l.Words()
	d.Prove(a.seq, uint64(i), uint64(len(a.leaves)), receipt.Root(a.leaves), receipt.Path(receipt.HashesOf(a.leaves), i))
	d.Ledger = &receipt.LedgerProof{Leaf: a.leaf, Proof: string(encoded(t, a.l.receipt(t, a.leaf)))}
	a.sign(t, d, at(len(a.l.leaves)))
	return d
}

func (a *answered) sign(t testing.TB, d *receipt.Document, when time.Time) {
	t.Helper()
	var err error
	if d.Promise, err = identity.Sign(a.node, receipt.PromiseContext, d.Payload(), when); err != nil {
		t.Fatal(err)
	}
}

func written(t testing.TB, d *receipt.Document) []byte {
	t.Helper()
	data, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheReceiptOfARequestHolds(t *testing.T) {
	for _, n := range []int{1, 2, 7} {
		m := newMesh(t, "")
		a := m.logs[0].third(t, n)
		data := written(t, a.document(t, n/2))
		// Years later, when no certificate lives any more.
		rep, err := Verify(m.policy, bytes.NewReader(data), Options{Now: noon.AddDate(3, 0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if r := rep.Receipt; !rep.OK() || rep.Kind != KindInference || r.State != receipt.Committed || r.Says.RequestID != fmt.Sprintf("req_3_%d", n/2) || !strings.HasSuffix(r.Node, "/node/n1") {
			t.Fatalf("%+v", rep)
		}
		if rep := verified(t, nil, data); rep.OK() || !strings.HasPrefix(rep.Verdict(Origin).Says, "self-declared") {
			t.Errorf("without a policy: %+v", rep.Verdicts)
		}
		var text bytes.Buffer
		if err := WriteText(&text, []*Report{rep}); err != nil || !strings.Contains(text.String(), "for model m: answered 200") {
			t.Errorf("%v\n%s", err, text.String())
		}
	}
}

func TestAttacksOnReceiptsOfRequests(t *testing.T) {
	tests := []struct {
		name          string
		change        func(t *testing.T, m *aMesh, a *answered, d *receipt.Document)
		verdict, says string
	}{
		{"the receipt of another index", func(t *testing.T, _ *aMesh, a *answered, d *receipt.Document) {
			d.ID = strings.TrimSuffix(d.ID, "2") + "3"
			a.sign(t, d, at(20))
		}, Integrity, "the proof is for receipt 2"},
		{"the receipt of another segment", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			// The ledger's leaf is of segment 2, whose root is another.
			d.Ledger = &receipt.LedgerProof{Leaf: 5, Proof: string(encoded(t, a.l.receipt(t, 5)))}
		}, Integrity, "the ledger's leaf has"},
		{"a leaf of another kind", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			d.Ledger = &receipt.LedgerProof{Leaf: 1, Proof: string(encoded(t, a.l.receipt(t, 1)))}
		}, Integrity, "is no segment"},
		{"two leaves", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			d.Ledger.Proof = string(encoded(t, a.l.receipt(t, 5, a.leaf)))
		}, Integrity, "of other leaves"},
		{"another region's ledger", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			b := m.logs[1].third(t, 5)
			d.Ledger = &receipt.LedgerProof{Leaf: b.leaf, Proof: string(encoded(t, b.l.receipt(t, b.leaf)))}
		}, Integrity, "another region's"},
		{"another answer", func(t *testing.T, _ *aMesh, a *answered, d *receipt.Document) {
			l, _ := receipt.Decode(d.Leaf)
			l.Response = ledger.Hash{9}
			d.Leaf, _ = l.Encode()
			d.Says = l.Words()
			a.sign(t, d, at(20))
		}, Integrity, "not what stands in its segment"},
		{"other words", func(_ *testing.T, _ *aMesh, _ *answered, d *receipt.Document) { d.Says.Region = "par-1" }, Integrity, "its words"},
		{"another key", func(_ *testing.T, _ *aMesh, _ *answered, d *receipt.Document) { d.Key = bytes.Repeat([]byte{1}, 16) }, Integrity, "its key"},
		{"another continuation", func(_ *testing.T, _ *aMesh, _ *answered, d *receipt.Document) { d.Next = "fra-1.1.4.0" }, Origin, "signed another"},
		{"signed by another node", func(t *testing.T, _ *aMesh, a *answered, d *receipt.Document) {
			a.node = a.l.credential(t, "n2", noon)
			a.sign(t, d, at(20))
		}, Origin, "not the node"},
		{"signed by another region's node", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			a.node = m.logs[1].credential(t, "n1", noon)
			a.sign(t, d, at(20))
		}, Origin, "does not count"},
		{"signed before its certificate", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			a.sign(t, d, noon.AddDate(0, 0, -9))
		}, Origin, "does not count"},
		{"re-keyed", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			*d = *newMesh(t, "other").logs[0].third(t, 5).document(t, 2)
		}, Origin, "signature"},
		{"not witnessed", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			a.l.cosignedBy = nil
			d.Ledger.Proof = string(encoded(t, a.l.receipt(t, a.leaf)))
		}, Consistency, "not witnessed"},
		{"no proof yet", func(_ *testing.T, _ *aMesh, _ *answered, d *receipt.Document) { d.Ledger.Proof = "" }, Completeness, "the proof of that was not there yet"},
		{"a promise of this moment", func(t *testing.T, _ *aMesh, a *answered, d *receipt.Document) {
			d.State, d.Segment, d.Ledger = receipt.Promised, nil, nil
			a.sign(t, d, at(7).Add(10*time.Second))
		}, Completeness, "is promised, and was not committed yet"},
		{"a promise without a commit", func(t *testing.T, _ *aMesh, a *answered, d *receipt.Document) {
			d.State, d.Segment, d.Ledger = receipt.Promised, nil, nil
			a.sign(t, d, at(7).Add(time.Hour))
		}, Completeness, "is MISSING from the ledger"},
		{"missing", func(_ *testing.T, _ *aMesh, _ *answered, d *receipt.Document) {
			*d = receipt.Document{ID: d.ID, State: receipt.Missing}
		}, Completeness, "is MISSING"},
		{"erased", func(_ *testing.T, _ *aMesh, _ *answered, d *receipt.Document) {
			*d = receipt.Document{ID: d.ID, State: receipt.Erased}
		}, Completeness, "is erased"},
		{"of a region that the policy does not know", func(t *testing.T, m *aMesh, a *answered, d *receipt.Document) {
			m.policy = newMesh(t, "").policy // same log keys, other roots
		}, Origin, "does not count"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m := newMesh(t, "")
			a := m.logs[0].third(t, 5)
			d := a.document(t, 2)
			tc.change(t, m, a, d)
			rep := verified(t, m.policy, written(t, d))
			v := rep.Verdict(tc.verdict)
			if rep.OK() || v.State == Holds || !strings.Contains(strings.Join(v.Findings, "\n"), tc.says) {
				t.Errorf("%s is %s: %q, want %q; all: %+v", tc.verdict, v.State, v.Findings, tc.says, rep.Verdicts)
			}
		})
	}
}

// The times of a receipt are those of its segment: a node that writes down
// another day is found out.
func TestARequestsTimesAreItsSegments(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	a := l.third(t, 1)
	one, err := receipt.Decode(a.leaves[0])
	if err != nil {
		t.Fatal(err)
	}
	one.Start, one.End = one.Start.AddDate(0, 0, -1), one.End.AddDate(0, 0, -1)
	if a.leaves[0], err = one.Encode(); err != nil {
		t.Fatal(err)
	}
	root, now := receipt.Root(a.leaves), at(len(l.leaves)).Format(time.RFC3339Nano)
	a.seq = 4
	a.leaf = l.add(t, kindSegment, showing(ledger.ShownChain, "h:1"), showing(ledger.ShownSegment, "4"), showing(ledger.ShownCount, "1"),
		showing(ledger.ShownRoot, hex.EncodeToString(root[:])), showing(ledger.ShownFrom, now), showing(ledger.ShownTo, now))
	if rep := verified(t, m.policy, written(t, a.document(t, 0))); rep.Verdict(Time).State != Fails || !strings.Contains(rep.Verdict(Time).Says, "not of its segment") {
		t.Errorf("%+v", rep.Verdicts)
	}
}

// No byte of a receipt can change, and none be missing or too many.
func TestEveryByteOfARequestsReceiptCounts(t *testing.T) {
	m := newMesh(t, "")
	d := m.logs[0].third(t, 3).document(t, 1)
	d.Next = "fra-1.1.4.0"
	(&answered{l: m.logs[0], node: m.logs[0].credential(t, "n1", noon)}).sign(t, d, at(20))
	data := written(t, d)
	if !verified(t, m.policy, data).OK() {
		t.Fatal("it does not hold as it is")
	}
	for i := range data {
		for _, bit := range []byte{1, 0x20} {
			bad := bytes.Clone(data)
			bad[i] ^= bit
			if verified(t, m.policy, bad).OK() {
				t.Fatalf("bit %#x of byte %d changed, and all holds: %q", bit, i, bad[max(0, i-20):min(len(bad), i+20)])
			}
		}
		if verified(t, m.policy, data[:i]).OK() {
			t.Fatalf("cut at %d, and all holds", i)
		}
	}
	if verified(t, m.policy, append(bytes.Clone(data), '\n')).OK() || verified(t, m.policy, append([]byte{' '}, data...)).OK() {
		t.Error("a byte too many, and all holds")
	}
}

func FuzzDocument(f *testing.F) {
	m := newMesh(f, "")
	f.Add(written(f, m.logs[0].third(f, 3).document(f, 1)))
	f.Add([]byte(`{"id":"fra-1.1.3.1","state":"missing"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 || data[0] != '{' {
			return
		}
		rep, err := Verify(m.policy, bytes.NewReader(data), Options{Now: noon})
		if err != nil {
			t.Fatal(err)
		}
		if d, err := receipt.ParseDocument(data); err == nil && (rep.Receipt == nil || d.State != receipt.Committed) && rep.OK() {
			t.Fatalf("%s holds", data)
		}
	})
}
