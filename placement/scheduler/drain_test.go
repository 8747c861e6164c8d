package scheduler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func TestDrainRules(t *testing.T) {
	const (
		before = time.Hour    // until the deadline
		after  = -time.Second // since it
	)
	bound := tagged("site:north") // nothing else here is lawful
	tests := []struct {
		name     string
		job      *placement.Job
		deadline time.Duration
		operator placement.OnDrain
		full     bool // no room elsewhere
		action   Action
		stop     bool // the plan stops it
		again    bool
		replaced bool // the plan assigns a replacement first
	}{
		{"service, nothing said", job("a", service), before, placement.DrainWait, false, ActMove, false, false, true},
		{"service, nothing said, deadline over", job("a", service), after, placement.DrainStop, false, ActMove, false, false, true},
		{"service without room", job("a", service), before, placement.DrainStop, true, ActBlocked, false, false, false},
		{"service without room, deadline over", job("a", service), after, placement.DrainWait, true, ActBlocked, false, false, false},
		{"service without room, deadline over, checkpoint", job("a", service), after, placement.DrainCheckpoint, true, ActBlocked, false, false, false},
		{"service without room, deadline over, operator says stop", job("a", service), after, placement.DrainStop, true, ActStop, true, false, false},
		{"service says move, operator stop, no room", job("a", service, onDrain(placement.DrainMove)), after, placement.DrainStop, true, ActBlocked, false, false, false},
		{"service says wait", job("a", service, onDrain(placement.DrainWait)), after, placement.DrainStop, false, ActWait, false, false, false},
		{"service says checkpoint", job("a", service, onDrain(placement.DrainCheckpoint)), before, placement.DrainWait, false, ActCheckpoint, true, true, false},
		{"service says stop, before", job("a", service, onDrain(placement.DrainStop)), before, placement.DrainWait, false, ActWait, false, false, false},
		{"service says stop, after", job("a", service, onDrain(placement.DrainStop)), after, placement.DrainWait, false, ActStop, true, false, false},
		{"service may run nowhere else", job("a", service, bound), before, placement.DrainWait, false, ActBlocked, false, false, false},
		{"singleton service", job("a", service, singleton), before, placement.DrainWait, false, ActStopFirst, true, true, false},
		{"singleton without room", job("a", service, singleton), before, placement.DrainWait, true, ActBlocked, false, false, false},
		{"batch, nothing said, before", job("a"), before, placement.DrainStop, false, ActWait, false, false, false},
		{"batch, nothing said, operator waits", job("a"), after, placement.DrainWait, false, ActWait, false, false, false},
		{"batch, nothing said, operator says nothing", job("a"), after, "", false, ActWait, false, false, false},
		{"batch, nothing said, operator checkpoints", job("a"), after, placement.DrainCheckpoint, false, ActCheckpoint, true, true, false},
		{"batch, checkpoint without room", job("a"), after, placement.DrainCheckpoint, true, ActBlocked, false, false, false},
		{"batch, nothing said, operator stops", job("a"), after, placement.DrainStop, false, ActStop, true, false, false},
		{"batch, operator stops, no room needed", job("a"), after, placement.DrainStop, true, ActStop, true, false, false},
		{"batch says wait, operator stops", job("a", onDrain(placement.DrainWait)), after, placement.DrainStop, false, ActWait, false, false, false},
		{"batch says move", job("a", onDrain(placement.DrainMove)), before, placement.DrainWait, false, ActMove, true, true, false},
		{"batch says move, no room", job("a", onDrain(placement.DrainMove)), after, placement.DrainStop, true, ActBlocked, false, false, false},
		{"batch says move, not lawful elsewhere", job("a", onDrain(placement.DrainMove), bound), after, placement.DrainStop, false, ActBlocked, false, false, false},
		{"batch says checkpoint, before", job("a", onDrain(placement.DrainCheckpoint)), before, placement.DrainStop, false, ActWait, false, false, false},
		{"batch says checkpoint, after", job("a", onDrain(placement.DrainCheckpoint)), after, placement.DrainStop, false, ActCheckpoint, true, true, false},
		{"batch says stop, before", job("a", onDrain(placement.DrainStop)), before, placement.DrainWait, false, ActWait, false, false, false},
		{"batch says stop, after", job("a", onDrain(placement.DrainStop)), after, placement.DrainWait, false, ActStop, true, false, false},
		{"singleton batch says move", job("a", singleton, onDrain(placement.DrainMove)), before, placement.DrainWait, false, ActStopFirst, true, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			old := node("n1", func(n *placement.Node) { n.Site = "north" })
			other := node("n2", func(n *placement.Node) { n.Site = "south" })
			if tt.full {
				used(8000, 0)(other)
			}
			s := world([]*placement.Node{old, other})
			task := runs(&s, tt.job, "n1")
			drain := placement.Drain{StartedAt: noon.Add(-2 * time.Hour), Deadline: noon.Add(tt.deadline), OnDeadline: tt.operator}

			fates := PlanDrain(s, "n1", drain)
			if len(fates) != 1 || fates[0].Action != tt.action || fates[0].Note == "" || fates[0].Tag != tt.job.Residency {
				t.Fatalf("fate %+v, want %s", fates, tt.action)
			}
			if fates[0].Action == ActBlocked && (fates[0].Code == "" || fates[0].Hint == "") {
				t.Errorf("blocked without a reason: %+v", fates[0])
			}

			s.Nodes[0] = new(*s.Nodes[0])
			s.Nodes[0].State, s.Nodes[0].Drain = placement.NodeDraining, &drain
			d := Plan(s)
			if got := len(d.Stop) == 1; got != tt.stop || got && (d.Stop[0].Task != task.ID || d.Stop[0].Again != tt.again) {
				t.Errorf("stops %+v, want %v again %v", d.Stop, tt.stop, tt.again)
			}
			if got := len(d.Assign) == 1; got != tt.replaced || got && (d.Assign[0].Replaces != task.ID || d.Assign[0].Node != "n2" || d.Assign[0].Why.Reason != WhyDrain) {
				t.Errorf("assigns %+v, want a replacement: %v", d.Assign, tt.replaced)
			}
			if len(d.Drained) != 0 {
				t.Errorf("drained with a live task: %v", d.Drained)
			}
			if waits := tt.action == ActWait || tt.action == ActBlocked; waits && tt.deadline > 0 && !d.Wake.Equal(drain.Deadline) {
				t.Errorf("wakes at %s, want the deadline", d.Wake)
			}
			if again := Plan(apply(s, d)); !again.Empty() {
				t.Errorf("planned again: %+v", again)
			}
		})
	}
}

