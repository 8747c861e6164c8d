package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Gathered is what came of the files that a task left. Their names are nowhere but
// in the list, which lies with them.
type Gathered struct {
	Files   int    `json:"files"`
	LeftOut int    `json:"left_out,omitempty"`
	Why     string `json:"why,omitempty"`    // the first reason
	Digest  string `json:"digest,omitempty"` // of the list; empty if there is none
	// Noted: the region's ledger has the digest.
	Noted bool `json:"noted,omitempty"`
}

// makeOutputs has a directory for what the task will leave.
func (r *Runner) makeOutputs(t *task, d Driver, spec *Spec) (err error) {
	if t.rec.Outputs == nil { // set before the task has a life, and never changed
		return nil
	}
	if shows, ok := d.(ShowsOutputs); !ok || !shows.ShowsOutputs() || r.cfg.Outputs == nil {
		return &StartError{Task: t.rec.Task, Reason: fmt.Sprintf("this node keeps no outputs of %s jobs", t.rec.Kind), Advice: "leave outputs out, or write kind: process or container"}
	}
	spec.OutputsDir, err = r.cfg.Outputs.Make(t.rec.Task)
	return err
}

// gatherTries is how often what a task left is gathered, should the node's disk
// not take the list.
const gatherTries = 3

// gather keeps what a task left, before its end is told. It is false only if the
// agent ends: the next one gathers.
func (r *Runner) gather(ctx context.Context, t *task) bool {
	if t.rec.Outputs == nil || r.cfg.Outputs == nil {
		return true
	}
	pause, g := r.cfg.Retry, Gathered{}
	for try := 1; ; try++ {
		list, err := r.cfg.Outputs.Gather(ctx, t.rec.Task, *t.rec.Outputs)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			g = Gathered{Files: len(list.Files), LeftOut: list.LeftOut, Why: list.Why, Digest: list.Digest()}
			break
		}
		r.log.Error("keep what a task left", "task", t.rec.Task, "err", err)
		if try == gatherTries {
			g.Why = "its outputs were not kept: the node's log says why"
			break
		}
		if !sleep(ctx, pause) {
			return false
		}
		pause = min(2*pause, r.cfg.RetryMax)
	}
	r.mu.Lock()
	t.rec.Gathered = &g
	r.mu.Unlock()
	r.lives.Go(func() {
		if err := r.cfg.Outputs.Sweep(ctx, t.rec.Task); err != nil && ctx.Err() == nil {
			r.log.Warn("remove what a task left beside its outputs", "task", t.rec.Task, "err", err)
		}
	})
	r.lives.Go(func() { r.noteOutputs(ctx, t) })
	return true
}

// said adds to why a task ended what of its outputs was not kept.
func (g *Gathered) said(reason string) string {
	var lost string
	switch {
	case g == nil:
	case g.Digest == "":
		lost = g.Why
	case g.LeftOut > 0:
		lost = fmt.Sprintf("outputs kept: %d; not kept: %d (%s)", g.Files, g.LeftOut, g.Why)
	}
	if reason != "" && lost != "" {
		return reason + "; " + lost
	}
	return reason + lost
}

// noteOutputs has the digest of a task's list in its region's ledger, once.
func (r *Runner) noteOutputs(ctx context.Context, t *task) {
	r.mu.Lock()
	g := t.rec.Gathered
	r.mu.Unlock()
	if g == nil || g.Noted || g.Digest == "" || r.cfg.Noter == nil {
		return
	}
	note := placement.TaskNote{Task: t.rec.Task, What: placement.NoteOutputs, Subject: "files", Count: uint64(g.Files), Digest: g.Digest, At: time.Now()}
	for pause := r.cfg.Retry; r.cfg.Noter.Note(ctx, []placement.TaskNote{note}) != nil; pause = min(2*pause, r.cfg.RetryMax) {
		if !sleep(ctx, pause) {
			return // the next agent does it
		}
	}
	noted := *g
	noted.Noted = true
	r.mu.Lock()
	t.rec.Gathered = &noted
	over := t.over()
	r.mu.Unlock()
	if over {
		_ = r.save(t) // else it is saved with its end
	}
}

// NoOutputsError is the answer about the outputs of a task that has none to show.
type NoOutputsError struct {
	Task placement.TaskID
	Why  string
}

func (e *NoOutputsError) Error() string { return fmt.Sprintf("task %s: %s", e.Task, e.Why) }

// Hint says how there would be some.
func (e *NoOutputsError) Hint() string {
	return "a job with outputs: true keeps what its tasks leave in $" + OutputsEnv + ", when they have ended, for as long as what they printed"
}

// hasOutputs is an error unless the task has ended and its outputs were kept.
func (r *Runner) hasOutputs(id placement.TaskID) (most placement.Outputs, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks[id]
	switch {
	case t == nil:
		return most, &NoOutputsError{id, "this node does not know it: it never ran here, or its outputs were removed after their time"}
	case t.rec.Outputs == nil || r.cfg.Outputs == nil:
		return most, &NoOutputsError{id, "its job says nothing of outputs"}
	case !t.over():
		return most, &NoOutputsError{id, "its outputs are kept when it has ended"}
	case t.rec.Gathered == nil:
		return most, &NoOutputsError{id, "it left nothing"}
	case t.rec.Gathered.Digest == "":
		return most, &NoOutputsError{id, t.rec.Gathered.Why}
	}
	return *t.rec.Outputs, nil
}

// Outputs is what a task left that has ended.
func (r *Runner) Outputs(ctx context.Context, id placement.TaskID) (*placement.OutputList, error) {
	most, err := r.hasOutputs(id)
	if err != nil {
		return nil, err
	}
	return r.cfg.Outputs.Gather(ctx, id, most)
}

// OpenOutput reads one of those files, by its digest.
func (r *Runner) OpenOutput(_ context.Context, id placement.TaskID, digest string) (io.ReadCloser, error) {
	if _, err := r.hasOutputs(id); err != nil {
		return nil, err
	}
	f, err := r.cfg.Outputs.Open(id, digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NoOutputsError{id, "it left no file of that digest"}
	}
	return f, err
}
