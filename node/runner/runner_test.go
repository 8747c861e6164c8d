package runner_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

func TestAnAssignmentRunsAndEndsWithoutATick(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		began := time.Now()
		id := b.region.assign(0, nil, "run", "5s", "3")
		synctest.Wait()
		b.runs(id)
		b.heard("0.1 running")
		if time.Since(began) != 0 {
			b.Errorf("running after %s of virtual time; nothing on the way may wait", time.Since(began))
		}
		b.pass(5 * time.Second)
		b.heard("0.1 running", "0.1 failed 3: exit code 3")
		b.region.assign(1, nil, "exit", "0")
		synctest.Wait()
		b.heard("0.1 running", "0.1 failed 3: exit code 3", "1.1 running", "1.1 complete 0")
	})
}

func TestRestartedAgentRecoversAndStartsNothingAgain(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		long, short := b.region.assign(0, nil, "sleep"), b.region.assign(1, nil, "run", "10s", "4")
		synctest.Wait()
		b.kill()
		b.runs(long, short)
		b.pass(time.Minute) // the short one ends meanwhile
		b.region.heard = nil
		b.agent()
		b.runs(long)
		heard := strings.Join(b.region.said(), "; ")
		if !strings.Contains(heard, "0.1 running") || !strings.Contains(heard, "1.1 failed 4: exit code 4") {
			b.Errorf("the agent that came back says %q", heard)
		}
		if s := b.status(short); s.EndedAt.After(time.Now().Add(-30 * time.Second)) {
			b.Errorf("the end is dated %s, when the agent came back, and not when it was", s.EndedAt)
		}
	})
}

func TestOnlyANewerViewEndsARecoveredTask(t *testing.T) {
	run(t, func(b *bed) {
		b.region.index = 100
		b.agent()
		id := b.region.assign(0, nil, "sleep")
		synctest.Wait()
		b.kill()
		index := b.region.index
		b.region.index = 0
		task := b.region.tasks[id]
		delete(b.region.tasks, id)
		b.region.heard = nil
		b.agent() // no view at all
		b.pass(time.Hour)
		b.runs(id)
		b.region.commit(func() {}) // an old replica: it has not seen the assignment
		b.pass(time.Hour)
		b.runs(id)
		b.region.commit(func() { b.region.index, b.region.tasks[id] = index, task })
		b.pass(time.Hour)
		b.runs(id)
		b.region.commit(func() { delete(b.region.tasks, id) })
		synctest.Wait()
		b.runs()
		if s := b.status(id); s.Status != placement.TaskStopped {
			b.Errorf("it is %s", s.Status)
		}
	})
}

func TestStopWithGrace(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, nil, "stubborn")
		synctest.Wait()
		b.region.commit(func() { b.region.tasks[id].Task.Stop, b.region.tasks[id].Task.StopReason = true, "drained" })
		b.pass(9 * time.Second)
		b.runs(id)
		b.pass(time.Second)
		b.runs()
		b.heard("0.1 running", "0.1 stopped 137: drained")
	})
}

// A task that has run for its max_runtime is told to end, has its grace, and says
// why; an agent that starts anew meanwhile counts on from the task's start.
func TestATaskEndsWithItsTime(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		bound := func(w *runner.Want) { w.Job.Spec.MaxRuntime = placement.Duration(time.Minute) }
		polite, deaf := b.region.assign(0, bound, "sleep"), b.region.assign(1, bound, "stubborn")
		synctest.Wait()
		b.pass(40 * time.Second)
		b.kill()
		b.agent()
		b.pass(19 * time.Second)
		b.runs(polite, deaf)
		b.pass(time.Second)
		b.runs(deaf)
		b.pass(10 * time.Second)
		b.runs()
		for _, id := range []placement.TaskID{polite, deaf} {
			if s := b.status(id); s.Status != placement.TaskStopped || s.Reason != "it has run for its max_runtime of 1m0s" {
				t.Errorf("%s: %s, %q", id, s.Status, s.Reason)
			}
		}
	})
}

func TestStopThatIsKnownBeforeTheStart(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		b.region.assign(0, func(w *runner.Want) { w.Task.Stop, w.Task.StopReason = true, "too late" }, "sleep")
		synctest.Wait()
		b.runs()
		b.heard("0.1 stopped: too late")
	})
}