func TestADrainSetGivesItselfNothing(t *testing.T) {
	s := world([]*placement.Node{
		node("n1", draining(noon.Add(time.Hour), placement.DrainWait)),
		node("n2", draining(noon.Add(time.Hour), placement.DrainWait)),
		node("n3"),
	})
	runs(&s, job("a", service), "n1")
	runs(&s, job("b", service), "n2")
	d := Plan(s)
	if len(d.Assign) != 2 || d.Assign[0].Node != "n3" || d.Assign[1].Node != "n3" {
		t.Errorf("%+v, want both on n3", d.Assign)
	}
}

func TestTwoMovesDoNotCountOnTheSameRoom(t *testing.T) {
	for _, change := range []func(*placement.Job){service, onDrain(placement.DrainMove)} {
		s := world([]*placement.Node{
			node("n1", draining(noon.Add(time.Hour), placement.DrainWait)),
			node("n2", used(7000, 0)), // room for one
		})
		runs(&s, job("a", change), "n1")
		runs(&s, job("b", change), "n1")
		if d := Plan(s); len(d.Assign)+len(d.Stop) != 1 {
			t.Errorf("%d replaced and %d stopped for room of one", len(d.Assign), len(d.Stop))
		}
	}
}

func TestTheQueueDoesNotTakeTheRoomOfAStoppedTask(t *testing.T) {
	s := world([]*placement.Node{
		node("n1", draining(noon.Add(time.Hour), placement.DrainWait)),
		node("n2", used(7000, 0)), // room for one
	})
	runs(&s, job("a", onDrain(placement.DrainMove)), "n1")
	s = apply(s, Plan(s))
	s.Wanted = []*placement.Job{job("queued")}
	s.Jobs["fra-1.queued"] = s.Wanted[0]
	if d := Plan(s); len(d.Assign) != 0 || len(d.Refused) != 1 {
		t.Errorf("the room that a stopped task was to move to went to %+v", d.Assign)
	}
}

func TestDrainGoesBeforeTheQueue(t *testing.T) {
	s := world([]*placement.Node{
		node("n1", draining(noon.Add(time.Hour), placement.DrainWait)),
		node("n2", used(7000, 0)),
	}, job("queued"))
	old := runs(&s, job("a", service), "n1")
	if a := only(t, Plan(s)); a.Replaces != old.ID {
		t.Errorf("the queue took the drain's room: %+v", a)
	}
}

