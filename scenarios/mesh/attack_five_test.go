package mesh

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// five is one mesh under five attacks, and an auditor who trusts nothing but a
// policy from before them.
type five struct {
	*Mesh
	policy *ledger.Policy
	names  map[string]string // of detections, to the attack
}

// Five attacks on one running mesh: a byte on a disk, a fork, a forged
// certificate, a placement outside the tag, yesterday's backup. Each is found
// out under a name of its own; the last four by an auditor as well, who has one
// file and the policy. Read it with -v.
func TestFiveAttacks(t *testing.T) {
	Run(t, func(t *testing.T) {
		fra := Region("fra-1", "FR", 3)
		fra.Sites = []string{"par-a", "par-b", "par-b"}
		f := &five{Mesh: New(t, fra, Region("ber-1", "DE", 1), Region("iad-1", "US", 1)), names: map[string]string{}}
		f.honest()
		f.byteOnDisk()
		f.fork()
		f.forgedCertificate()
		f.outsideTheTag()
		f.backup()
		if len(f.names) != 5 {
			t.Errorf("five attacks have %d names: %v", len(f.names), f.names)
		}
	})
}

// story is what a human reads.
func (f *five) story(format string, args ...any) {
	f.t.Helper()
	f.t.Logf(format, args...)
}

// detected notes what the running mesh said of an attack. The name must be of
// this attack alone.
func (f *five) detected(attack, who, name, words string) {
	f.t.Helper()
	if other, taken := f.names[name]; taken {
		f.t.Errorf("%s and %s have one name: %s", attack, other, name)
	}
	f.names[name] = attack
	f.story("   DETECTED by %s: %s\n      %s", who, name, words)
}

// said waits until a node's log has a line with all words, and gives the line.
func (f *five) said(who string, words ...string) (line string) {
	f.t.Helper()
	f.Within(3*time.Minute, who+" says "+strings.Join(words, ", "), func() bool {
		line = f.log.line(who, words...)
		return line != ""
	})
	return line
}

// pack exports a region's evidence as an auditor does, through its API.
func (f *five) pack(id placement.RegionID) []byte {
	f.t.Helper()
	data, err := f.tryPack(id, "n1")
	f.must(err)
	return data
}