func TestSingletonEndsWithItsLease(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		until := time.Now().Add(30 * time.Second)
		singleton := func(w *runner.Want) { w.Job.Spec.Singleton, w.Task.LeaseUntil = true, until }
		polite, deaf := b.region.assign(0, singleton, "sleep"), b.region.assign(1, singleton, "stubborn")
		synctest.Wait()
		b.region.commit(func() { // renewed once
			until = until.Add(30 * time.Second)
			b.region.tasks[polite].Task.LeaseUntil, b.region.tasks[deaf].Task.LeaseUntil = until, until
		})
		b.pass(50 * time.Second)
		b.runs(polite, deaf)
		b.region.isolate() // from here on nothing arrives, and nothing is renewed
		b.pass(time.Until(until))
		b.runs()
		b.region.commit(func() { b.region.cut = false })
		b.pass(10 * time.Second)
		const why = "its lease ended before it was renewed"
		for _, id := range []placement.TaskID{polite, deaf} {
			if s := b.status(id); s.Status != placement.TaskStopped || s.Reason != why || !s.EndedAt.Before(until) {
				b.Errorf("%s: %s, %q, ended %s before the lease", id, s.Status, s.Reason, until.Sub(s.EndedAt))
			}
			if s := b.status(id); s.Exit.Killed != (id == deaf) {
				b.Errorf("%s: %+v; a task is asked before its lease ends, and killed only if it does not hear", id, s.Exit)
			}
		}
	})
}

func TestSingletonEndsWithItsLeaseWithoutAnAgent(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		until := time.Now().Add(30 * time.Second)
		id := b.region.assign(0, func(w *runner.Want) { w.Job.Spec.Singleton, w.Task.LeaseUntil = true, until }, "stubborn")
		synctest.Wait()
		b.runs(id)
		b.kill()
		b.pass(29 * time.Second)
		b.runs()
		b.agent()
		if s := b.status(id); s.Status != placement.TaskStopped {
			b.Errorf("the agent that came back has it as %s", s.Status)
		}
	})
}

func TestARenewedLeaseOutlivesTheAgent(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, func(w *runner.Want) {
			w.Job.Spec.Singleton, w.Task.LeaseUntil = true, time.Now().Add(30*time.Second)
		}, "sleep")
		synctest.Wait()
		b.region.commit(func() { b.region.tasks[id].Task.LeaseUntil = time.Now().Add(time.Hour) })
		synctest.Wait()
		b.kill()
		b.pass(time.Minute)
		b.region.isolate()
		b.agent() // it sees no view, only its own record
		b.pass(time.Minute)
		b.runs(id)
	})
}

func TestCutOffNodeKeepsItsWorkAndTellsLater(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		long := b.region.assign(0, nil, "sleep")
		b.region.assign(1, nil, "run", "1m")
		synctest.Wait()
		b.region.isolate()
		b.region.commit(func() { b.region.tasks[long].Task.Status = placement.TaskUnknown })
		b.pass(24 * time.Hour)
		b.runs(long)
		b.region.commit(func() { b.region.cut, b.region.heard = false, nil })
		b.pass(5 * time.Second)
		b.heard("1.1 complete 0", "0.1 running")
	})
}

func TestRefusedByTheGateIsNeverStarted(t *testing.T) {
	run(t, func(b *bed) {
		b.gate = runner.Gates(runner.ClockGate(time.Minute), func(task placement.Task, _ placement.Job) error {
			if task.ID == job.Task(1, 1) {
				return errors.New("FR is not in the job's tag")
			}
			return nil
		})
		b.agent()
		b.region.assign(0, func(w *runner.Want) { w.Task.AssignedAt = time.Now().Add(30 * 24 * time.Hour) }, "sleep")
		synctest.Wait()
		b.region.assign(1, nil, "sleep")
		synctest.Wait()
		b.runs()
		if len(b.world.Starts()) != 0 {
			b.Errorf("started: %v", b.world.Starts())
		}
		b.heard("0.1 failed: "+runner.RefusedPrefix+"its assignment is stamped 720h0m0s ahead of this node's clock (at most 1m0s is taken); compare the clocks of this node and of its leader",
			"1.1 failed: "+runner.RefusedPrefix+"FR is not in the job's tag")
		b.agent()
		b.pass(time.Minute)
		b.runs()
	})
}

