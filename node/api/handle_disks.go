package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// jobDisks does one thing with the snapshots of a job's disks, which lie on the
// node of its task and never leave it. Whoever may copy the task's state may do
// so, and what changes something is a record of the ledger before it is done.
func jobDisks(what DisksVerb) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		release, err := s.stream() // a large disk takes its time
		if err != nil {
			return err
		}
		defer release()
		v, j, err := c.copyable()
		if err != nil {
			return err
		}
		t, n, err := s.local(v, j)
		if err != nil {
			return err
		}
		if _, err := c.readBody(MaxBodyBytes); err != nil {
			return err
		}
		name := c.r.PathValue("name")
		if err := what.validate(name); err != nil {
			return err
		}
		if err := c.noteDisks(t, what, name); err != nil {
			return err
		}
		out := &DiskSnapshots{}
		if s.here(t) {
			out, err = s.disks(c.r.Context(), t.ID, what, name)
		} else {
			out, err = meshJSON[DiskSnapshots](c.r.Context(), s.mesh, s.peerOf(n), meshCall{method: http.MethodPost, path: "/tasks/" + string(t.ID) + "/disks/" + string(what), cargo: cargo(transport.CargoStatus)}, DisksRequest{Name: name})
		}
		if err != nil {
			return err
		}
		out.Job, out.Task = j.ID, t.ID
		return c.writeJSON(http.StatusOK, out)
	}
}

// validate looks at what is asked, before anything is written down.
func (d DisksVerb) validate(name string) error {
	switch d {
	case DisksList:
		return nil
	case DisksTake, DisksRemove, DisksRestore:
		if placement.ValidDiskSnapshotName(name) {
			return nil
		}
		return &InputError{Code: CodeUsage, Message: "a snapshot cannot be called " + quoteWord(name), Help: fmt.Sprintf("write up to %d small letters, digits and hyphens", placement.DiskSnapshotMaxName)}
	}
	return &InputError{Code: CodeUsage, Message: "disks cannot be told to " + quoteWord(string(d)), Help: "use list, take, remove or restore"}
}

// noteDisks writes down who changes what. To see which there are is no change.
func (c *call) noteDisks(t *placement.Task, what DisksVerb, name string) error {
	if what == DisksList {
		return nil
	}
	words := map[DisksVerb]string{DisksTake: "keeps its disks as ", DisksRemove: "removes its disks kept as ", DisksRestore: "sets its disks back to "}
	note := placement.TaskNote{Task: t.ID, What: placement.NoteAccess, Subject: "snapshot", Text: words[what] + name, At: c.s.now()}
	_, _, err := c.propose(state.NoteTasks{Notes: []placement.TaskNote{note}}, c.caller.Actor)
	return err
}

func (s *Server) disks(ctx context.Context, task placement.TaskID, what DisksVerb, name string) (*DiskSnapshots, error) {
	out, err := s.cfg.Inside.Disks(ctx, task, what, name)
	if err != nil {
		return nil, reachProblem(err)
	}
	return &out, nil
}

// taskDisks is the node's own part, for a node that holds the region's state and
// has the record.
func taskDisks(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	if err := s.fromVoter(c); err != nil {
		return err
	}
	var r DisksRequest
	if err := c.readJSON(&r, MaxBodyBytes); err != nil {
		return err
	}
	what := DisksVerb(c.r.PathValue("what"))
	if err := what.validate(r.Name); err != nil {
		return err
	}
	out, err := s.disks(c.r.Context(), c.taskInPath(), what, r.Name)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, out)
}
