package state

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// drawCommand draws any command about few things, so that they meet.
func drawCommand(t *rapid.T, f *fixture) Command {
	n := rapid.IntRange(1, 6).Draw(t, "n")
	node := placement.NodeID(fmt.Sprintf("n%d", rapid.IntRange(1, 4).Draw(t, "node")))
	tag := rapid.SampledFrom([]string{"EU", "FR", "DE", "EU,!FR", "EEA,CH,!HU", "ANY,!US", "Europe", "region:fra-1", "FR,site:par"}).Draw(t, "tag")
	peer := placement.RegionID(rapid.SampledFrom([]string{"ber-1", "iad-1"}).Draw(t, "peer"))
	job := jobID("fra-1", n)
	if rapid.IntRange(0, 3).Draw(t, "foreign") == 0 {
		job = jobID("ber-1", n)
	}
	var task placement.TaskID
	if live := f.s.liveTasks(job); len(live) > 0 {
		task = live[0].ID
		node = live[0].Node
	}
	switch rapid.IntRange(0, 28).Draw(t, "kind") {
	case 27:
		return rapid.SampledFrom([]Command{MarkLog{}, SignLog{Size: 1, Note: "x"}, PutWitness{Key: fmt.Sprintf("w%d+00+AA", n), URL: "https://w"}, DropWitness{Name: fmt.Sprintf("w%d", n)}, RestartLog{}}).Draw(t, "log")
	case 28:
		last := Segment{}
		if have := f.s.Segment(node); have != nil {
			last = *have
		}
		return CommitSegment{Node: node, Seq: last.Seq + uint64(n%2), Prev: last.Root, Root: [32]byte{byte(n)}, Count: uint64(n), From: f.now, To: f.now}
	case 0, 1, 2, 3:
		j := aJob(n, tag)
		j.Spec.Type = rapid.SampledFrom([]placement.JobType{placement.TypeBatch, placement.TypeService}).Draw(t, "type")
		j.Spec.Resources.GPUs = rapid.IntRange(0, 2).Draw(t, "gpus")
		if j.Spec.Resources.GPUs == 1 && rapid.Bool().Draw(t, "shared") {
			j.Spec.Resources.GPUShare = placement.MilliGPU(rapid.IntRange(1, 999).Draw(t, "share"))
		}
		j.Spec.Priority = rapid.IntRange(0, 2).Draw(t, "priority")
		j.Spec.Singleton = rapid.IntRange(0, 4).Draw(t, "singleton") == 0
		j.Spec.Restart.Policy = rapid.SampledFrom([]string{"", "never", "on-failure", "always"}).Draw(t, "restart")
		if rapid.IntRange(0, 2).Draw(t, "ganged") == 0 {
			j.Spec.Members, j.Spec.Singleton = rapid.IntRange(2, 4).Draw(t, "members"), false
		}
		if j.Spec.Type == placement.TypeBatch && rapid.Bool().Draw(t, "timed") {
			j.Spec.MaxRuntime = placement.Duration(time.Minute)
		}
		k := SubmitJob{Job: j, AllowAny: rapid.Bool().Draw(t, "any")}
		if rapid.IntRange(0, 3).Draw(t, "keyed") == 0 {
			k.IdempotencyKey = fmt.Sprint(n % 3)
		}
		return k
	case 4, 5, 6, 7, 8, 9:
		a := placement.Assignment{Job: job, Node: placement.NodeID(fmt.Sprintf("n%d", rapid.IntRange(1, 4).Draw(t, "at"))), Replaces: task}
		attempts := 0
		if j := f.s.Job(job); j != nil {
			attempts = j.Attempts
			for i := range j.Spec.Resources.GPUs {
				a.Devices = append(a.Devices, fmt.Sprintf("%s-gpu%d", a.Node, i+2*rapid.IntRange(0, 3).Draw(t, "gpu")))
			}
		}
		a.Task = job.Task(0, attempts+1)
		if task != "" {
			a.Move = rapid.SampledFrom([]placement.MoveMode{placement.MoveRestart, placement.MoveLive, placement.MoveNearLive}).Draw(t, "mode")
		}
		all := []placement.Assignment{a}
		if j := f.s.Job(job); j != nil && j.Spec.Gang() {
			all[0].Replaces = ""
			for i := 1; i < j.Spec.Size()-rapid.IntRange(0, 4).Draw(t, "left out")/4; i++ {
				member := all[0]
				member.Task, member.Devices = job.Task(i, attempts+1), nil
				for d := range a.Devices {
					member.Devices = append(member.Devices, fmt.Sprintf("%s-gpu%d", a.Node, d+2*i))
				}
				all = append(all, member)
			}
		}
		return Assign{Assignments: all}
	case 10, 11, 12, 13:
		status := rapid.SampledFrom([]placement.TaskStatus{placement.TaskStarting, placement.TaskRunning, placement.TaskComplete, placement.TaskFailed, placement.TaskStopped, placement.TaskLost}).Draw(t, "status")
		return ReportTasks{Node: node, Reports: []placement.TaskReport{{Task: task, Status: status, At: f.now}}}
	case 14:
		return StopJob{Job: job}
	case 15:
		if task == "" {
			task = "x/0.1"
		}
		return StopTasks{Tasks: []placement.TaskID{task}, Again: rapid.Bool().Draw(t, "again")}
	case 16:
		return SetContact{Nodes: []placement.NodeID{node}, Contact: rapid.SampledFrom([]placement.Contact{placement.ContactAlive, placement.ContactUnknown}).Draw(t, "contact")}
	case 17:
		return rapid.SampledFrom([]Command{CordonNode{node}, ResumeNode{node}, DrainNode{Node: node}, DrainNodes{Nodes: []placement.NodeID{node}}, FinishDrain{node}}).Draw(t, "drain")
	case 18:
		return RemoveNode{Node: node}
	case 19:
		h := hashOf(fmt.Sprint("join", n))
		return rapid.SampledFrom([]Command{CreateJoinToken{Hash: h, Expires: f.now.Add(time.Minute)}, JoinNode{TokenHash: h, Node: withSite(aNode(string(node)), n)}}).Draw(t, "join")
	case 20:
		r := f.reservation(n, tag)
		r.Node = node
		return r
	case 21:
		j := foreign(n, "ber-1", tag)
		return SubmitJob{Job: j, Reservation: ReservationKey("ber-1", j.ID, 1)}
	case 22:
		return SetForward{Job: job, Forward: placement.Forward{Region: peer, Attempt: n, State: rapid.SampledFrom([]string{"", placement.ForwardAsking, placement.ForwardPlaced, placement.ForwardUnknown}).Draw(t, "forward")}}
	case 23:
		return MirrorJob{Job: job, Region: peer, Status: rapid.SampledFrom([]placement.JobStatus{placement.JobRunning, placement.JobComplete, placement.JobUnknown}).Draw(t, "mirror")}
	case 24:
		return rapid.SampledFrom([]Command{LeavePeer{Region: peer, Dead: true}, PutPeer{Region: aPeer(string(peer), "DE")}, ApprovePeer{peer, "f-" + string(peer)}}).Draw(t, "peering")
	case 25:
		return SetTenant{Tenant{ID: "default", Residency: rapid.SampledFrom([]string{"", "EU", "FR"}).Draw(t, "tenant")}}
	}
	return RenewLeases{Node: node, Tasks: []placement.TaskID{task}, Until: f.now.Add(time.Minute)}
}