func (f *five) tryPack(id placement.RegionID, n placement.NodeID) ([]byte, error) {
	body, err := f.AtNode(id, n).Export(f.t.Context(), evidence.Filter{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var buf bytes.Buffer
	_, err = buf.ReadFrom(body)
	return buf.Bytes(), err
}

// judged is what the auditor finds, offline, with the policy alone.
func (f *five) judged(packs ...[]byte) []*evidence.Report {
	f.t.Helper()
	a := evidence.NewAuditor(f.policy, evidence.Options{Now: time.Now(), MaxAge: 5 * time.Minute, Several: len(packs) > 1})
	for i, pack := range packs {
		f.must(a.Read([]string{"first.tar", "second.tar"}[i], bytes.NewReader(pack)))
	}
	return a.Reports()
}

// fails is one verdict against a pack, in its words, and no other verdict.
func (f *five) fails(r *evidence.Report, verdict, words string) {
	f.t.Helper()
	for _, v := range r.Verdicts {
		found := strings.Join(v.Findings, "\n      ")
		switch {
		case v.Name == verdict && (v.State != evidence.Fails || !strings.Contains(found, words)):
			f.t.Errorf("%s %s: %q, and should say %q", v.Name, v.State, v.Findings, words)
		case v.Name == verdict:
			f.story("   VERDICT of the auditor: %s FAILS\n      %s", verdict, found)
		case v.State == evidence.Fails:
			f.t.Errorf("%s fails as well: %q", v.Name, v.Findings)
		}
	}
}

func (f *five) holds(r *evidence.Report) {
	f.t.Helper()
	if r.OK() {
		return
	}
	for _, v := range r.Verdicts {
		if v.State != evidence.Holds {
			f.t.Errorf("%s %s: %q", v.Name, v.State, v.Findings)
		}
	}
}

// witnessed waits until all regions' logs are cosigned to their end.
func (f *five) witnessed(ids ...placement.RegionID) {
	f.t.Helper()
	for _, id := range ids {
		f.Within(time.Minute, string(id)+" is witnessed", f.cosigned(id))
	}
}

// honest is the mesh before: jobs run, the auditor is handed the policy, and
// what three regions export holds.
func (f *five) honest() {
	f.t.Helper()
	for id, tag := range map[placement.RegionID]string{"fra-1": "FR", "ber-1": "DE", "iad-1": "US"} {
		job := f.At(id).Submit(`{"kind":"fake","residency":"` + tag + `","command":["run","1s"]}`)
		f.Within(20*time.Second, "a job runs in "+string(id), job.Exited(0))
	}
	f.witnessed("fra-1", "ber-1", "iad-1")
	text, err := f.At("fra-1").TrustPolicy(f.t.Context(), 2)
	f.must(err)
	f.policy, err = ledger.ParsePolicy([]byte(text))
	f.must(err)
	for _, id := range []placement.RegionID{"fra-1", "ber-1", "iad-1"} {
		f.holds(f.judged(f.pack(id))[0])
	}
	f.story("Before: three regions witness each other; the auditor holds the policy; what each region exports holds.")
}

// byteOnDisk: one byte of an entry, on the disk of one replica of three.
func (f *five) byteOnDisk() {
	f.t.Helper()
	f.story("ATTACK a: somebody changes one byte of an entry of fra-1's ledger, on the disk of n2.")
	h := f.host("fra-1", "n2")
	dir := filepath.Join(h.dir, "raft", "ledger")
	file := filepath.Join(dir, "entries")
	data, err := os.ReadFile(file)
	f.must(err)
	data[len(data)/2] ^= 1
	f.must(os.WriteFile(file, data, 0o600))
	_, err = f.tryPack("fra-1", "n2")
	if Code(err) != api.CodeDamaged || !strings.Contains(err.Error(), "damaged at entry") {
		f.t.Errorf("the damaged replica exports: %v", err)
	}
	f.said("fra-1/n2", "request failed", "the ledger file entries is damaged at entry")
	f.detected("a byte on a disk", "fra-1/n2", api.CodeDamaged, err.Error())
	f.holds(f.judged(f.pack("fra-1"))[0])

	// What the answer advises: the damaged files are kept apart, and the others
	// fill what is missing.
	h.end(false)
	f.must(os.Rename(dir, filepath.Join(f.dir, "evidence-of-n2")))
	h.start()
	h.waitReady()
	f.Within(time.Minute, "n2 has all entries again", func() bool {
		pack, err := f.tryPack("fra-1", "n2")
		return err == nil && f.judged(pack)[0].OK()
	})
	f.story("   The other replicas serve on; n2 moves the files away, fills up from them, and its pack holds.")
}

// fork: the tail is cut, other leaves are put in its place, and the log's own
// key signs them. Whoever does so sits in the region and has all of its secrets.
func (f *five) fork() {
	f.t.Helper()
	f.story("ATTACK b: fra-1's operator cuts three leaves off the ledger, writes others, and signs them with the log's own key.")
	f.witnessed("fra-1")
	honest := f.pack("fra-1")
	log := f.stolenLog("fra-1")
	seen := f.region("ber-1").newest().Witnessed(log.origin).Size
	log.leaves = log.leaves[:seen]
	log.replaceTail(3)
	note := log.sign()

	status, answer := f.request(http.MethodPost, "ber-1", "n1", api.WitnessPrefix+"/add-checkpoint", nil, string(log.ask(seen, note)))
	if status != http.StatusUnprocessableEntity {
		f.t.Errorf("the witness answers the fork with %d %s", status, answer)
	}
	line := f.said("ber-1/n1", "FORK", log.origin)
	f.detected("a fork", "ber-1/n1", "FORK", line)

	forged := log.pack(note)
	f.fails(f.judged(forged)[0], evidence.Consistency, "not witnessed as the policy asks")
	both := f.judged(honest, forged)
	f.story("   The same file beside an honest pack of before:")
	f.fails(both[0], evidence.Consistency, "the log was forked")
}

// forgedCertificate: the authority of one region names a node of another.
func (f *five) forgedCertificate() {
	f.t.Helper()
	f.story("ATTACK c: fra-1's authority certifies a node n1 of ber-1, and a program with that certificate knocks at ber-1 and iad-1.")
	r := f.rogue(f.forged("fra-1", "ber-1", "n1"), outside(1))
	for _, to := range []placement.RegionID{"ber-1", "iad-1"} {
		mustRefuse(f.Mesh, "the forged certificate at "+string(to), r.knock(identity.ClassHTTP, f.peer(to, "n1")))
	}
	r.stop()
	f.said("iad-1/n1", "FORGED", "by=fra-1")
	f.detected("a forged certificate", "ber-1/n1", "FORGED certificate", f.said("ber-1/n1", "FORGED", "claims=spiffe://ber-1."+Domain+"/node/n1", "by=fra-1"))
	f.witnessed("ber-1")
	f.fails(f.judged(f.pack("ber-1"))[0], evidence.Origin, "whose authority did not issue it; the authority of region fra-1 signed it")

	// The evidence is on the disk: a restart loses none of it.
	f.Kill("iad-1", "n1")
	f.Restart("iad-1", "n1")
	f.host("iad-1", "n1").waitReady()
	f.witnessed("iad-1")
	f.fails(f.judged(f.pack("iad-1"))[0], evidence.Origin, "FORGED certificate: serial 666")
	f.must(os.RemoveAll(filepath.Join(f.host("iad-1", "n1").dir, "refused"))) // for the last attack
}

// outsideTheTag: a leader proposes a placement outside the tag; then, all
// replicas lie with it.
func (f *five) outsideTheTag() {
	f.t.Helper()
	f.story("ATTACK d: fra-1's leader is made to place a job with the tag FR,!site:par-b at the site par-b.")
	_, err := f.At("fra-1").Cordon(f.t.Context(), "n1")
	f.must(err)
	job := f.At("fra-1").Submit(`{"kind":"fake","residency":"FR,!site:par-b","command":["run","1s"]}`)
	r := f.rogue(f.stolen("fra-1", "n2"), outside(2))
	res, err := r.propose(f.peer("fra-1", f.Leader("fra-1")), state.Assign{Assignments: []placement.Assignment{{Task: job.ID.Task(0, 0), Job: job.ID, Node: "n3"}}}, time.Now())
	f.must(err)
	if res.Refused == nil || res.Refused.Code != "residency.refused" {
		f.t.Fatalf("it is not refused: %+v", res)
	}
	f.detected("a placement outside the tag", "every replica of fra-1, in Apply", res.Refused.Code, res.Refused.Error())
	f.witnessed("fra-1")
	rep := f.judged(f.pack("fra-1"))[0]
	f.holds(rep)
	if len(rep.Regions) != 1 || rep.Regions[0].Refusals == 0 {
		f.t.Errorf("the pack shows no refusal: %+v", rep.Regions)
	}
	f.story("   The pack holds: nothing was placed, and the refusal is a leaf of it (%d refusals).", rep.Regions[0].Refusals)

	f.story("   Now all replicas lie: they record the same decision as permitted, the log signs it, and the witnesses, who see only hashes, cosign it.")
	f.witnessed("fra-1")
	log := f.stolenLog("fra-1")
	log.repeatAsPermitted(res.Leaf)
	note := log.sign()
	for _, id := range []placement.RegionID{"ber-1", "iad-1"} {
		note = log.cosign(id, note)
	}
	f.fails(f.judged(log.pack(note))[0], evidence.Law, "was recorded as permitted")
	f.said("fra-1/"+string(f.Leader("fra-1")), "signs nothing more")
	f.story("   The replicas of fra-1, which in truth have not lied, hear of that log from its witnesses, and sign nothing more.")
}

// backup: yesterday's disk over today's.
func (f *five) backup() {
	f.t.Helper()
	f.story("ATTACK e: iad-1's disk is set back to a backup, over a ledger that has gone on.")
	h := f.host("iad-1", "n1")
	f.restart(h) // without what the third attack left
	f.witnessed("iad-1")
	h.end(false)
	backup := filepath.Join(f.dir, "backup")
	f.must(os.CopyFS(backup, os.DirFS(h.dir)))
	h.start()
	h.waitReady()
	for range 3 {
		job := f.At("iad-1").Submit(`{"kind":"fake","residency":"US","command":["run","1s"]}`)
		f.Within(20*time.Second, "it runs", job.Exited(0))
	}
	time.Sleep(10 * time.Minute)
	job := f.At("iad-1").Submit(`{"kind":"fake","residency":"US","command":["run","1s"]}`)
	f.Within(20*time.Second, "it runs", job.Exited(0))
	f.witnessed("iad-1")
	f.holds(f.judged(f.pack("iad-1"))[0])

	h.end(false)
	f.must(os.RemoveAll(h.dir))
	f.must(os.CopyFS(h.dir, os.DirFS(backup)))
	h.start()
	h.waitReady()
	line := f.said("iad-1/n1", "signs nothing more", "its ledger was set back")
	f.detected("yesterday's backup", "iad-1/n1, of its witnesses", "set back", line)
	job = f.At("iad-1").Submit(`{"kind":"fake","residency":"US","command":["run","1s"]}`)
	f.Within(20*time.Second, "placement goes on", job.Exited(0))
	f.fails(f.judged(f.pack("iad-1"))[0], evidence.Freshness, "old, more than 5m0s")
}

func (f *five) restart(h *host) {
	h.end(false)
	h.start()
	h.waitReady()
}
