package evidence

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// aRecovery is a region's log that ended, the one that was begun in its place,
// and a policy that names both.
type aRecovery struct {
	old, next *aLog
	policy    *ledger.Policy
	before    *ledger.Policy // of before the recovery
}

// recovered ends fra-1's log at its last signed size, or at another.
func recovered(t *testing.T, quote func(old *aLog, c ledger.Checkpoint) ledger.Checkpoint) *aRecovery {
	t.Helper()
	m := newMesh(t, "")
	r := &aRecovery{old: m.logs[0], before: m.policy}
	next := *r.old
	next.origin += "/2"
	next.leaves, next.sizes, next.openings = nil, nil, map[uint64][]byte{}
	var err error
	if next.signer, err = ledger.NewSigner(next.origin, seed("fra-1", "")); err != nil {
		t.Fatal(err)
	}
	size := r.old.sizes[len(r.old.sizes)-1]
	c := quote(r.old, ledger.Checkpoint{Origin: r.old.origin, Size: size, Root: r.old.root(size)})
	line, err := r.old.signer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	note, err := ledger.NewSignedCheckpoint(c, line)
	if err != nil {
		t.Fatal(err)
	}
	next.add(t, kindRestart, showing(ledger.ShownOrigin, next.origin), showing(ledger.ShownPrevious, string(note.Encode())))
	next.segment(t, 3, "bb", "cc") // the chain of a node goes on
	next.sign()
	r.next = &next
	var spec ledger.PolicySpec
	spec.Logs, spec.Roots, spec.Witnesses, spec.Quorum = m.policy.Logs(), m.policy.Roots(), m.policy.Witnesses(), "all"
	spec.Groups = []ledger.PolicyGroup{{Name: "all", Need: 1, Members: []string{"fra-1", "ber-1"}}}
	spec.Logs = append(spec.Logs, ledger.PolicyLog{Key: next.signer.Verifier()})
	if r.policy, err = ledger.NewPolicy(spec); err != nil {
		t.Fatal(err)
	}
	return r
}

func asItWas(_ *aLog, c ledger.Checkpoint) ledger.Checkpoint { return c }

// ended is a pack of the old log.
func (r *aRecovery) ended(t *testing.T) []byte {
	t.Helper()
	e := r.old.exporter(t)
	size := r.next.sizes[0]
	head := ledger.Head{Size: size, Root: r.next.root(size)}
	hashes, err := ledger.ProveInclusion(t.Context(), r.next.tiles(t), head, 0)
	if err != nil {
		t.Fatal(err)
	}
	note, err := ledger.ParseSignedCheckpoint(r.next.note(t, size, head.Root))
	if err != nil {
		t.Fatal(err)
	}
	if e.Successor, err = (&ledger.Proof{Extra: r.next.leaves[0], Hashes: hashes, Checkpoint: note}).Encode(); err != nil {
		t.Fatal(err)
	}
	return exported(t, e)
}

// A pack of a log that a recovery ended shows the break, and so does one of the
// log that goes on; both hold.
func TestARecoveryIsShownOnBothSides(t *testing.T) {
	r := recovered(t, asItWas)
	old := verified(t, r.policy, r.ended(t))
	mustHold(t, old)
	if e := old.Regions[0].Ended; e == nil || e.Origin != r.next.origin || e.Quoted != 7 || !e.At.Equal(at(0)) {
		t.Errorf("the end: %+v", e)
	}
	next := verified(t, r.policy, exported(t, r.next.exporter(t)))
	mustHold(t, next)
	if b := next.Regions[0].Begun; b == nil || b.Origin != r.old.origin || b.Quoted != 7 {
		t.Errorf("the beginning: %+v", b)
	}
	var text bytes.Buffer
	if err := WriteText(&text, []*Report{old, next}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ENDED by a recovery", "goes on as " + r.next.origin, "BEGUN by a recovery", "in the place of " + r.old.origin} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, text.String())
		}
	}
	// Whoever asks for a time of before is told where it is.
	e := r.next.exporter(t)
	e.Filter.From = at(-100)
	if v := verified(t, r.policy, exported(t, e)).Verdict(Completeness); v.State != NotShown || !strings.Contains(v.Says, r.old.origin) {
		t.Errorf("completeness is %s: %s", v.State, v.Says)
	}
}

func TestARecoveryThatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		name    string
		quote   func(old *aLog, c ledger.Checkpoint) ledger.Checkpoint
		verdict string
		want    string
	}{
		{"another tree", func(_ *aLog, c ledger.Checkpoint) ledger.Checkpoint { c.Root[0] ^= 1; return c }, Consistency, "another tree"},
		{"an earlier end than was signed", func(old *aLog, c ledger.Checkpoint) ledger.Checkpoint {
			c.Size = old.sizes[0]
			c.Root = old.root(c.Size)
			return c
		}, Completeness, "given up"},
	} {
		rep := verified(t, recovered(t, c.quote).policy, recovered(t, c.quote).ended(t))
		if v := rep.Verdict(c.verdict); rep.OK() || v.State != Fails || !strings.Contains(v.Says, c.want) {
			t.Errorf("%s: %s is %s: %s", c.name, c.verdict, v.State, v.Says)
		}
	}
	r := recovered(t, asItWas)
	if v := verified(t, r.before, r.ended(t)).Verdict(Consistency); v.State != NotShown || !strings.Contains(v.Says, "policy of after the recovery") {
		t.Errorf("under a policy of before: %s: %s", v.State, v.Says)
	}
	// Every byte and every cut of the proof, the manifest made anew each time.
	files := unpacked(t, r.ended(t))
	i := slices.IndexFunc(files, func(f file) bool { return f.name == successorName("fra-1") })
	if i < 0 {
		t.Fatal("the pack has no successor")
	}
	good := files[i].data
	mustHold(t, verified(t, r.policy, packed(t, files)))
	try := func(what string, at int, data []byte) {
		t.Helper()
		files[i].data = data
		if rep, err := Verify(r.policy, bytes.NewReader(packed(t, files)), Options{Now: noon}); err == nil && rep.OK() {
			t.Errorf("%s at %d, and all holds", what, at)
		}
	}
	for at := range good {
		bad := slices.Clone(good)
		bad[at] ^= 1
		try("changed", at, bad)
		if at%7 == 0 {
			try("cut", at, good[:at])
		}
	}
}

// A log in whose place another was begun does not pass for the one that goes on.
func TestALogThatEndedSaysSoByThePolicy(t *testing.T) {
	r := recovered(t, asItWas)
	whole := exported(t, r.old.exporter(t)) // as if it went on
	says := func(policy *ledger.Policy, pack []byte) string {
		return strings.Join(verified(t, policy, pack).NotShownHere, "\n")
	}
	const want = "where the log fra-1.mesh.example/ledger ended: the policy names fra-1.mesh.example/ledger/2"
	if got := says(r.policy, whole); !strings.Contains(got, want) {
		t.Errorf("nothing says that it ended: %s", got)
	}
	for name, got := range map[string]string{"before the recovery": says(r.before, whole), "with its end": says(r.policy, r.ended(t)), "the next log": says(r.policy, exported(t, r.next.exporter(t)))} {
		if strings.Contains(got, "where the log") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
