package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// testingT is what a fixture needs of testing.TB and of rapid.T.
type testingT interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

// fixture proposes to one state and keeps the log.
type fixture struct {
	t     testingT
	s     *State
	now   time.Time
	index uint64
	log   [][]byte
}

func facts(country string) placement.RegionFacts {
	return placement.RegionFacts{Country: country, Operator: placement.Operator{Home: country, Parent: "none"},
		Assurance: placement.Assurance{Location: "documented", Operator: "documented", AsOf: "2026-10-01"}}
}

func gpus(prefix string, n int) (out []placement.Device) {
	for i := range n {
		out = append(out, placement.Device{UUID: fmt.Sprintf("%s-gpu%d", prefix, i), Model: "NVIDIA H100", Memory: 80 * placement.GiB, Health: placement.DeviceOK})
	}
	return out
}

func aNode(id string) placement.Node {
	return placement.Node{ID: placement.NodeID(id), QUIC: "127.0.0.1:7" + id[1:], API: "https://127.0.0.1:8" + id[1:],
		Inventory: placement.Inventory{Version: 1, CPU: 64000, Memory: 256 * placement.GiB, Devices: gpus(id, 8), Moves: map[string]string{"process": "alike"}, States: MaxVersion}}
}

func firstCommand() InitRegion {
	return InitRegion{
		Region:  placement.Region{ID: "fra-1", Mesh: "mesh.example", Facts: facts("FR"), Bundle: []byte(`{"spiffe_sequence":1}`), Fingerprint: "f-fra"},
		LawPack: residency.Embedded().Tables(), Node: aNode("n1"),
	}
}

// empty is a region of one node, n1, in France.
func newFixture(t testingT) *fixture {
	f := &fixture{t: t, s: New(), now: day}
	f.ok(firstCommand())
	return f
}

func salt(n uint64) (s [16]byte) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
	return [16]byte(sum[:16])
}

func (f *fixture) encode(c Command) []byte {
	f.t.Helper()
	actor := "tok-1"
	if seg, ok := c.(CommitSegment); ok {
		actor = "node:" + string(seg.Node)
	}
	return f.encodeAs(actor, c)
}

func (f *fixture) encodeAs(actor string, c Command) []byte {
	f.t.Helper()
	raw, err := Encode(Head{Version: 1, Time: f.now, Salt: salt(f.index + 1), Actor: actor}, c)
	if err != nil {
		f.t.Fatalf("encode %T: %v", c, err)
	}
	return raw
}

func (f *fixture) apply(c Command) Result { return f.applyRaw(f.encode(c)) }

func (f *fixture) applyRaw(raw []byte) Result {
	f.index++
	f.log = append(f.log, raw)
	return f.s.Apply(f.index, raw)
}

func (f *fixture) ok(c Command) Result {
	f.t.Helper()
	r := f.apply(c)
	if r.Refused != nil {
		f.t.Fatalf("%T was refused: %s %s", c, r.Refused.Code, r.Refused.Message)
	}
	return r
}

func (f *fixture) refused(code string, c Command) Result {
	f.t.Helper()
	size := f.s.LedgerSize()
	r := f.apply(c)
	if r.Refused == nil || r.Refused.Code != code {
		f.t.Fatalf("%T: got %+v, want refusal %s", c, r.Refused, code)
	}
	if r.Refused.Message == "" || r.Refused.Advice == "" {
		f.t.Errorf("%s says %q, advises %q", code, r.Refused.Message, r.Refused.Advice)
	}
	if f.s.LedgerSize() != size+1 {
		f.t.Errorf("the refusal %s left no leaf", code)
	}
	return r
}

func (f *fixture) node(id string) {
	f.t.Helper()
	h := hashOf("join " + id)
	f.ok(CreateJoinToken{Hash: h, Expires: f.now.Add(time.Minute)})
	f.ok(JoinNode{TokenHash: h, Node: aNode(id)})
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

const crock = "0123456789abcdefghjkmnpqrstvwxyz"

func jobID(home string, n int) placement.JobID {
	b := []byte("01kb" + strings.Repeat("0", 22))
	for i := 25; n > 0; i, n = i-1, n/32 {
		b[i] = crock[n%32]
	}
	return placement.JobID(home + "." + string(b))
}

func aJob(n int, tag string) placement.Job {
	return placement.Job{ID: jobID("fra-1", n), Name: "secret-name", Kind: placement.KindProcess, Tenant: "default", Residency: tag,
		Spec: placement.JobSpec{Name: "secret-name", Kind: placement.KindProcess, Type: placement.TypeBatch, Command: []string{"/secret-command"},
			Env: map[string]string{"K": "secret-env"}, Resources: placement.DefaultResources(), Evidence: placement.EvidenceRequired}}
}

func (f *fixture) submit(n int, tag string, change ...func(*placement.Job)) placement.JobID {
	f.t.Helper()
	j := aJob(n, tag)
	for _, c := range change {
		c(&j)
	}
	f.ok(SubmitJob{Job: j})
	return j.ID
}

func service(j *placement.Job)   { j.Spec.Type = placement.TypeService }
func singleton(j *placement.Job) { j.Spec.Singleton = true }

func (f *fixture) assignment(id placement.JobID, node string) placement.Assignment {
	f.t.Helper()
	j := f.s.Job(id)
	return placement.Assignment{Task: id.Task(0, j.Attempts+1), Job: id, Node: placement.NodeID(node)}
}

func (f *fixture) assign(id placement.JobID, node string) placement.TaskID {
	f.t.Helper()
	a := f.assignment(id, node)
	f.ok(Assign{Assignments: []placement.Assignment{a}})
	return a.Task
}

func (f *fixture) report(task placement.TaskID, status placement.TaskStatus) {
	f.t.Helper()
	code := 0
	if status == placement.TaskFailed {
		code = 1
	}
	f.ok(ReportTasks{Node: f.s.Task(task).Node, Reports: []placement.TaskReport{{Task: task, Status: status, ExitCode: &code, At: f.now}}})
}

func (f *fixture) wantJob(id placement.JobID, status placement.JobStatus) {
	f.t.Helper()
	if j := f.s.Job(id); j == nil || j.Status != status {
		f.t.Fatalf("job %s is %+v, want %s", id, j, status)
	}
}

func (f *fixture) wantTask(id placement.TaskID, status placement.TaskStatus) {
	f.t.Helper()
	if task := f.s.Task(id); task == nil || task.Status != status {
		f.t.Fatalf("task %s is %+v, want %s", id, task, status)
	}
}

// peer federates with a region.
func (f *fixture) peer(id, country string) {
	f.t.Helper()
	h := hashOf("invite " + id)
	f.ok(InviteRegion{Region: placement.RegionID(id), Hash: h, Expires: f.now.Add(time.Minute)})
	f.ok(PutPeer{Region: aPeer(id, country), InviteHash: h})
	f.ok(ApprovePeer{Region: placement.RegionID(id), Fingerprint: "f-" + id})
}

func aPeer(id, country string) placement.Region {
	return placement.Region{ID: placement.RegionID(id), Mesh: "mesh.example", Facts: facts(country), Bundle: []byte(`{"spiffe_sequence":3}`), Fingerprint: "f-" + id, LawPack: residency.Embedded().Hash()}
}
