package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// other is the node at the other end of a move, and the region's word about it.
type other struct {
	mu     sync.Mutex
	decide func(commit bool) error // guarded by mu
	ends   []runner.MoveEnd        // guarded by mu
	law    error                   // guarded by mu
}

func (o *other) Lawful(placement.Task) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.law
}

// proposed is what was proposed so far.
func (o *other) proposed() []runner.MoveEnd {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.ends)
}

func (o *other) forbid(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.law = err
}

func (o *other) Ready(context.Context, placement.Task) (bool, error) { return true, nil }

// Open is taken by a node that takes everything in.
func (o *other) Open(context.Context, placement.Task, string) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		if _, err := there.Write([]byte("?")); err != nil {
			return
		}
		var all map[string]any
		if json.NewDecoder(there).Decode(&all) == nil {
			_, _ = there.Write([]byte("!"))
		}
	}()
	return here, nil
}

func (o *other) Decide(_ context.Context, _, _ placement.TaskID, end runner.MoveEnd) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ends = append(o.ends, end)
	return o.decide(end.Commit)
}

func (o *other) says(decide func(commit bool) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.decide = decide
}

func unreached(bool) error { return errors.New("no leader is reachable") }

func taken(bool) error { return &runner.MoveRefusedError{Reason: "it took over", Taken: true} }

func notTaken(bool) error { return &runner.MoveRefusedError{Reason: "it is decided"} }

// moves makes the bed's agents ones that move tasks.
func (b *bed) moves() *other {
	o := &other{decide: unreached}
	b.world.Join(fake.NewFleet(), "7.2")
	b.change = func(c *runner.Config) { c.Moves = o }
	return o
}

// sent is a task that stands still here, whole on the other side, undecided.
func (b *bed) sent(change func(*runner.Want)) placement.TaskID {
	b.Helper()
	id := b.region.assign(0, change, "sleep")
	synctest.Wait()
	to := &placement.Task{ID: job.Task(0, 2), Job: job, Node: "n2", Replaces: id, Move: placement.MoveLive}
	b.region.commit(func() { b.region.tasks[id].MovesTo = to })
	b.pass(3 * time.Second)
	return id
}

// received is a task that was taken in here, and stands still.
func (b *bed) received(changes ...func(*runner.Want)) placement.TaskID {
	b.Helper()
	id := b.region.assign(0, func(w *runner.Want) {
		w.Task.Move, w.Task.Replaces = placement.MoveLive, job.Task(0, 0)
		for _, change := range changes {
			change(w)
		}
	}, "sleep")
	synctest.Wait()
	here, there := net.Pipe()
	if err := b.r.Deliver(id, "state", there); err != nil {
		b.Fatal(err)
	}
	_, _ = io.ReadFull(here, make([]byte, 1))
	_ = json.NewEncoder(here).Encode(map[string]any{"done": 1, "disk": "first"})
	_, _ = io.ReadFull(here, make([]byte, 1))
	synctest.Wait()
	return id
}

// What a task keeps is on the side that the ledger named, whatever was lost there
// meanwhile.
func TestTheDiskIsWhereTheLedgerSaysThoughTheNodeRestarts(t *testing.T) {
	committed := func(w *runner.Want) { w.Task.Status, w.Task.StartedAt = placement.TaskRunning, time.Now() }
	for name, c := range map[string]struct {
		take  bool
		word  func(bool) error
		after func(b *bed, id placement.TaskID)
		disk  bool
	}{
		"taken, committed":      {true, notTaken, func(b *bed, id placement.TaskID) { committed(b.region.tasks[id]) }, true},
		"taken, and over since": {true, taken, func(b *bed, id placement.TaskID) { delete(b.region.tasks, id) }, true},
		"taken, given up":       {true, notTaken, func(b *bed, id placement.TaskID) { delete(b.region.tasks, id) }, false},
		"given, committed":      {false, taken, func(b *bed, id placement.TaskID) { delete(b.region.tasks, id) }, false},
		"given, lost":           {false, notTaken, func(b *bed, id placement.TaskID) { delete(b.region.tasks, id) }, true},
		"given, given up":       {false, notTaken, func(b *bed, id placement.TaskID) { b.region.tasks[id].MovesTo = nil }, true},
	} {
		for _, reboot := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", rebooted", false: ""}[reboot], func(t *testing.T) {
				run(t, func(b *bed) {
					o := b.moves()
					b.agent()
					var id placement.TaskID
					if c.take {
						id = b.received()
					} else {
						id = b.sent(nil)
					}
					if reboot {
						b.kill()
						b.world.Reboot()
						b.agent()
						b.pass(time.Second)
					}
					o.says(c.word)
					b.region.commit(func() { c.after(b, id) })
					b.pass(time.Minute)
					if disk := b.world.Disk(id); (disk != "") != c.disk {
						t.Errorf("its disk here is %q", disk)
					}
					if s := b.status(id); reboot && s.Status.Live() {
						t.Errorf("it is %s: %s", s.Status, s.Reason)
					}
				})
			})
		}
	}
}

