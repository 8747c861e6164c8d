package state

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// logKey makes a key of a log.
func logKey(t testingT, name string) (private, public string) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func signedNote(t testingT, private, origin string, size uint64, root ledger.Hash) string {
	t.Helper()
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: checkpointText(origin, size, root)}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

// logFixture is a region with a log key.
func logFixture(t testingT) (f *fixture, private string) {
	t.Helper()
	private, public := logKey(t, "fra-1.mesh.example/ledger")
	f = &fixture{t: t, s: New(), now: day}
	first := firstCommand()
	first.Region.LogKey = public
	f.ok(first)
	return f, private
}

// silent applies a command that may leave no leaf.
func (f *fixture) silent(code string, c Command) Result {
	f.t.Helper()
	size, root := f.s.LedgerSize(), f.s.LedgerRoot()
	r := f.apply(c)
	if got := ""; r.Refused != nil {
		if got = r.Refused.Code; got != code {
			f.t.Fatalf("%T: refused as %s: %s; want %q", c, got, r.Refused.Message, code)
		}
	} else if code != "" {
		f.t.Fatalf("%T was accepted, want %s", c, code)
	}
	if f.s.LedgerSize() != size || f.s.LedgerRoot() != root {
		f.t.Errorf("%T left a leaf: the log would grow by its own signatures", c)
	}
	return r
}

func TestOnlyWhatWasCommittedIsSigned(t *testing.T) {
	f, key := logFixture(t)
	f.submit(1, "FR")
	f.silent("", MarkLog{})
	m := f.s.LogMarks()[0]
	f.submit(2, "FR") // signing comes late, and the log has grown
	origin := f.s.LogOrigin()
	other, _ := logKey(t, origin)
	wrong := m.Root
	wrong[0] ^= 1
	f.silent("checkpoint.root", SignLog{m.Size, signedNote(t, key, origin, m.Size, wrong)})
	f.silent("checkpoint.root", SignLog{m.Size, signedNote(t, key, origin, m.Size+1, m.Root)})
	f.silent("checkpoint.root", SignLog{m.Size, signedNote(t, key, "ber-1.mesh.example/ledger", m.Size, m.Root)})
	f.silent("checkpoint.signature", SignLog{m.Size, signedNote(t, other, origin, m.Size, m.Root)})
	f.silent("checkpoint.unmarked", SignLog{m.Size + 1, signedNote(t, key, origin, m.Size+1, m.Root)})
	if len(f.s.Checkpoints()) != 0 {
		t.Fatal("a false checkpoint was kept")
	}
	f.silent("", SignLog{m.Size, signedNote(t, key, origin, m.Size, m.Root)})
	if all := f.s.Checkpoints(); len(all) != 1 || all[0].Size != m.Size {
		t.Fatalf("checkpoints: %+v", all)
	}
}