func withSite(n placement.Node, i int) placement.Node {
	if i%2 == 0 {
		n.Site = "par"
	}
	return n
}

// Random histories: no live task ever outside its policy, what is derived fits
// what it is derived from, a snapshot taken at any point continues like the
// whole, and a second replica that replays the log is equal in every bit.
func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &fixture{t: t, s: New(), now: day}
		k := firstCommand()
		k.Limits = Limits{Pending: 4, Terminal: 3, Bytes: int64(rapid.IntRange(1000, 10_000).Draw(t, "bytes"))}
		first := f.apply(k)
		if first.Refused != nil {
			t.Fatal(first.Refused)
		}
		for _, p := range []string{"ber-1", "iad-1"} {
			f.apply(PutPeer{Region: aPeer(p, map[string]string{"ber-1": "DE", "iad-1": "US"}[p])})
			f.apply(ApprovePeer{placement.RegionID(p), "f-" + p})
		}
		f.apply(CreateJoinToken{Hash: hashOf("j"), Expires: f.now.Add(time.Minute)})
		f.apply(JoinNode{TokenHash: hashOf("j"), Node: withSite(aNode("n2"), 2)})
		steps := rapid.IntRange(1, 60).Draw(t, "steps")
		at := rapid.IntRange(0, steps-1).Draw(t, "snapshot at")
		var copied *State
		for i := range steps {
			f.now = f.now.Add(time.Duration(rapid.IntRange(-5, 40).Draw(t, "seconds")) * time.Second)
			if i == at {
				copied = reopened(t, f.s)
			}
			raw := f.encode(drawCommand(t, f))
			if len(f.log) > 0 && rapid.IntRange(0, 9).Draw(t, "again") == 0 {
				raw = f.log[len(f.log)-1]
			}
			old, digest := f.s.Freeze(), ""
			if i%8 == 0 { // a digest reads everything, so not each time
				digest = old.Digest()
			}
			result := f.applyRaw(raw)
			if digest != "" && old.Digest() != digest {
				t.Fatal("a view changed after it was given out")
			}
			checkInvariants(t, f.s)
			if copied != nil {
				if other := copied.Apply(f.index, raw); !sameResult(result, other) {
					t.Fatalf("the restored replica answers %+v, not %+v", other, result)
				}
			}
		}
		replica := New()
		for i, raw := range f.log {
			replica.Apply(uint64(i+1), raw)
		}
		for _, other := range []*State{replica, copied, reopened(t, f.s)} {
			if other.Freeze().Digest() != f.s.Freeze().Digest() || other.LedgerRoot() != f.s.LedgerRoot() {
				t.Fatal("a replica differs")
			}
		}
	})
}

