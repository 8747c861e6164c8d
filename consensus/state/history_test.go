package state

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// history draws the commands that [drawCommand] does not: those of the log, its
// witnesses, keys, grants, erasures, policies and packs.
type history struct {
	*fixture
	key string      // of the region's own log
	ber *foreignLog // of a peer, which this region witnesses
	// witness is the peer's, which cosigns this region's log.
	witness *ledger.Cosigner
}

func (h *history) draw(t *rapid.T) Command {
	n := rapid.IntRange(1, 5).Draw(t, "rest")
	tag := rapid.SampledFrom([]string{"", "EU", "FR,DE", "nowhere"}).Draw(t, "rest tag")
	soon := h.now.Add(time.Minute)
	job := h.someJob(n)
	all := []func() Command{
		func() Command { return MarkLog{} },
		func() Command { return h.sign(t) },
		func() Command { return h.cosign(t, n) },
		func() Command { h.ber.grow(t, n, "a"); return h.advance() },
		func() Command { return RestartLog{Previous: h.lastNote()} },
		func() Command { return h.segment(n) },
		func() Command { return EraseOpenings{Job: job, Leaves: h.s.JobLeaves(job)} },
		func() Command { return StopJob{Job: job, Reason: "so that it can be erased"} },
		func() Command {
			return RecordRead{What: rapid.SampledFrom([]string{"export", "entries", "all"}).Draw(t, "what"), Count: n}
		},
		func() Command {
			return IssueGrant{ID: fmt.Sprint("g", n), Tenant: "default", Audience: "ber-1", LawPack: h.s.Active, Expires: soon}
		},
		func() Command { return h.quoting(n) },
		func() Command { return h.granted(n, "ber-1", "EU") },
		func() Command { return SetRegionPolicy{Export: &tag} },
		func() Command { return SetRegionPolicy{Import: &tag} },
		func() Command { return ImportLawPack{Tables: otherPack(n)} },
		func() Command { return ActivateLawPack{Hash: h.somePack(n)} },
		func() Command {
			return CreateToken{Token{ID: fmt.Sprint("t", n), Hash: hashOf(fmt.Sprint("t", n)), Roles: []Role{RoleAuditor}, Expires: soon}}
		},
		func() Command { return RevokeToken{ID: fmt.Sprint("t", n)} },
		func() Command {
			return SetRole{Node: placement.NodeID(fmt.Sprint("n", n)), Role: rapid.SampledFrom([]placement.NodeRole{placement.RoleVoter, placement.RoleStandby, placement.RoleWorker}).Draw(t, "role")}
		},
		func() Command {
			return IssueCertificate{Node: placement.NodeID(fmt.Sprint("n", n)), Serial: fmt.Sprint(n), NotAfter: soon}
		},
		func() Command {
			return ReportInventory{Node: placement.NodeID(fmt.Sprint("n", n)), Inventory: placement.Inventory{Version: uint64(n), CPU: 32000, Memory: placement.GiB, States: MaxVersion}}
		},
		func() Command { return InviteRegion{Region: "mad-1", Hash: hashOf(fmt.Sprint(n)), Expires: soon} },
		func() Command {
			return UpdatePeer{Region: "ber-1", LawPack: h.s.Active, FrontDoors: []placement.FrontDoor{{QUIC: fmt.Sprint("127.0.0.1:", n)}}}
		},
		func() Command { return ReleaseReservation{Key: ReservationKey("ber-1", jobID("ber-1", n), 1)} },
		func() Command { return RaiseVersion{Version: uint8(n % 2)} },
		func() Command { return PutWitness{Key: fmt.Sprintf("w%d+01234567+BAAA", n), URL: "https://w"} },
		func() Command { return DropWitness{Name: fmt.Sprint("w", n)} },
		func() Command { return ApprovePeer{"iad-1", "f-iad-1"} },
		func() Command { return RemoveNode{Node: placement.NodeID(fmt.Sprint("n", n))} },
		func() Command { return CordonNode{"n1"} },
		func() Command { return ResumeNode{"n1"} },
		func() Command { return DrainNode{Node: "n1"} },
		func() Command { return ClearDevice{Node: "n1", Device: fmt.Sprint("n1-gpu", n%9), Reason: "a word"} },
		func() Command { return DrainNodes{Nodes: []placement.NodeID{"n1", "n2"}} },
		func() Command { return FinishDrain{"n1"} },
		func() Command {
			return NoteTasks{Node: "n1", Notes: []placement.TaskNote{{Task: job.Task(0, 1), What: placement.NoteDenied, Subject: "network", Text: fmt.Sprint(n), Count: uint64(n)}}}
		},
		func() Command {
			return NoteTasks{Notes: []placement.TaskNote{{Task: job.Task(0, 1), What: placement.NoteAccess, Subject: "exec", Text: fmt.Sprint(n)}}}
		},
		func() Command {
			from, to := h.someMove(n)
			return MoveTask{Node: "n1", Task: from, To: to, Step: rapid.SampledFrom([]MoveStep{MoveCommit, MoveAbort}).Draw(t, "step"), Reason: "a word", Blameless: rapid.Bool().Draw(t, "blameless")}
		},
		func() Command { return CreateJoinToken{Hash: hashOf(fmt.Sprint("join", n)), Expires: soon} },
		func() Command {
			return JoinNode{TokenHash: hashOf(fmt.Sprint("join", n)), Node: aNode(fmt.Sprint("n", n+1))}
		},
		func() Command { return PutPeer{Region: aPeer("mad-1", "ES"), InviteHash: hashOf(fmt.Sprint(n))} },
		func() Command { return LeavePeer{Region: "iad-1"} },
		func() Command { return Preempt{For: job, Tasks: []placement.TaskID{h.someJob(n+1).Task(0, 1)}} },
		func() Command { return MarkDigest{} },
		func() Command { return CompareDigest{Size: h.s.LedgerSize(), Digest: hashOf("x")} },
	}
	return rapid.SampledFrom(all).Draw(t, "of the rest")()
}