func cosigner(t testing.TB, name string, seed byte) *ledger.Cosigner {
	t.Helper()
	w, err := ledger.NewCosigner(name, ledger.CosignatureEd25519, [ledger.SeedSize]byte{seed})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// cosigned is a witness's line over a checkpoint.
func cosigned(t testing.TB, w *ledger.Cosigner, c ledger.Checkpoint) string {
	t.Helper()
	sig, err := w.Cosign(c, time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(ledger.EncodeSignatures([]ledger.Signature{sig})), "\n")
}

func TestCosignaturesOfWitnessesOnly(t *testing.T) {
	f, key := logFixture(t)
	f.silent("", MarkLog{})
	m := f.s.LogMarks()[0]
	f.silent("", SignLog{m.Size, signedNote(t, key, f.s.LogOrigin(), m.Size, m.Root)})
	w := cosigner(t, "outside.example/w", 1)
	here := ledger.Checkpoint{Origin: f.s.LogOrigin(), Size: m.Size, Root: m.Root}
	line := cosigned(t, w, here)
	f.silent("checkpoint.witness", CosignLog{m.Size, []string{line}})
	f.ok(PutWitness{Key: w.Verifier().String(), URL: "https://outside.example/w"})
	f.silent("checkpoint.cosignature", CosignLog{m.Size, []string{line + "\n— second AAAA"}})
	elsewhere := here
	elsewhere.Root[0] ^= 1
	for what, false := range map[string]string{
		"no signature at all":   "— outside.example/w AAAAAAAA",
		"one of another key":    cosigned(t, cosigner(t, "outside.example/w", 2), here),
		"one over another log":  cosigned(t, w, elsewhere),
		"one over another size": cosigned(t, w, ledger.Checkpoint{Origin: here.Origin, Size: m.Size + 1, Root: m.Root}),
	} {
		f.silent("checkpoint.cosignature", CosignLog{m.Size, []string{false}})
		if c := f.s.Checkpoints()[0]; len(c.Witnesses) != 0 || strings.Contains(c.Note, false) {
			t.Errorf("%s counts as the witness's: %v", what, c.Witnesses)
		}
	}
	f.silent("checkpoint.gone", CosignLog{m.Size + 7, []string{line}})
	f.silent("", CosignLog{m.Size, []string{line}})
	f.silent("", CosignLog{m.Size, []string{line}}) // said twice
	c := f.s.Checkpoints()[0]
	if strings.Count(c.Note, line+"\n") != 1 || len(c.Witnesses) != 1 {
		t.Errorf("the checkpoint is %q of %v", c.Note, c.Witnesses)
	}
	f.ok(DropWitness{Name: "outside.example/w"})
	f.refused("witness.unknown", DropWitness{Name: "outside.example/w"})
}

// foreignLog is a log of a peer region that grows.
type foreignLog struct {
	key    string
	origin string
	hashes []tlog.Hash
	size   int64
}

func (l *foreignLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *foreignLog) grow(t testingT, n int, word string) {
	for range n {
		hashes, err := tlog.StoredHashes(l.size, fmt.Appendf(nil, "%s %d", word, l.size), l)
		if err != nil {
			t.Fatal(err)
		}
		l.hashes, l.size = append(l.hashes, hashes...), l.size+1
	}
}

func (l *foreignLog) advance(t testingT, old int64) AdvanceOrigin {
	root, err := tlog.TreeHash(l.size, l)
	if err != nil {
		t.Fatal(err)
	}
	k := AdvanceOrigin{Origin: l.origin, Old: uint64(old), Note: signedNote(t, l.key, l.origin, uint64(l.size), ledger.Hash(root))}
	if old > 0 && old < l.size {
		proof, err := tlog.ProveTree(l.size, old, l)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range proof {
			k.Proof = append(k.Proof, h[:])
		}
	}
	return k
}

func TestAWitnessSeesForks(t *testing.T) {
	f, _ := logFixture(t)
	private, public := logKey(t, "ber-1.mesh.example/ledger")
	peer := aPeer("ber-1", "DE")
	peer.LogKey = public
	f.ok(PutPeer{Region: peer})
	log := &foreignLog{key: private, origin: "ber-1.mesh.example/ledger"}
	log.grow(t, 5, "a")
	f.silent("witness.origin", log.advance(t, 0)) // not approved yet
	f.ok(ApprovePeer{"ber-1", "f-ber-1"})

	f.silent("", log.advance(t, 0))
	fork := &foreignLog{key: private, origin: log.origin}
	fork.grow(t, 5, "b")
	f.silent("witness.fork", fork.advance(t, 5))
	fork.grow(t, 3, "b")
	f.silent("witness.proof", fork.advance(t, 5))
	log.grow(t, 4, "a")
	next := log.advance(t, 5)
	r := f.silent("witness.size", log.advance(t, 3))
	if r.Refused.Advice != "5" {
		t.Errorf("the witness says it has seen %q", r.Refused.Advice)
	}
	bare := next
	bare.Proof = nil
	f.silent("witness.proof", bare)
	forged := next
	forged.Note = strings.Replace(next.Note, "\n9\n", "\n8\n", 1)
	f.silent("witness.signature", forged)
	f.silent("", next)
	back := &foreignLog{key: private, origin: log.origin}
	back.grow(t, 5, "a")
	f.silent("witness.order", AdvanceOrigin{Origin: log.origin, Old: 9, Note: back.advance(t, 0).Note}) // yesterday's backup
	other := log.advance(t, 0)
	other.Origin = "ber-1.mesh.example/ledger/x"
	f.silent("witness.origin", other)
	if w := f.s.Witnessed(log.origin); w == nil || w.Size != 9 {
		t.Errorf("witnessed: %+v", w)
	}
}

// A log begun anew is another log, and its first leaf shows what it follows.
func TestALogBegunAnewQuotesTheOld(t *testing.T) {
	f, key := logFixture(t)
	id := f.submit(1, "FR")
	f.silent("", MarkLog{})
	m, old := f.s.LogMarks()[0], f.s.LogOrigin()
	last := signedNote(t, key, old, m.Size, m.Root)
	f.silent("", SignLog{m.Size, last})
	leaf := f.applyAs("", RestartLog{Previous: last})
	if f.s.LedgerSize() != 1 || f.s.LogOrigin() != old+"/2" || leaf.Get(ledger.ShownPrevious) != last || leaf.Get(ledger.ShownOrigin) != old+"/2" {
		t.Fatalf("size %d of %s; the leaf shows %+v", f.s.LedgerSize(), f.s.LogOrigin(), leaf.Shown)
	}
	if len(f.s.JobLeaves(id)) != 0 || len(f.s.Checkpoints()) != 0 {
		t.Error("what belongs to the old log is still held for the new")
	}
	f.silent("", MarkLog{})
	m = f.s.LogMarks()[0]
	key = renamed(t, key, f.s.self.LogKey, f.s.LogOrigin())
	f.silent("", SignLog{m.Size, signedNote(t, key, f.s.LogOrigin(), m.Size, m.Root)})
}

// renamed is the same private key under another name; the hash in it is that of
// name and public key.
func renamed(t testingT, private, public, name string) string {
	t.Helper()
	public = keyNamed(public, name)
	parts, secret := strings.SplitN(public, "+", 3), strings.SplitN(private, "+", 5)
	if len(parts) != 3 || len(secret) != 5 {
		t.Fatal("no keys")
	}
	return "PRIVATE+KEY+" + name + "+" + parts[1] + "+" + secret[4]
}

func TestSegmentsAreChained(t *testing.T) {
	f := newFixture(t)
	at := func(seq uint64, prev ledger.Hash) CommitSegment {
		return CommitSegment{Node: "n1", Seq: seq, Prev: prev, Root: ledger.Hash{byte(seq)}, Count: 3, From: day, To: day.Add(time.Second)}
	}
	f.refused("segment.chain", at(2, ledger.Hash{}))
	for _, actor := range []string{"node:n2", "node:n1@n2 192.0.2.1", "n1", "tok-1", ""} {
		if r := f.applyRaw(f.encodeAs(actor, at(1, ledger.Hash{}))); r.Refused == nil || r.Refused.Code != "segment.actor" {
			t.Errorf("%q begins the chain of n1: %+v", actor, r)
		}
	}
	f.ok(at(1, ledger.Hash{}))
	f.refused("segment.chain", at(1, ledger.Hash{}))
	f.refused("segment.chain", at(3, ledger.Hash{1}))
	f.refused("segment.chain", at(2, ledger.Hash{9}))
	f.ok(at(2, ledger.Hash{1}))
	none := at(3, ledger.Hash{2})
	none.Count = 0
	f.refused("segment.count", none)
	if s := f.s.Segment("n1"); s.Seq != 2 || s.Root != (ledger.Hash{2}) {
		t.Errorf("the chain ends at %+v", s)
	}
}

func TestJobsRememberTheirLeaves(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "FR")
	task := f.assign(id, "n1")
	f.report(task, placement.TaskRunning)
	leaves := f.s.JobLeaves(id)
	if len(leaves) < 3 {
		t.Fatalf("leaves of the job: %v", leaves)
	}
	for range 3 * MaxJobLeaves {
		f.ok(SetContact{Nodes: []placement.NodeID{"n1"}, Contact: placement.ContactUnknown})
		f.ok(SetContact{Nodes: []placement.NodeID{"n1"}, Contact: placement.ContactAlive})
	}
	now := f.s.JobLeaves(id)
	if len(now) != MaxJobLeaves || now[0] != leaves[0] || now[len(now)-1] != f.s.LedgerSize()-1 {
		t.Errorf("%d leaves, from %d to %d of %d", len(now), now[0], now[len(now)-1], f.s.LedgerSize())
	}
}