func TestFullDiskEndsNothing(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, nil, "run", "1h", "5")
		synctest.Wait()
		b.memory.Fail(errors.New("no space left on device"))
		b.region.assign(1, nil, "sleep") // cannot be remembered, so it is not started
		b.pass(30 * time.Minute)
		b.runs(id)
		if err := b.r.Problem(); err == nil || !strings.Contains(err.Error(), "no space") {
			b.Errorf("the problem is shown as %v", err)
		}
		b.pass(30 * time.Minute)
		if s := b.status(id); s.Status != placement.TaskFailed || s.Exit.Code != 5 || !s.Unsaved {
			b.Errorf("ended on a full disk, it is %+v", s)
		}
		b.memory.Fail(nil)
		b.pass(10 * time.Second)
		if b.r.Problem() != nil || b.status(id).Unsaved {
			b.Errorf("with space again: %v, %+v", b.r.Problem(), b.status(id))
		}
	})
}

func TestAViewFromBeforeTheEndStartsNothingAgain(t *testing.T) {
	run(t, func(b *bed) {
		b.change = func(c *runner.Config) { c.KeepFinished = 0 }
		b.agent()
		id := b.region.assign(0, nil, "exit", "0")
		synctest.Wait()
		assigned := *b.region.tasks[id]
		assigned.Task.Status, assigned.Task.StartedAt = placement.TaskAssigned, time.Time{}
		b.region.commit(func() { delete(b.region.tasks, id) })
		b.pass(time.Second)
		b.region.commit(func() {})
		b.pass(time.Second)
		if all := b.r.Tasks(); len(all) != 0 {
			b.Fatalf("not collected: %+v", all)
		}
		b.kill()
		b.region.index, b.region.tasks[id] = 1, &assigned // a replica that lags behind
		b.agent()
		b.pass(time.Minute)
		if n := b.world.Starts()[id]; n != 1 {
			b.Errorf("started %d times", n)
		}
	})
}

func TestWhatRanHereBeforeTheRecordsWereLostIsNotStartedAgain(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		b.region.assign(0, func(w *runner.Want) {
			w.Task.Status, w.Task.StartedAt = placement.TaskRunning, time.Now().Add(-time.Hour)
		}, "sleep")
		b.pass(time.Second)
		b.runs()
		b.heard("0.1 failed: this node has no trace of it any more, though it ran here; it is not started a second time")
	})
}

func TestWhatIsAlreadyThereIsAdopted(t *testing.T) {
	run(t, func(b *bed) {
		id := job.Task(0, 1)
		spec := runner.Spec{Task: id, Command: []string{"sleep"}, Keep: func(runner.Handle) error { return nil }}
		if _, err := b.world.Driver().Start(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
		b.agent()
		b.pass(time.Second)
		if s := b.r.Strays(); len(s) != 1 || s[0].Handle.Task != id {
			b.Errorf("strays: %+v", s)
		}
		b.region.assign(0, nil, "sleep")
		synctest.Wait()
		b.heard("0.1 running")
		b.runs(id)
	})
}

func TestAnEngineThatIsDownEndsNothing(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, nil, "run", "1h")
		synctest.Wait()
		b.world.FailAsk(errors.New("the engine does not answer"))
		b.pass(time.Minute)
		b.agent()
		b.pass(time.Minute)
		if s := b.status(id); s.Status != placement.TaskAssigned || !strings.Contains(s.Reason, "the engine does not answer") {
			b.Errorf("while nobody can tell: %+v", s)
		}
		b.world.FailAsk(nil)
		b.pass(time.Hour)
		if s := b.status(id); s.Status != placement.TaskComplete {
			b.Errorf("in the end: %+v", s)
		}
	})
}