func (h *history) someJob(n int) (id placement.JobID) {
	id = jobID("fra-1", n)
	h.s.jobs.ascend("", func(key string, r *jobRecord) bool {
		id = r.ID
		return !r.Status.Terminal()
	})
	return id
}

// someMove is a move that is under way, if there is one.
func (h *history) someMove(n int) (from, to placement.TaskID) {
	from, to = jobID("fra-1", n).Task(0, 1), jobID("fra-1", n).Task(0, 2)
	h.s.onNode.ascend("", func(_ string, t *taskRecord) bool {
		if t.Moving() {
			from, to = t.Replaces, t.ID
		}
		return true
	})
	return from, to
}

func (h *history) sign(t *rapid.T) Command {
	if len(h.s.Marks) == 0 || h.s.Restarts > 0 { // the key is named after the first log
		return SignLog{Size: 1, Note: "x"}
	}
	m := rapid.SampledFrom(h.s.Marks).Draw(t, "mark")
	return SignLog{m.Size, signedNote(t, h.key, h.s.LogOrigin(), m.Size, m.Root)}
}

// cosign is sometimes what the witness says, and sometimes not.
func (h *history) cosign(t *rapid.T, n int) Command {
	false := fmt.Sprintf("— %s %s", WitnessName("ber-1", "mesh.example"), strings.Repeat("A", 4*n))
	all := h.s.Checkpoints()
	if len(all) == 0 || n%3 == 0 {
		return CosignLog{1, []string{false}}
	}
	note, err := ledger.ParseSignedCheckpoint([]byte(all[0].Note))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := h.witness.Cosign(note.Unverified(), time.Date(2026, 11, 21, 12, n, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return CosignLog{all[0].Size, []string{strings.TrimSuffix(string(ledger.EncodeSignatures([]ledger.Signature{sig})), "\n")}}
}

func (h *history) advance() Command {
	var old int64
	if w := h.s.Witnessed(h.ber.origin); w != nil {
		old = int64(w.Size)
	}
	return h.ber.advance(h.t, old)
}

// quoting quotes a leaf for a grant that has none yet, if there is one.
func (h *history) quoting(n int) Command {
	id := fmt.Sprint("g", n)
	for _, g := range h.s.Grants() {
		if g.Issued && g.Job == "" {
			id = g.ID
		}
	}
	return quoting(id, "ber-1", n)
}

func (h *history) lastNote() string {
	if all := h.s.Checkpoints(); len(all) > 0 {
		return all[0].Note
	}
	return ""
}

func (h *history) segment(n int) Command {
	var last Segment
	if have := h.s.Segment("n1"); have != nil {
		last = *have
	}
	return CommitSegment{Node: "n1", Seq: last.Seq + 1, Prev: last.Root, Root: ledger.Hash{byte(n)}, Count: uint64(n), From: h.now, To: h.now, Dropped: uint64(n % 2), Recovered: n == 3}
}

// otherPack is the embedded one, or one that lacks a table.
func otherPack(n int) map[string][]byte {
	out := map[string][]byte{}
	for name, data := range residency.Embedded().Tables() {
		out[name] = data
	}
	if n > 3 {
		delete(out, "territories.csv")
	}
	return out
}

func (h *history) somePack(n int) string {
	if n > 3 {
		return "sha256:nothing"
	}
	return h.s.Active
}

func newHistory(t testingT, key, public string, ber *foreignLog, berPublic string) *history {
	h := &history{fixture: &fixture{t: t, s: New(), now: day}, key: key, ber: &foreignLog{key: ber.key, origin: ber.origin}}
	var err error
	if h.witness, err = ledger.NewCosigner(WitnessName("ber-1", "mesh.example"), ledger.CosignatureEd25519, [ledger.SeedSize]byte{9}); err != nil {
		t.Fatal(err)
	}
	first := firstCommand()
	first.Limits = Limits{Pending: 4, Terminal: 3, Bytes: 8000}
	first.Region.LogKey = public
	h.ok(first)
	for _, p := range []string{"ber-1", "iad-1"} {
		peer := aPeer(p, map[string]string{"ber-1": "DE", "iad-1": "US"}[p])
		if p == "ber-1" {
			peer.LogKey, peer.WitnessKey = berPublic, h.witness.Verifier().String()
		}
		h.ok(PutPeer{Region: peer})
		h.ok(ApprovePeer{placement.RegionID(p), "f-" + p})
	}
	h.submit(1, "EU")
	h.ok(IssueGrant{ID: "g0", Tenant: "default", Audience: "ber-1", LawPack: h.s.Active, Expires: h.now.Add(time.Minute)})
	return h
}

// Whatever happened, in whatever order: a replica that was restored from a
// snapshot of any moment answers all that comes afterwards as the one that was
// there from the beginning, and is equal to it in every bit; so is one that
// replays the log. Every command this program knows takes part.
func TestASnapshotOfAnyMomentGoesOnAlike(t *testing.T) {
	key, public := logKey(t, "fra-1.mesh.example/ledger")
	berKey, berPublic := logKey(t, "ber-1.mesh.example/ledger")
	ber := &foreignLog{key: berKey, origin: "ber-1.mesh.example/ledger"}
	seen, accepted := map[Kind]int{}, map[Kind]int{}
	history := func(t *rapid.T) {
		h := newHistory(t, key, public, ber, berPublic)
		var copies []*State
		for range rapid.IntRange(1, 24).Draw(t, "steps") {
			h.now = h.now.Add(time.Duration(rapid.IntRange(-5, 30).Draw(t, "seconds")) * time.Second)
			copies = append(copies, reopened(t, h.s))
			cmd := drawAny(t, h)
			raw := h.encode(cmd)
			if rapid.IntRange(0, 9).Draw(t, "again") == 0 {
				raw = h.log[len(h.log)-1] // proposed twice
			}
			result := h.applyRaw(raw)
			if seen[cmd.Kind()]++; result.Refused == nil {
				accepted[cmd.Kind()]++
			}
			for at, c := range copies {
				if other := c.Apply(h.index, raw); !sameResult(result, other) {
					t.Fatalf("%s: a replica restored at step %d answers %+v, not %+v", cmd.Kind(), at, other, result)
				}
				if c.LedgerRoot() != h.s.LedgerRoot() || c.LedgerSize() != h.s.LedgerSize() {
					t.Fatalf("%s: a replica restored at step %d has another root", cmd.Kind(), at)
				}
			}
		}
		for range 2 {
			replayed := New()
			for i, raw := range h.log {
				replayed.Apply(uint64(i+1), raw)
			}
			copies = append(copies, replayed)
		}
		want, told := h.s.Freeze().Digest(), everythingTold(h.s.Freeze())
		for at, c := range copies {
			if c.Freeze().Digest() != want || c.LedgerRoot() != h.s.LedgerRoot() {
				t.Fatalf("replica %d of %d has another state", at, len(copies))
			}
			if got := everythingTold(c.Freeze()); got != told {
				t.Fatalf("replica %d of %d tells\n%s, not\n%s", at, len(copies), got, told)
			}
			checkInvariants(t, c)
		}
	}
	shown := []Kind{KindSignLog, KindCosignLog, KindAdvanceOrigin, KindRestartLog, KindCommitSegment, KindEraseOpenings, KindRecordRead, KindIssueGrant, KindUseGrant, KindCreateToken, KindPutWitness, KindIssueCertificate}
	lacks := func() (out []string) {
		for _, kind := range allKinds(t) {
			if seen[kind] == 0 && kind != KindInitRegion {
				out = append(out, fmt.Sprintf("no history had a %s: draw it too", kind))
			}
		}
		for _, kind := range shown {
			if accepted[kind] == 0 {
				out = append(out, fmt.Sprintf("every %s was refused: the histories show nothing of it (%d drawn)", kind, seen[kind]))
			}
		}
		return out
	}
	// What is rare may not turn up at first; what cannot turn up is a fault.
	rapid.Check(t, history)
	for range 30 {
		if t.Failed() || len(lacks()) == 0 {
			break
		}
		rapid.Check(t, history)
	}
	for _, what := range lacks() {
		t.Error(what)
	}
}

// everythingTold is what a view answers to whoever asks: the digest is made of the
// snapshot, and does not see what the snapshot leaves out.
func everythingTold(v *View) string {
	var b strings.Builder
	value := reflect.ValueOf(v)
	for i := range value.NumMethod() {
		if m := value.Method(i); m.Type().NumIn() == 0 && m.Type().NumOut() > 0 {
			data, err := json.Marshal(m.Call(nil)[0].Interface())
			fmt.Fprintf(&b, "%s: %s %v\n", value.Type().Method(i).Name, data, err)
		}
	}
	for _, n := range v.Nodes() {
		segment, err := json.Marshal(v.Segment(n.ID))
		fmt.Fprintf(&b, "segment of %s: %s %v\n", n.ID, segment, err)
	}
	v.jobs.ascend("", func(_ string, r *jobRecord) bool {
		record, err := json.Marshal(r)
		tasks, err2 := json.Marshal(v.TasksOf(r.ID))
		fmt.Fprintf(&b, "job %s: %s %s %v %v %v\n", r.ID, record, tasks, v.JobLeaves(r.ID), err, err2)
		return true
	})
	fmt.Fprintf(&b, "erased: %v\n", v.Erasures(0))
	return b.String()
}

func drawAny(t *rapid.T, h *history) Command {
	if rapid.IntRange(0, 2).Draw(t, "which") == 0 {
		return drawCommand(t, h.fixture)
	}
	return h.draw(t)
}

// allKinds are those that the package's source declares.
func allKinds(t *testing.T) (out []Kind) {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^\s*(?:const )?Kind\w+\s+Kind = "([a-z.]+)"`)
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			if kind := Kind(m[1]); reader(kind) == nil {
				t.Errorf("%s is declared and cannot be read", kind)
			} else {
				out = append(out, kind)
			}
		}
	}
	if len(out) < 40 {
		t.Fatalf("only %d kinds of commands were found in the source", len(out))
	}
	return out
}