func sameResult(a, b Result) bool {
	return a.Index == b.Index && a.Leaf == b.Leaf && a.ID == b.ID && a.Repeated == b.Repeated &&
		(a.Refused == nil) == (b.Refused == nil) && (a.Refused == nil || *a.Refused == *b.Refused) && bytes.Equal(a.Entry, b.Entry)
}

func reopened(t testingT, s *State) *State {
	var buf bytes.Buffer
	if err := s.Freeze().Write(&buf); err != nil {
		t.Fatalf("write: %v", err)
	}
	out, err := Restore(&buf)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	checkInvariants(t, out)
	return out
}

func checkInvariants(t testingT, s *State) {
	used := map[placement.NodeID]placement.Usage{}
	waiting, wanted, bytes := 0, 0, int64(0)
	s.jobs.ascend("", func(_ string, r *jobRecord) bool {
		live := s.liveTasks(r.ID)
		if r.Status.Terminal() && len(live) > 0 {
			t.Fatalf("job %s is %s with %d live tasks", r.ID, r.Status, len(live))
		}
		if r.Spec.Gang() {
			all := gangAttempt(s.tasksOf(r.ID))
			if len(live) > 0 && (len(all) != r.Spec.Size() || len(live) > len(all)) {
				t.Fatalf("of gang %s %d members are known and %d alive", r.ID, len(all), len(live))
			}
			for _, task := range live {
				if !slices.Contains(all, task) {
					t.Fatalf("%s of an older attempt is alive", task.ID)
				}
			}
		} else if len(live) > 2 || r.Spec.Singleton && len(live) > 1 && !live[1].Moving() {
			t.Fatalf("job %s has %d live tasks", r.ID, len(live))
		}
		if bytes += r.Bytes; r.Bytes <= 0 {
			t.Fatalf("job %s counts %d bytes", r.ID, r.Bytes)
		}
		if r.Status == placement.JobPending {
			waiting++
			if len(live) > 0 {
				t.Fatalf("job %s waits with a live task", r.ID)
			}
		}
		if wantsTask(&r.Job) {
			wanted++
		}
		p, err := s.PolicyOf(&r.Job)
		if err != nil {
			t.Fatalf("policy of %s: %v", r.ID, err)
		}
		for _, task := range live {
			if task.Moving() && (task.Status == placement.TaskRunning || s.MovesFrom(task.ID) == nil) {
				t.Fatalf("task %s runs before the ledger said so, or takes over from nobody: %+v", task.ID, task)
			}
			n := s.Node(task.Node)
			if n == nil {
				t.Fatalf("task %s runs nowhere", task.ID)
			}
			if err := residency.Check(p, s.Facts(n), s.Pack(), residency.Options{On: residency.DateOf(day)}); err != nil {
				t.Fatalf("task %s runs outside its policy: %v", task.ID, err)
			}
			u := used[task.Node].With(task.Resources, task.Devices, 1)
			u.Tasks++
			used[task.Node] = u
		}
		return true
	})
	held := peerHold{}
	for _, r := range s.Reservations() {
		held = held.with(r.Resources, 1)
		used[r.Node] = used[r.Node].With(r.Resources, r.Devices, 1)
	}
	timed := 0
	for _, r := range s.onNode.values() {
		if j, ok := s.jobs.get(string(r.Job)); ok && j.Spec.MaxRuntime > 0 {
			timed++
		}
	}
	if timed != s.timed {
		t.Fatalf("%d tasks have a max_runtime, counted %d", timed, s.timed)
	}
	for _, tenant := range []placement.TenantID{"default", "ber-1/acme"} {
		want := holding{}
		for _, r := range s.onNode.values() {
			if r.Tenant == tenant {
				want.gpus, want.cpu, want.memory = want.gpus+int64(len(r.Devices))*int64(r.Resources.PerDevice()), want.cpu+r.Resources.CPU, want.memory+r.Resources.Memory
				want.weight += int64(len(r.Devices)) * int64(r.Resources.Weight())
				if r.Stop {
					want.leavingGPUs, want.leavingCPU = want.leavingGPUs+int64(len(r.Devices))*int64(r.Resources.PerDevice()), want.leavingCPU+r.Resources.CPU
				}
			}
		}
		if got, _ := s.holdings.get(holdingKey(tenant, "")); got != want {
			t.Fatalf("tenant %s holds %+v, counted %+v", tenant, want, got)
		}
	}
	if wanted != s.byAge.len() || waiting != s.PendingCount() || wanted != s.queue.len() || s.ended.len() > s.Limits.Terminal {
		t.Fatalf("%d wait (counted %d), %d wanted (queued %d), %d ended", waiting, s.PendingCount(), wanted, s.queue.len(), s.ended.len())
	}
	if counted, _ := s.held.get(""); counted != held || s.liveBytes+s.endedBytes != bytes || s.endedBytes > s.Limits.Bytes {
		t.Fatalf("reservations hold %+v (counted %+v), jobs take %d bytes (counted %d and %d)", held, counted, bytes, s.liveBytes, s.endedBytes)
	}
	for _, n := range s.Nodes() {
		if u := used[n.ID]; !reflect.DeepEqual(u, n.Used) {
			t.Fatalf("node %s: used %+v, counted %+v", n.ID, u, n.Used)
		}
	}
}
