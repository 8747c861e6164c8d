package api

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// jobOutputs lists the files that a job's task left. Who may read a job's output
// may list and read them: there is one gate for both, [Server.logsMayLeave].
func jobOutputs(s *Server, c *call) error {
	v, j, err := c.readable()
	if err != nil {
		return err
	}
	list, err := s.outputsOf(c, v, j)
	if err != nil {
		return err
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, list)
}

// jobOutput streams one of them, by its digest. No name of a file is in an
// address: addresses are written down on their way.
func jobOutput(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	v, j, err := c.readable()
	if err != nil {
		return err
	}
	source, err := s.openOutput(c, v, j)
	if err != nil {
		return err
	}
	defer source.Close()
	return c.copyStream(mediaOutput, source)
}

const mediaOutput = "application/octet-stream"

// readable is the job of a request whose output the caller may read.
func (c *call) readable() (*state.View, *placement.Job, error) {
	v, err := c.s.fresh(c.r.Context())
	if err != nil {
		return nil, nil, err
	}
	j, err := c.findJob(v)
	if err != nil {
		return nil, nil, err
	}
	return v, j, c.s.logsMayLeave(c, v, j)
}

// outputsOf asks whoever keeps them.
func (s *Server) outputsOf(c *call, v *state.View, j *placement.Job) (*JobOutputs, error) {
	ctx := c.r.Context()
	there, peer, err := s.ranIn(v, j)
	if err != nil {
		return nil, err
	}
	if there {
		return s.mesh.JobOutputs(ctx, peer, j.ID)
	}
	t, err := c.taskOf(v, j)
	if err != nil {
		return nil, err
	}
	if t.Node == s.cfg.Self && s.cfg.Tasks != nil {
		return s.listOutputs(ctx, t.ID)
	}
	node, err := nodeOf(v, t)
	if err != nil {
		return nil, err
	}
	return s.mesh.TaskOutputs(ctx, s.peerOf(node), t.ID)
}

func (s *Server) openOutput(c *call, v *state.View, j *placement.Job) (io.ReadCloser, error) {
	ctx := c.r.Context()
	digest, err := c.digestInPath()
	if err != nil {
		return nil, err
	}
	there, peer, err := s.ranIn(v, j)
	if err != nil {
		return nil, err
	}
	if there {
		return s.mesh.For(j.Tenant).JobOutput(ctx, peer, j.ID, digest)
	}
	t, err := c.taskOf(v, j)
	if err != nil {
		return nil, err
	}
	if t.Node == s.cfg.Self && s.cfg.Tasks != nil {
		f, err := s.cfg.Tasks.OpenOutput(ctx, t.ID, digest)
		if err != nil {
			return nil, outputProblem(err)
		}
		return f, nil
	}
	node, err := nodeOf(v, t)
	if err != nil {
		return nil, err
	}
	return s.mesh.For(t.Tenant).TaskOutput(ctx, s.peerOf(node), t.ID, digest)
}

// digestInPath is the digest that a request names.
func (c *call) digestInPath() (string, error) {
	digest := c.r.PathValue("digest")
	if !digestWords.MatchString(digest) {
		return "", newProblem(http.StatusNotFound, CodeNotFound, quoteWord(digest)+" is no digest of an output", "list them: sovmesh job outputs ID")
	}
	return digest, nil
}

// listOutputs is the node's own part.
func (s *Server) listOutputs(ctx context.Context, task placement.TaskID) (*JobOutputs, error) {
	if s.cfg.Tasks == nil {
		return nil, newProblem(http.StatusNotFound, "job.no-output", "this node runs no tasks", "ask the node of the task")
	}
	list, err := s.cfg.Tasks.Outputs(ctx, task)
	if err != nil {
		return nil, outputProblem(err)
	}
	return &JobOutputs{Job: task.Job(), Task: task, Digest: list.Digest(), OutputList: *list}, nil
}

// outputProblem is why a task's outputs cannot be had.
func outputProblem(err error) error {
	var known hinted
	if !errors.As(err, &known) {
		return err
	}
	return newProblem(http.StatusNotFound, "job.no-output", "there are no outputs: "+known.Error(), known.Hint())
}

// taskOutputs lists what a task of this node left, for another node of the region.
func taskOutputs(s *Server, c *call) error {
	list, err := s.listOutputs(c.r.Context(), c.taskInPath())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, list)
}

func taskOutputFile(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	digest, err := c.digestInPath()
	if err != nil {
		return err
	}
	if s.cfg.Tasks == nil {
		return newProblem(http.StatusNotFound, "job.no-output", "this node runs no tasks", "ask the node of the task")
	}
	source, err := s.cfg.Tasks.OpenOutput(c.r.Context(), c.taskInPath(), digest)
	if err != nil {
		return outputProblem(err)
	}
	defer source.Close()
	return c.copyStream(mediaOutput, source)
}
