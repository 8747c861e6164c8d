package mesh

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/placement"
)

// fault is something that goes wrong at one step of a move.
type fault struct {
	name string
	do   func(m *Mesh, job *Job)
	mend func(m *Mesh)
	// ends: the job is stopped by it. rare: it is tried in the middle of a move alone.
	ends, rare bool
}

func faults() []fault {
	killed := func(name placement.NodeID) func(*Mesh, *Job) {
		return func(m *Mesh, _ *Job) { m.Kill("fra-1", name) }
	}
	restarted := func(name placement.NodeID) func(*Mesh) { return func(m *Mesh) { m.Restart("fra-1", name) } }
	heal := func(m *Mesh) { m.Heal() }
	from, to := placement.NodeID("n4"), placement.NodeID("n5") // no voters
	return []fault{
		{"the agent that gives is killed", killed(from), restarted(from), false, false},
		{"the agent that takes is killed", killed(to), restarted(to), false, false},
		{"the node that gives is cut off", func(m *Mesh, _ *Job) { m.CutOff("fra-1", from) }, heal, false, true},
		{"the node that takes is cut off", func(m *Mesh, _ *Job) { m.CutOff("fra-1", to) }, heal, false, true},
		{"the two are cut off from each other", func(m *Mesh, _ *Job) {
			m.cut(m.host("fra-1", from).addr, m.host("fra-1", to).addr, true)
		}, heal, false, true},
		{"the leader is killed", func(m *Mesh, _ *Job) {
			lost := m.Leader("fra-1")
			m.Kill("fra-1", lost)
			m.log.add("fault", "it led: "+string(lost))
		}, func(m *Mesh) {
			for _, h := range m.region("fra-1").hosts {
				m.Restart("fra-1", h.name)
			}
		}, false, true},
		{"the job is stopped", func(m *Mesh, job *Job) { m.must(job.stop()) }, nil, true, false},
		{"the node that takes is drained", func(m *Mesh, _ *Job) {
			_, err := m.At("fra-1").Drain(m.t.Context(), to, api.DrainRequest{})
			m.must(err)
		}, nil, false, true},
	}
}

func (j *Job) stop() error {
	_, err := j.m.At(j.home).StopJob(j.m.t.Context(), j.ID, "a test")
	return err
}

// Whatever goes wrong at whichever step: two copies never run, and in the end one
// does, or none if the job was stopped.
func TestOneCopyRunsWhateverGoesWrong(t *testing.T) {
	for _, step := range []string{fake.StepReceive, fake.StepSend, fake.StepSwitch, fake.StepSent, fake.StepFinish} {
		middle := step == fake.StepSend || step == fake.StepSwitch || step == fake.StepSent
		for _, f := range faults() {
			if f.rare && !middle {
				continue
			}
			t.Run(step+", "+f.name, func(t *testing.T) {
				Run(t, func(t *testing.T) { moveWithFault(t, step, f) })
			})
		}
	}
}

func moveWithFault(t *testing.T, step string, f fault) {
	fleet := fake.NewFleet()
	var armed atomic.Bool
	reached, goOn := make(chan struct{}), make(chan struct{})
	at := func(ctx context.Context, now string, _ placement.TaskID) error {
		if now != step || !armed.CompareAndSwap(true, false) {
			return nil
		}
		close(reached)
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m := New(t, Spec{ID: "fra-1", Country: "FR", Nodes: 5, Machine: func(h *host) {
		h.world.Join(fleet, "7.2")
		h.world.OnMove(at)
	}})
	job := m.on("fra-1", "n4", single)
	for _, h := range m.region("fra-1").hosts[:3] {
		_, err := m.At("fra-1").Cordon(t.Context(), h.name)
		m.must(err)
	}
	armed.Store(true)
	_, err := m.At("fra-1").Drain(t.Context(), "n4", api.DrainRequest{})
	m.must(err)
	select {
	case <-reached:
	case <-time.After(time.Minute):
		t.Fatal("the move did not come so far")
	}
	f.do(m, job)
	time.Sleep(2 * time.Second)
	close(goOn)
	time.Sleep(10 * time.Second)
	if f.mend != nil {
		f.mend(m)
	}
	settled := func() bool {
		running, doc := fleet.Running(job.ID), job.Now()
		if f.ends {
			return len(running) == 0 && doc != nil && doc.Status.Terminal()
		}
		return len(running) == 1 && doc != nil && doc.Status == placement.JobRunning && m.region("fra-1").newest().Task(running[0]).Status == placement.TaskRunning &&
			m.region("fra-1").newest().MoveOf(running[0]) == nil
	}
	ok := false
	for end := time.Now().Add(5 * time.Minute); !ok && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		ok = settled()
	}
	if !ok {
		t.Errorf("in the end %v run, the job is %s", fleet.Running(job.ID), job)
		for _, task := range m.region("fra-1").newest().TasksOf(job.ID) {
			t.Logf("%+v", *task)
		}
	}
	time.Sleep(20 * time.Second)
	if twice := fleet.Twice(); len(twice) > 0 {
		t.Error(strings.Join(twice, "\n"))
	}
	if !settled() {
		t.Errorf("later %v run, the job is %s", fleet.Running(job.ID), job)
	}
	m.CheckInvariants()
}