func TestDrainedNodes(t *testing.T) {
	s := world([]*placement.Node{
		node("n1", draining(noon, placement.DrainWait)),
		node("n2", draining(noon, placement.DrainWait)),
		node("n3"),
		node("n4", draining(noon, placement.DrainWait), used(100, 0)), // by a task that the snapshot does not show
	})
	runs(&s, job("a", onDrain(placement.DrainWait)), "n2")
	d := Plan(s)
	if len(d.Drained) != 1 || d.Drained[0] != "n1" {
		t.Errorf("drained %v, want n1 alone", d.Drained)
	}
}

func TestAFinishedReplacementStopsTheOld(t *testing.T) {
	s := world([]*placement.Node{node("n1", draining(noon.Add(time.Hour), placement.DrainWait)), node("n2")})
	j := job("a", service)
	old := runs(&s, j, "n1")
	s = apply(s, Plan(s))
	fresh := s.Tasks[1]
	if d := Plan(s); !d.Empty() {
		t.Fatalf("not waiting for the replacement: %+v", d)
	}
	if f := PlanDrain(s, "n1", *s.Nodes[0].Drain); len(f) != 1 || f[0].Action != ActMove || f[0].To != "n2" || !strings.Contains(f[0].Note, "starting") {
		t.Errorf("fate %+v", f)
	}
	s.Tasks[1] = new(*fresh)
	s.Tasks[1].Status = placement.TaskRunning
	d := Plan(s)
	if len(d.Stop) != 1 || d.Stop[0].Task != old.ID || d.Stop[0].Again || len(d.Assign) != 0 {
		t.Errorf("%+v, want the old task stopped for good", d)
	}
}

func TestAReplacementOnADrainingNodeIsReplacedInItsTurn(t *testing.T) {
	s := world([]*placement.Node{node("n1", draining(noon, placement.DrainWait)), node("n2"), node("n3")})
	runs(&s, job("a", service), "n1")
	s = apply(s, Plan(s))
	draining(noon, placement.DrainWait)(s.Nodes[1])
	if d := Plan(s); !d.Empty() {
		t.Fatalf("a third copy, or a stop before the second runs: %+v", d)
	}
	silent := s
	silent.Nodes = slices.Clone(s.Nodes)
	silent.Nodes[1] = new(*s.Nodes[1])
	silent.Nodes[1].Contact = placement.ContactUnknown
	if f := PlanDrain(silent, "n1", *s.Nodes[0].Drain); f[0].Action != ActBlocked || f[0].Code != string(NodeContact) || f[0].Hint == "" {
		t.Errorf("fate beside a silent copy: %+v", f[0])
	}
	fresh := new(*s.Tasks[1])
	fresh.Status = placement.TaskRunning
	s.Tasks = []*placement.Task{fresh} // the first was stopped when it ran
	if a := only(t, Plan(s)); a.Node != "n3" || a.Replaces != fresh.ID {
		t.Errorf("replaced on %s", a.Node)
	}
}

func TestAStoppedSingletonStartsOnlyWhenItHasEnded(t *testing.T) {
	s := world([]*placement.Node{node("n1", draining(noon, placement.DrainWait)), node("n2")})
	j := job("a", service, singleton)
	runs(&s, j, "n1", func(t *placement.Task) { t.Stop, t.LeaseUntil = true, noon.Add(10*time.Second) })
	s.Wanted = []*placement.Job{s.Jobs[j.ID]}
	if d := Plan(s); !d.Empty() {
		t.Fatalf("a second copy of a singleton: %+v", d)
	}
	s.Tasks, s.Nodes[0] = nil, node("n1", draining(noon, placement.DrainWait))
	if a := only(t, Plan(s)); a.Node != "n2" {
		t.Errorf("restarted on %s", a.Node)
	}
}

func TestADrainedSilentNodeIsNotGuessedAbout(t *testing.T) {
	for _, j := range []*placement.Job{job("a", onDrain(placement.DrainMove)), job("a", onDrain(placement.DrainStop)), job("a", service, singleton)} {
		s := world([]*placement.Node{node("n1", draining(noon, placement.DrainStop), silentSince(time.Hour)), node("n2")})
		runs(&s, j, "n1", func(t *placement.Task) { t.Status, t.LeaseUntil = placement.TaskUnknown, noon.Add(time.Second) })
		if d := Plan(s); !d.Empty() {
			t.Errorf("%s on a silent node: %+v", j.Spec.Type, d)
		}
	}
	s := world([]*placement.Node{node("n1", draining(noon, placement.DrainWait), silentSince(time.Second)), node("n2")})
	runs(&s, job("a", service), "n1")
	if a := only(t, Plan(s)); a.Node != "n2" {
		t.Errorf("a service leaves a silent node that is drained: %+v", a)
	}
}

