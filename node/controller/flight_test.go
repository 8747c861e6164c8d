package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// devices joins a node with so many GPUs.
func (w *world) devices(id string, gpus int) {
	w.t.Helper()
	n := nodeOf(id, 40)
	for d := range gpus {
		n.Inventory.Devices = append(n.Inventory.Devices, placement.Device{UUID: fmt.Sprintf("SIM-%s-%d", id, d), Model: "NVIDIA H100 80GB HBM3",
			Memory: 80 * placement.GiB, Health: placement.DeviceOK, Simulated: true})
	}
	w.join(n)
}

// asking is a job with a name of its own for so many GPUs, a share of one, or a
// gang of them.
func asking(n int, tenant placement.TenantID, gpus int, share placement.MilliGPU, members int) func(*placement.Job) {
	return func(j *placement.Job) {
		j.ID = placement.JobID(fmt.Sprintf("fra-1.01kb%s%02d", strings.Repeat("0", 20), n))
		j.Tenant = tenant
		j.Spec.Resources.GPUs, j.Spec.Resources.GPUShare, j.Spec.Members = gpus, share, members
	}
}

// Whatever order proposals are answered in, and though some are refused or not
// answered at all: no device is given away twice, no job is forgotten, and no plan
// asks for what another one has asked for already. What plans while proposals are in flight
// would get wrong, the state would refuse.
func TestPlansOverlapWithProposals(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) { overlap(t, w, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func overlap(t *testing.T, w *world, chance *rand.Rand) {
	var mu sync.Mutex
	draw := func(n int) int { mu.Lock(); defer mu.Unlock(); return chance.IntN(n) }
	var lost []placement.JobID // whose assignment was committed and its answer lost
	flying, most := 0, 0
	w.before = func(ctx context.Context, cmd state.Command) error {
		a, ok := cmd.(state.Assign)
		if !ok {
			return nil
		}
		mu.Lock()
		flying++
		most = max(most, flying)
		mu.Unlock()
		defer func() { mu.Lock(); flying--; mu.Unlock() }()
		if !sleep(ctx, time.Duration(draw(400))*time.Millisecond) {
			return ctx.Err()
		}
		switch draw(8) {
		case 0:
			return &state.Refused{Code: "test.refused", Message: "not now"}
		case 1:
			mu.Lock()
			lost = append(lost, a.Assignments[0].Job)
			mu.Unlock()
			w.apply(cmd, "node:n1")
			return errors.New("leadership lost")
		}
		return nil
	}
	for i := range 5 {
		w.devices(fmt.Sprint("n", i+2), 8)
	}
	w.ok(state.SetTenant{Tenant: state.Tenant{ID: "small", Quota: state.Quota{Limit: map[string]int{"gpus": 2}}}})
	w.lead()
	size := map[placement.JobID]int{}
	var small []placement.JobID
	for n := range 40 {
		switch draw(5) {
		case 0:
			small = append(small, w.submit(1, "EU", asking(n, "small", 1, 0, 0)))
		case 1:
			size[w.submit(1, "EU", asking(n, "default", 1, 300, 0))] = 1
		case 2:
			size[w.submit(1, "EU", asking(n, "default", 1, 0, 2))] = 2
		case 3:
			size[w.submit(1, "EU", asking(n, "default", 0, 0, 0))] = 1
		default:
			size[w.submit(1, "EU", asking(n, "default", 1, 0, 0))] = 1
		}
		w.pass(time.Duration(draw(60)) * time.Millisecond)
		if n == 20 { // another leads; what was in flight is forgotten with this one
			w.stop()
			w.lead()
		}
	}
	w.pass(time.Minute)
	for job, n := range size {
		if got := w.live(job); len(got) != n {
			t.Errorf("job %s has tasks on %v, want %d", job, got, n)
		}
	}
	held := 0
	for _, job := range small {
		held += len(w.live(job))
	}
	if held != min(2, len(small)) {
		t.Errorf("tenant small holds %d devices of the 2 that it may", held)
	}
	if most < 2 {
		t.Error("no plan was made while a proposal was in flight")
	}
	nothingTwice(t, w)
	for _, a := range heard[state.Assign](w) {
		if job := a.cmd.(state.Assign).Assignments[0].Job; a.refused != nil && !slices.Contains(lost, job) {
			t.Errorf("%s of %s: a plan did not see what was in flight", a.refused.Code, job)
		}
	}
}

// nothingTwice adds up what the live tasks of every node hold.
func nothingTwice(t *testing.T, w *world) {
	view := w.View()
	for _, n := range view.Nodes() {
		held := map[string]placement.MilliGPU{}
		for _, task := range view.TasksOn(n.ID) {
			for _, d := range task.Devices {
				if held[d] += task.Resources.PerDevice(); held[d] > placement.WholeGPU {
					t.Errorf("device %s is given away twice", d)
				}
			}
		}
	}
}

// A plan does not wait for the commits of the one before it, and one refusal frees
// its room at once though no newer view follows.
func TestAPlanWaitsForNoCommit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 2)
		answer := make(chan struct{})
		var held atomic.Bool
		w.before = func(_ context.Context, cmd state.Command) error {
			if _, ok := cmd.(state.Assign); ok && held.CompareAndSwap(false, true) {
				<-answer
				return &state.Refused{Code: "test.refused", Message: "not now"}
			}
			return nil
		}
		w.lead()
		slow := w.submit(1, "EU")
		w.pass(100 * time.Millisecond)
		quick, third := w.submit(2, "EU"), w.submit(3, "EU")
		w.pass(100 * time.Millisecond)
		if !held.Load() {
			t.Fatal("nothing was proposed")
		}
		w.wantLive(quick, "n2")
		w.wantLive(third) // the room of the first is still taken
		close(answer)
		w.pass(100 * time.Millisecond)
		if got := len(w.live(slow)) + len(w.live(third)); got != 1 {
			t.Errorf("%d of the two that wait were given the room that came free", got)
		}
	})
}

// What was committed counts as in flight until a view shows it: answers may come
// before the view that the next plan is made from.
func TestWhatIsCommittedCountsUntilItShows(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node("n2", 2)
		job := w.submit(1, "EU")
		view := w.View()
		s := view.Snapshot(w.now())
		a := placement.Assignment{Task: job.Task(0, 1), Job: job, Node: "n2"}
		f := newFlight(1)
		f.launch(t.Context(), func(context.Context, state.Command) (state.Result, outcome) {
			return state.Result{Index: view.Index() + 1}, done
		}, units(s, []placement.Assignment{a})[0])
		f.flying.Wait()
		if wanted := f.over(view, s).Wanted; len(wanted) != 0 {
			t.Error("a job that was just placed is wanted again")
		}
		w.node("n3", 1)
		if wanted := f.over(w.View(), s).Wanted; len(wanted) != 1 {
			t.Error("a job that a view should show as placed is still held to be on its way")
		}
	})
}