// A singleton that stood still until its lease was over keeps its disk, and its
// end is told, so that its job goes on.
func TestALeaseThatEndsInAMoveKeepsTheDisk(t *testing.T) {
	run(t, func(b *bed) {
		o := b.moves()
		b.agent()
		id := b.sent(func(w *runner.Want) {
			w.Job.Spec.Singleton, w.Task.LeaseUntil = true, time.Now().Add(30*time.Second)
		})
		b.pass(26 * time.Second)
		o.says(notTaken)
		b.region.commit(func() { b.region.tasks[id].MovesTo = nil })
		b.pass(time.Minute)
		if b.world.Disk(id) != id {
			t.Error("its disk is gone")
		}
		if s := b.status(id); s.Status != placement.TaskStopped || s.Reason != "its lease ended before it was renewed" {
			t.Errorf("it is %s: %s", s.Status, s.Reason)
		}
		if got := b.region.said(); len(got) == 0 || got[len(got)-1] != "0.1 stopped 143: its lease ended before it was renewed" && got[len(got)-1] != "0.1 stopped 137: its lease ended before it was renewed" {
			t.Errorf("reported: %q", got)
		}
		b.runs()
	})
}

// A lease that is renewed while the task stands still reaches its supervisor.
func TestALeaseIsRenewedInAMove(t *testing.T) {
	run(t, func(b *bed) {
		b.moves()
		b.agent()
		id := b.sent(func(w *runner.Want) {
			w.Job.Spec.Singleton, w.Task.LeaseUntil = true, time.Now().Add(30*time.Second)
		})
		b.region.commit(func() { b.region.tasks[id].Task.LeaseUntil = time.Now().Add(time.Hour) })
		b.pass(time.Minute)
		b.region.commit(func() { b.region.tasks[id].MovesTo = nil })
		b.pass(time.Minute)
		b.runs(id)
	})
}

// An agent that starts anew reads a task that was not taken in, and goes on.
func TestATaskThatWasNotTakenInIsNoTroubleLater(t *testing.T) {
	run(t, func(b *bed) {
		b.moves()
		b.world.OnMove(func(context.Context, string, placement.TaskID) error { return errors.New("no room") })
		b.agent()
		id := b.region.assign(0, func(w *runner.Want) { w.Task.Move, w.Task.Replaces = placement.MoveLive, job.Task(0, 0) }, "sleep")
		b.pass(time.Second)
		b.agent()
		b.region.commit(func() { delete(b.region.tasks, id) })
		b.pass(time.Second)
		b.runs()
	})
}

// Nobody waits for the verdict about a guest that has ended at its new place.
func TestAGuestThatEndsBeforeTheVerdictGivesItsMoveUp(t *testing.T) {
	run(t, func(b *bed) {
		o := b.moves()
		b.agent()
		id := b.received()
		asked := false
		o.says(func(commit bool) error {
			asked = asked || !commit
			return notTaken(commit)
		})
		b.world.Finish(id, 1)
		b.pass(time.Second)
		if !asked {
			t.Error("the move is not given up")
		}
		b.region.commit(func() { delete(b.region.tasks, id) })
		b.pass(time.Minute)
		if s := b.status(id); s.Status.Live() || b.world.Disk(id) != "" {
			t.Errorf("it is %s, with a disk %q", s.Status, b.world.Disk(id))
		}
	})
}
