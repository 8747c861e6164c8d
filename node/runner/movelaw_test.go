package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// waits holds a step of a move back until the move ends.
func (b *bed) waits(at string) {
	b.world.OnMove(func(ctx context.Context, step string, _ placement.TaskID) error {
		if step == at {
			<-ctx.Done()
		}
		return ctx.Err()
	})
}

// A law that changes in the middle of a move ends it at once, at its source.
func TestALawThatChangesEndsTheMoveThatIsUnderWay(t *testing.T) {
	run(t, func(b *bed) {
		o := b.moves()
		o.says(notTaken)
		b.waits(fake.StepSend)
		b.agent()
		id := b.sent(nil)
		o.forbid(errors.New("the node is not known"))
		b.pass(10 * time.Second)
		if len(o.proposed()) > 0 {
			t.Fatalf("what is no answer of the law ends the move: %+v", o.proposed())
		}
		o.forbid(&runner.UnlawfulError{Err: errors.New("not there any more")})
		b.pass(5 * time.Second)
		if len(o.proposed()) == 0 || o.proposed()[0].Commit || !o.proposed()[0].Blameless || !strings.Contains(o.proposed()[0].Reason, "not there any more") {
			t.Fatalf("it proposes %+v", o.proposed())
		}
		b.region.commit(func() { b.region.tasks[id].MovesTo = nil })
		b.pass(time.Second)
		b.runs(id)
		if s := b.status(id); s.Status != placement.TaskRunning || s.Reason != "" {
			t.Errorf("it is %s: %s", s.Status, s.Reason)
		}
	})
}

// The node that takes a task in judges too, throws away what it has, and leaves it to
// the source to say so first.
func TestALawThatChangesEndsWhatIsTakenIn(t *testing.T) {
	run(t, func(b *bed) {
		o := b.moves()
		b.agent()
		id := b.region.assign(0, func(w *runner.Want) {
			w.Task.Move, w.Task.Replaces = placement.MoveLive, job.Task(0, 0)
		}, "sleep")
		synctest.Wait()
		here, there := net.Pipe()
		if err := b.r.Deliver(id, "state", there); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(here, make([]byte, 1))
		o.forbid(&runner.UnlawfulError{Err: errors.New("not here any more")})
		b.pass(5 * time.Second)
		if err := json.NewEncoder(here).Encode(map[string]any{"done": 1, "disk": "first"}); err == nil {
			t.Error("what is sent to it is taken")
		}
		if b.r.Expects(id) || b.world.Disk(id) != "" {
			t.Errorf("it is still waited for, with a disk %q", b.world.Disk(id))
		}
		if said := b.region.said(); len(said) > 0 && strings.Contains(said[len(said)-1], "failed") {
			t.Errorf("the target speaks before the source does: %q", said)
		}
		b.pass(time.Minute)
		if s := b.status(id); s.Status != placement.TaskFailed || !strings.Contains(s.Reason, "not here any more") {
			t.Errorf("it is %s: %s", s.Status, s.Reason)
		}
	})
}

// lateAnswer is a node that takes minutes to answer what is offered to it.
type lateAnswer struct{ *other }

func (lateAnswer) Open(context.Context, placement.Task, string) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		time.Sleep(5 * time.Minute)
		var all map[string]any
		if _, err := there.Write([]byte("?")); err == nil && json.NewDecoder(there).Decode(&all) == nil {
			_, _ = there.Write([]byte("!"))
		}
	}()
	return here, nil
}

// A node that is connected may take its time to answer.
func TestAMoveWaitsForTheAnswerOfItsTarget(t *testing.T) {
	run(t, func(b *bed) {
		o := b.moves()
		o.says(notTaken)
		b.change = func(c *runner.Config) { c.Moves = lateAnswer{o} }
		b.agent()
		b.sent(nil)
		b.pass(4 * time.Minute)
		if len(o.proposed()) > 0 {
			t.Fatalf("the move ended: %+v", o.proposed())
		}
		b.pass(2 * time.Minute)
		if len(o.proposed()) == 0 || !o.proposed()[0].Commit {
			t.Fatalf("it proposes %+v", o.proposed())
		}
	})
}
