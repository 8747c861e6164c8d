package state

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func timed(d time.Duration) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Type, j.Spec.MaxRuntime = placement.TypeBatch, placement.Duration(d) }
}

// When a node is empty is known only if every task on it has a bound; how long a
// task takes to start is reckoned with, once.
func TestWhenANodeIsEmpty(t *testing.T) {
	f := newFixture(t)
	ends := func() (time.Time, bool) {
		s := f.s.Snapshot(f.s.Clock)
		if s.Ends == nil {
			return time.Time{}, false
		}
		return s.Ends("n1")
	}
	if _, known := ends(); known {
		t.Error("nothing runs, and an end is told")
	}
	a := f.assign(f.submit(1, "EU", timed(time.Hour)), "n1")
	grace := time.Duration(f.s.Job(a.Job()).Spec.StopGrace)
	assigned := f.s.Task(a).AssignedAt
	if end, known := ends(); !known || !end.Equal(assigned.Add(time.Minute+time.Hour+grace)) {
		t.Errorf("before it runs: %s %t", end, known)
	}
	f.report(a, placement.TaskRunning)
	if end, known := ends(); !known || !end.Equal(f.s.Task(a).StartedAt.Add(time.Hour+grace)) {
		t.Errorf("it runs: %s %t", end, known)
	}
	b := f.assign(f.submit(2, "EU"), "n1")
	if _, known := ends(); known {
		t.Error("one says nothing of its end")
	}
	f.report(b, placement.TaskComplete)
	f.now = f.now.Add(3 * time.Hour)
	f.ok(SetContact{Nodes: []placement.NodeID{"n2"}, Contact: placement.ContactAlive})
	if _, known := ends(); known {
		t.Error("it is long overdue: nobody knows")
	}
	f.report(a, placement.TaskStopped)
	f.wantJob(a.Job(), placement.JobStopped)
	if f.s.timed != 0 {
		t.Errorf("%d tasks are counted", f.s.timed)
	}
}

func TestImpossibleRunningTimesAreRefused(t *testing.T) {
	f := newFixture(t)
	for name, change := range map[string]func(*placement.Job){
		"negative": timed(-time.Second), "of more than a year": timed(placement.LongestRun + 1),
		"of a service": func(j *placement.Job) {
			j.Spec.Type, j.Spec.MaxRuntime = placement.TypeService, placement.Duration(time.Hour)
		},
	} {
		j := aJob(1, "EU")
		change(&j)
		if r := f.apply(SubmitJob{Job: j}); r.Refused == nil || r.Refused.Code != "job.max-runtime" {
			t.Errorf("%s: %+v", name, r.Refused)
		}
	}
}

// A singleton that ended for want of time is not one that lost its lease: it does
// not start again.
func TestASingletonThatRanItsTimeIsOver(t *testing.T) {
	for ran, want := range map[time.Duration]placement.JobStatus{time.Minute: placement.JobStopped, time.Second: placement.JobPending} {
		f := newFixture(t)
		id := f.submit(1, "EU", timed(time.Minute), func(j *placement.Job) {
			j.Spec.Singleton, j.Spec.Restart.Policy = true, "on-failure"
		})
		task := f.assign(id, "n1")
		f.report(task, placement.TaskRunning)
		f.now = f.now.Add(ran)
		f.report(task, placement.TaskStopped)
		f.wantJob(id, want)
	}
}
