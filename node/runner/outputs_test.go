package runner_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/outputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// leaves says that a job has outputs.
func leaves(most placement.Outputs) func(*runner.Want) {
	return func(w *runner.Want) { w.Job.Spec.Setup = &placement.Setup{Outputs: &most} }
}

// ledgerBook takes notes, or not.
type ledgerBook struct {
	notes chan placement.TaskNote
	err   error
}

func (l *ledgerBook) Note(_ context.Context, notes []placement.TaskNote) error {
	if l.err != nil {
		return l.err
	}
	for _, n := range notes {
		l.notes <- n
	}
	return nil
}

func TestOutputsAreKeptAsLongAsTheTask(t *testing.T) {
	run(t, func(b *bed) {
		s, book := outputs.New(filepath.Join(b.TempDir(), "outputs")), &ledgerBook{notes: make(chan placement.TaskNote, 8)}
		b.change = func(c *runner.Config) {
			c.Outputs, c.Noter, c.KeepFinished = s, &ledgerBook{err: errors.New("no leader")}, 1
		}
		b.agent()
		id := b.region.assign(0, leaves(placement.Outputs{}), "save", "model", "weights")
		b.pass(time.Millisecond)
		list, err := b.r.Outputs(b.Context(), id)
		if err != nil || len(list.Files) != 1 || list.Files[0].Name != "model" {
			b.Fatalf("%+v, %v", list, err)
		}
		f, err := b.r.OpenOutput(b.Context(), id, list.Files[0].Digest)
		if err != nil {
			b.Fatal(err)
		}
		text, _ := io.ReadAll(f)
		_ = f.Close()
		if string(text) != "weights" {
			b.Errorf("it reads %q", text)
		}
		b.heard("0.1 running", "0.1 complete 0")

		b.change = func(c *runner.Config) { c.Outputs, c.Noter, c.KeepFinished = s, book, 1 }
		b.agent() // the next one tells what this one could not
		b.pass(2 * time.Second)
		if n := <-book.notes; n.What != placement.NoteOutputs || n.Subject != "files" || n.Count != 1 || n.Digest != list.Digest() || strings.Contains(n.Text, "model") {
			b.Errorf("the ledger hears %+v", n)
		}
		b.agent()
		b.pass(2 * time.Second)
		if len(book.notes) != 0 {
			b.Errorf("it hears it again: %+v", <-book.notes)
		}

		b.region.assign(1, nil, "exit", "0")
		b.pass(time.Second)
		b.region.commit(func() {})
		b.pass(time.Second)
		if _, err := s.List(id); err == nil {
			b.Error("its outputs are left when its record has gone")
		}
	})
}

func TestWhatIsNotKeptIsSaid(t *testing.T) {
	run(t, func(b *bed) {
		s := outputs.New(filepath.Join(b.TempDir(), "outputs"))
		b.change = func(c *runner.Config) { c.Outputs = s }
		b.agent()
		b.region.assign(0, leaves(placement.Outputs{Max: 3}), "save", "model", "weights")
		b.pass(time.Second)
		b.heard("0.1 running", "0.1 complete 0: outputs kept: 0; not kept: 1 (more than 3)")
	})
	run(t, func(b *bed) { // one that runs has none yet, one that says nothing of them never
		s := outputs.New(filepath.Join(b.TempDir(), "outputs"))
		b.change = func(c *runner.Config) { c.Outputs = s }
		b.agent()
		for n, want := range []string{"when it has ended", "says nothing of outputs"} {
			var how func(*runner.Want)
			if n == 0 {
				how = leaves(placement.Outputs{})
			}
			id := b.region.assign(n, how, "sleep")
			b.pass(time.Second)
			if _, err := b.r.Outputs(b.Context(), id); err == nil || !strings.Contains(err.Error(), want) {
				b.Errorf("%v, want %q", err, want)
			}
		}
	})
	run(t, func(b *bed) {
		b.agent()
		id := b.region.assign(0, leaves(placement.Outputs{}), "save", "model", "weights")
		b.pass(time.Second)
		if got := b.status(id); got.Status != placement.TaskFailed || !strings.Contains(got.Reason, "keeps no outputs") {
			b.Errorf("on a node that keeps none it is %s: %s", got.Status, got.Reason)
		}
	})
}

// refusing is a disk that takes no list.
type refusing struct{ runner.Outputs }

func (refusing) Gather(context.Context, placement.TaskID, placement.Outputs) (*placement.OutputList, error) {
	return nil, errors.New("no space left on device")
}

func TestATaskEndsWhoseOutputsCannotBeKept(t *testing.T) {
	run(t, func(b *bed) {
		b.change = func(c *runner.Config) { c.Outputs = refusing{outputs.New(filepath.Join(b.TempDir(), "outputs"))} }
		b.agent()
		id := b.region.assign(0, leaves(placement.Outputs{}), "save", "model", "weights")
		b.pass(10 * time.Second)
		b.heard("0.1 running", "0.1 complete 0: its outputs were not kept: the node's log says why")
		if _, err := b.r.Outputs(b.Context(), id); err == nil || !strings.Contains(err.Error(), "were not kept") {
			b.Errorf("%v", err)
		}
	})
}

// An agent that ends while it gathers leaves that to the next one.
func TestTheNextAgentGathers(t *testing.T) {
	run(t, func(b *bed) {
		s := outputs.New(filepath.Join(b.TempDir(), "outputs"))
		slow := &waiting{Outputs: s}
		b.change = func(c *runner.Config) { c.Outputs = slow }
		b.agent()
		id := b.region.assign(0, leaves(placement.Outputs{}), "save", "model", "weights")
		b.pass(time.Second)
		if got := b.status(id); !got.Status.Live() {
			b.Errorf("its end is told before its outputs are kept: %+v", got)
		}
		b.change = func(c *runner.Config) { c.Outputs = s }
		b.agent()
		b.pass(time.Second)
		if list, err := b.r.Outputs(b.Context(), id); err != nil || len(list.Files) != 1 {
			b.Errorf("%+v, %v", list, err)
		}
	})
}

// waiting gathers until its agent ends.
type waiting struct{ runner.Outputs }

func (waiting) Gather(ctx context.Context, _ placement.TaskID, _ placement.Outputs) (*placement.OutputList, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
