package runner_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// movesTo assigns a task that runs, and then moves it.
func (b *bed) movesTo(n int) placement.TaskID {
	b.Helper()
	id := b.region.assign(n, nil, "sleep")
	b.pass(time.Second)
	to := &placement.Task{ID: job.Task(n, 2), Job: job, Node: "n2", Replaces: id, Move: placement.MoveLive}
	b.region.commit(func() { b.region.tasks[id].MovesTo = to })
	b.pass(3 * time.Second)
	return id
}

// No more tasks are moved away at once than the node may; the others say why they
// wait, run on, and have their turn, or end, or are called off meanwhile.
func TestMovesWaitForTheirTurn(t *testing.T) {
	run(t, func(b *bed) {
		b.moves()
		set := b.change
		b.change = func(c *runner.Config) { set(c); c.MovesOut = 1 }
		slow := make(chan struct{})
		sends := 0
		b.world.OnMove(func(ctx context.Context, step string, _ placement.TaskID) error {
			if step != fake.StepSend {
				return nil
			}
			sends++
			select {
			case <-slow:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		b.agent()
		first, second, third, fourth := b.movesTo(0), b.movesTo(1), b.movesTo(2), b.movesTo(3)
		for _, id := range []placement.TaskID{second, third, fourth} {
			if s := b.status(id); !strings.Contains(s.Reason, "its turn comes") {
				t.Errorf("task %s waits, and says %q", id, s.Reason)
			}
		}
		b.runs(first, second, third, fourth)
		// One is told to end, one's move is given up: neither waits any longer.
		b.region.commit(func() { b.region.tasks[second].Task.Stop = true })
		b.region.commit(func() { b.region.tasks[third].MovesTo = nil })
		b.pass(20 * time.Second)
		b.runs(first, third, fourth)
		if s := b.status(third); s.Reason != "" {
			t.Errorf("what is not moved any more says %q", s.Reason)
		}
		if sends != 1 {
			t.Errorf("%d were sent at once", sends)
		}
		close(slow)
		b.pass(20 * time.Second)
		if sends != 2 {
			t.Errorf("the last one never had its turn: %d were sent", sends)
		}
	})
}

// A node takes no more tasks in at once than it may: the turn is given to who asks
// for it, and comes back when that one is there, or will not come.
func TestTasksThatComeWaitForTheirTurn(t *testing.T) {
	run(t, func(b *bed) {
		b.moves()
		set := b.change
		b.change = func(c *runner.Config) { set(c); c.MovesIn = 1 }
		b.agent()
		come := func(n int) placement.TaskID {
			return b.region.assign(n, func(w *runner.Want) { w.Task.Move, w.Task.Replaces = placement.MoveLive, job.Task(n, 0) }, "sleep")
		}
		first, second := come(0), come(1)
		synctest.Wait()
		// Who is asked for first has the turn, however long the other waits.
		b.pass(2 * time.Hour)
		if !b.r.Expects(second) || b.r.Expects(first) || !b.r.Expects(second) {
			t.Fatal("the turn is not one's")
		}
		b.region.commit(func() { delete(b.region.tasks, second) })
		b.pass(time.Second)
		if !b.r.Expects(first) {
			t.Error("the turn of what does not come is lost")
		}
		b.pass(time.Hour) // what had its turn and does not come is refused
		if s := b.status(first); s.Status.Live() || !strings.Contains(s.Reason, "longer than a move may take") {
			t.Errorf("it is %+v", s)
		}
	})
}

// What stood in a move's way without being its own does not count against it.
func TestWhoseFaultItWasThatAMoveEnded(t *testing.T) {
	last := func(o *other) runner.MoveEnd {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.ends[len(o.ends)-1]
	}
	for name, c := range map[string]struct {
		happens   func(b *bed, o *other) placement.TaskID
		blameless bool
	}{
		"its line breaks": {func(b *bed, _ *other) placement.TaskID {
			b.world.OnMove(func(context.Context, string, placement.TaskID) error { return errors.New("the line broke") })
			return b.sent(nil)
		}, false},
		"the law changed": {func(b *bed, _ *other) placement.TaskID {
			b.world.OnMove(func(context.Context, string, placement.TaskID) error {
				return &runner.UnlawfulError{Err: errors.New("not there")}
			})
			return b.sent(nil)
		}, true},
		"the ledger does not take it": {func(b *bed, o *other) placement.TaskID {
			o.says(func(commit bool) error {
				if commit {
					return &runner.MoveRefusedError{Reason: "not lawful"}
				}
				return nil
			})
			return b.sent(nil)
		}, true},
		"its target is not there in time": {func(b *bed, o *other) placement.TaskID {
			b.change = func(c *runner.Config) { c.Moves, c.MoveWithin = never{o}, 20*time.Second }
			b.agent()
			id := b.sent(nil)
			b.pass(20 * time.Second)
			return id
		}, false},
		"its agent starts anew": {func(b *bed, _ *other) placement.TaskID {
			b.world.OnMove(func(ctx context.Context, _ string, _ placement.TaskID) error { <-ctx.Done(); return ctx.Err() })
			id := b.sent(nil)
			b.kill()
			b.world.OnMove(nil)
			b.agent()
			return id
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bed) {
				o := b.moves()
				b.agent()
				c.happens(b, o)
				b.pass(10 * time.Second)
				if end := last(o); end.Commit || end.Reason == "" || end.Blameless != c.blameless {
					t.Errorf("it proposes %+v", end)
				}
			})
		})
	}
}

// The time that a job may run goes on where it is moved to.
func TestTheTimeToRunGoesOnAfterAMove(t *testing.T) {
	run(t, func(b *bed) {
		b.moves()
		b.agent()
		id := b.received(func(w *runner.Want) { w.Job.Spec.MaxRuntime = placement.Duration(time.Hour) })
		b.region.commit(func() {
			w := b.region.tasks[id]
			w.Task.Status, w.Task.StartedAt, w.Task.RunsSince = placement.TaskRunning, time.Now(), time.Now().Add(-50*time.Minute)
		})
		b.pass(5 * time.Minute)
		b.runs(id)
		b.agent() // the next one knows it too
		b.pass(4 * time.Minute)
		b.runs(id)
		b.pass(2 * time.Minute)
		if s := b.status(id); s.Status != placement.TaskStopped || !strings.Contains(s.Reason, "max_runtime") {
			t.Errorf("it is %+v", s)
		}
	})
}

// An agent that was killed after the task went on here, and before it kept since
// when it runs, reads that in the next view.
func TestTheTimeToRunSurvivesAnAgentKilledAtTheSwitch(t *testing.T) {
	run(t, func(b *bed) {
		full := &fullDisk{Store: b.store}
		b.store = full
		b.moves()
		b.agent()
		id := b.received(func(w *runner.Want) { w.Job.Spec.MaxRuntime = placement.Duration(time.Hour) })
		full.is = true // nothing is kept from here on
		b.region.commit(func() {
			w := b.region.tasks[id]
			w.Task.Status, w.Task.StartedAt, w.Task.RunsSince = placement.TaskRunning, time.Now(), time.Now().Add(-50*time.Minute)
		})
		b.pass(time.Second)
		b.kill()
		full.is = false
		b.region.isolate()
		b.agent()
		b.pass(time.Minute) // it has taken up what it found
		b.region.commit(func() { b.region.cut = false })
		b.pass(5 * time.Minute)
		b.runs(id)
		b.pass(5 * time.Minute)
		if s := b.status(id); s.Status != placement.TaskStopped || !strings.Contains(s.Reason, "max_runtime") {
			t.Errorf("it is %+v", s)
		}
	})
}

// fullDisk keeps nothing while it is full.
type fullDisk struct {
	runner.Store
	is bool
}

func (f *fullDisk) Save(rec runner.Record) error {
	if f.is {
		return errors.New("no space left on the device")
	}
	return f.Store.Save(rec)
}

// never is a node that does not come to take anything in.
type never struct{ *other }

func (never) Ready(context.Context, placement.Task) (bool, error) { return false, nil }

// A task that ends in the first moment of its move is not held back by what the
// move would wait for.
func TestAnEndIsToldThoughItsMoveHadNotBegunToWait(t *testing.T) {
	for name, out := range map[string]int{"its turn": 1, "the other node": 2} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bed) {
				ends := &endsEarly{Driver: b.world.Driver(), world: b.world, id: job.Task(1, 1)}
				o := b.moves()
				b.change = func(c *runner.Config) {
					c.Moves, c.MovesOut, c.Drivers = never{o}, out, map[string]runner.Driver{"fake": ends}
				}
				b.agent()
				b.movesTo(0)
				if ended := b.movesTo(1); ended != ends.id || !ends.done {
					t.Fatalf("%s did not end as it was to", ended)
				}
				b.pass(10 * time.Second)
				o.mu.Lock()
				defer o.mu.Unlock()
				if len(o.ends) == 0 || o.ends[0].Commit {
					t.Errorf("its move is not given up: %+v", o.ends)
				}
			})
		})
	}
}

// endsEarly has a task end right after it was asked whether it can be moved.
type endsEarly struct {
	*fake.Driver
	world *fake.World
	id    placement.TaskID
	done  bool
}

func (e *endsEarly) CanMove(ctx context.Context, h runner.Handle) ([]string, error) {
	why, err := e.Driver.CanMove(ctx, h)
	if h.Task == e.id {
		e.done = true
		e.world.Finish(h.Task, 0)
		time.Sleep(time.Second) // of virtual time: the agent hears of it
	}
	return why, err
}