func TestAPowerCutIsToldFromAnExit(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, nil, "sleep")
		synctest.Wait()
		b.kill()
		b.world.Reboot()
		b.agent()
		b.pass(time.Second)
		if s := b.status(id); s.Status != placement.TaskFailed || s.Exit != nil || !strings.Contains(s.Reason, "not known") {
			b.Errorf("%+v", s)
		}
	})
}

func TestWhatCannotBeStartedSaysWhy(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		b.region.assign(0, nil, "frobnicate")
		b.region.assign(1, func(w *runner.Want) { w.Task.Kind = placement.KindVM })
		b.pass(time.Second)
		said := strings.Join(b.region.said(), "\n")
		if !strings.Contains(said, `no program "frobnicate"; use run`) || !strings.Contains(said, "no driver for jobs of kind vm") {
			b.Errorf("reported: %s", said)
		}
	})
}

func TestOutputIsReadAndFollowed(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, nil, "run", "1m")
		synctest.Wait()
		b.world.Print(id, "one\n")
		r, err := b.r.Logs(b.Context(), id, 0, true)
		if err != nil {
			b.Fatal(err)
		}
		text := make(chan string, 1)
		go func() {
			data, _ := io.ReadAll(r)
			text <- string(data)
		}()
		b.pass(30 * time.Second)
		b.world.Print(id, "two\n")
		if got := <-text; got != "one\ntwo\n" {
			b.Errorf("followed: %q", got)
		}
		var unknown *runner.UnknownTaskError
		if _, err := b.r.Logs(b.Context(), "x/0.1", 0, false); !errors.As(err, &unknown) {
			b.Errorf("output of an unknown task: %v", err)
		}
	})
}

func TestFinishedTasksAreCollectedInTime(t *testing.T) {
	run(t, func(b *bed) {
		b.change = func(c *runner.Config) { c.KeepFinished, c.KeepFor = 3, time.Hour }
		b.agent()
		for i := range 6 {
			b.region.assign(i, nil, "print", "x")
			b.pass(time.Second)
		}
		b.region.commit(func() {})
		b.pass(time.Second)
		if n := len(b.r.Tasks()); n != 3 {
			b.Errorf("%d finished tasks are kept, want 3", n)
		}
		b.pass(2 * time.Hour)
		b.region.commit(func() {})
		b.pass(time.Second)
		if n := len(b.r.Tasks()); n != 0 {
			b.Errorf("%d finished tasks are kept after their time", n)
		}
	})
}

// Of a job that was erased nothing is kept, however new it is; a task of it that
// still runs, or whose end the region does not know, is not touched.
func TestWhatIsErasedIsCollectedAtOnce(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		const erased = placement.JobID("fra-1.another")
		gone := b.region.assign(0, func(w *runner.Want) { w.Task.Job, w.Job.ID = erased, erased }, "print", "x")
		stays := b.region.assign(1, nil, "print", "x")
		b.pass(time.Second)
		b.region.commit(func() {})
		b.pass(time.Second)
		if n := len(b.r.Tasks()); n != 2 {
			b.Fatalf("%d tasks are kept before", n)
		}
		b.region.commit(func() { b.region.erased = map[placement.JobID]bool{erased: true} })
		b.pass(time.Second)
		if all := b.r.Tasks(); len(all) != 1 || b.status(stays).Status != placement.TaskComplete {
			b.Errorf("kept: %+v", all)
		}
		if _, err := b.r.Logs(b.Context(), gone, 0, false); err == nil {
			b.Error("its output can still be read")
		}
	})
}

func TestManyAtOnceAreAllStarted(t *testing.T) {
	run(t, func(b *bed) {
		b.agent()
		for i := range 200 {
			b.region.assign(i, nil, "run", "1s")
		}
		b.pass(time.Second)
		for _, s := range b.r.Tasks() {
			if s.Status != placement.TaskComplete {
				b.Errorf("%s is %s", s.Task, s.Status)
			}
		}
	})
}

func TestStopOnExitLeavesNothing(t *testing.T) {
	run(t, func(b *bed) {
		b.change = func(c *runner.Config) { c.StopOnExit = true }
		b.agent()
		b.region.assign(0, nil, "sleep")
		b.region.assign(1, nil, "stubborn")
		synctest.Wait()
		b.kill()
		b.runs()
	})
}