func TestDrainWithoutADeadlineEndsAfterAnHour(t *testing.T) {
	n := node("n1", draining(time.Time{}, placement.DrainStop))
	s := world([]*placement.Node{n})
	runs(&s, job("a"), "n1")
	n = s.Nodes[0]
	n.Drain.StartedAt = noon.Add(-DrainTime + time.Second)
	if d := Plan(s); len(d.Stop) != 0 || !d.Wake.Equal(noon.Add(time.Second)) {
		t.Errorf("%+v, want a wake in a second", d)
	}
	n.Drain.StartedAt = noon.Add(-DrainTime)
	if d := Plan(s); len(d.Stop) != 1 {
		t.Errorf("%+v, want a stop", d)
	}
}

func TestAFailedReplacementIsHeldBack(t *testing.T) {
	s := world([]*placement.Node{node("n1", draining(noon, placement.DrainWait)), node("n2")})
	runs(&s, job("a", service, func(j *placement.Job) { j.NotBefore = noon.Add(5 * time.Second) }), "n1")
	if d := Plan(s); !d.Empty() || !d.Wake.Equal(noon.Add(5*time.Second)) {
		t.Errorf("%+v, want a wake in five seconds", d)
	}
}

func TestSilentNodes(t *testing.T) {
	patient := wire(t, `{"on_change":{"partition":{"action":"finish","max":"24h"}},"residency":{"allow":["EU"]}}`)
	lease := func(d time.Duration) func(*placement.Task) {
		return func(t *placement.Task) { t.LeaseUntil = noon.Add(d) }
	}
	always := func(j *placement.Job) { j.Spec.Restart.Policy = "always" }
	tests := []struct {
		name   string
		job    *placement.Job
		silent time.Duration
		task   func(*placement.Task)
		copied bool
		wake   time.Duration
	}{
		{"service, a minute", job("a", service), 60 * time.Second, nil, true, 0},
		{"service, less", job("a", service), 59 * time.Second, nil, false, time.Second},
		{"service whose tag is patient", job("a", service, tagged(patient)), time.Hour, nil, false, 23 * time.Hour},
		{"batch, for ever", job("a", always), 1000 * time.Hour, nil, false, 0},
		{"singleton service, lease running", job("a", service, singleton), time.Hour, lease(time.Second), false, time.Second},
		{"singleton service, lease over", job("a", service, singleton), time.Second, lease(-time.Second), true, 0},
		{"singleton without a lease", job("a", service, singleton), time.Hour, nil, false, 0},
		{"singleton batch, lease over", job("a", singleton, always), time.Second, lease(-time.Second), true, 0},
		{"singleton batch that never restarts", job("a", singleton, func(j *placement.Job) { j.Spec.Restart.Policy = "never" }), time.Second, lease(-time.Second), false, 0},
		{"not lawful elsewhere", job("a", service, tagged("site:north")), time.Hour, nil, false, 0},
		{"being stopped", job("a", service, func(j *placement.Job) { j.StopRequested = true }), time.Hour, nil, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.task == nil {
				tt.task = func(*placement.Task) {}
			}
			s := world([]*placement.Node{node("n1", silentSince(tt.silent), func(n *placement.Node) { n.Site = "north" }), node("n2")})
			old := runs(&s, tt.job, "n1", func(t *placement.Task) { t.Status = placement.TaskUnknown }, tt.task)
			d := Plan(s)
			if got := len(d.Assign) == 1; got != tt.copied || got && (d.Assign[0].Replaces != old.ID || d.Assign[0].Why.Reason != WhyLost) {
				t.Errorf("assigns %+v, want a copy: %v", d.Assign, tt.copied)
			}
			if len(d.Stop) != 0 {
				t.Errorf("losing contact stopped %+v", d.Stop)
			}
			want := time.Time{}
			if tt.wake > 0 {
				want = noon.Add(tt.wake)
			}
			if !d.Wake.Equal(want) {
				t.Errorf("wakes at %s, want %s", d.Wake, want)
			}
			if again := Plan(apply(s, d)); !again.Empty() {
				t.Errorf("planned again: %+v", again)
			}
		})
	}
}
