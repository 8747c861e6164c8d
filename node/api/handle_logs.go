package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// jobLogs streams a job's output raw, from whichever node or region runs it.
func jobLogs(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	j, err := c.findJob(v)
	if err != nil {
		return err
	}
	from, err := int64Query(c, "from")
	if err != nil {
		return err
	}
	follow, err := boolQuery(c, "follow")
	if err != nil {
		return err
	}
	if err := s.logsMayLeave(c, v, j); err != nil {
		return err
	}
	source, err := s.openLogs(c, v, j, from, follow)
	if err != nil {
		return err
	}
	defer source.Close()
	return c.copyStream("text/plain; charset=utf-8", source)
}

// logsMayLeave asks the endpoint's guard before a job's output goes to another
// region: output carries the job's whole policy, and this region's export rule
// and the packs of both regions count as for any other bytes.
func (s *Server) logsMayLeave(c *call, v *state.View, j *placement.Job) error {
	if c.caller.Kind != CallerForeign {
		return nil // at home it stays; a grant is held by the client, whose own job it is: not by its home
	}
	policy, err := v.PolicyOf(j)
	if err != nil {
		return err
	}
	err = s.cfg.Peers.Permit(c.r.Context(), c.caller.Region, transport.Cargo{Kind: transport.CargoJob, Policy: policy, Use: placement.UseLogs})
	var egress *transport.EgressError
	if errors.As(err, &egress) {
		p := problemOf(err)
		p.Detail = fmt.Sprintf("the output of this job may not go to %s: %v", c.caller.Region, egress.Err)
		p.Advice = "read it at a front door of this region, with a grant"
		return p
	}
	return err
}

// openLogs finds the task and its node. A follower waits for a first task.
func (s *Server) openLogs(c *call, v *state.View, j *placement.Job, from int64, follow bool) (io.ReadCloser, error) {
	ctx := c.r.Context()
	if follow && j.Status == placement.JobPending && (j.Forward == nil || j.Forward.State != placement.ForwardPlaced) {
		next, err := c.await(ListOptions{Wait: time.Hour}, func(v *state.View) bool {
			now := v.Job(j.ID)
			return now == nil || len(v.TasksOf(j.ID)) > 0 || now.Status.Terminal() || now.Forward != nil && now.Forward.State == placement.ForwardPlaced
		})
		if err != nil {
			return nil, err
		}
		v = next
		if now := v.Job(j.ID); now != nil {
			j = now
		}
	}
	if there, peer, err := s.ranIn(v, j); there || err != nil {
		if err != nil {
			return nil, err
		}
		return s.mesh.For(j.Tenant).JobLogs(ctx, peer, j.ID, from, follow)
	}
	t, err := c.taskOf(v, j)
	if err != nil {
		return nil, err
	}
	return s.taskLogs(ctx, v, t, from, follow)
}

// ranIn is the door of the other region that runs a job, or ran it.
func (s *Server) ranIn(v *state.View, j *placement.Job) (there bool, peer transport.Peer, err error) {
	if j.Forward == nil || j.Forward.State != placement.ForwardPlaced {
		return false, peer, nil
	}
	region := v.Region(j.Forward.Region)
	if region == nil {
		return true, peer, newProblem(http.StatusNotFound, CodeNotFound, "the region that ran the job is not federated any more", "its output stays there")
	}
	peer, ok := s.doorOf(region)
	if !ok {
		return true, peer, newProblem(http.StatusServiceUnavailable, CodePeerUnknown, "no front door of region "+string(region.ID)+" is known", "try again soon: sovmesh region list").retry(5 * time.Second)
	}
	return true, peer, nil
}

// taskOf is the job's task that is asked for: the newest, unless one is named.
func (c *call) taskOf(v *state.View, j *placement.Job) (*placement.Task, error) {
	tasks := v.TasksOf(j.ID)
	wanted := placement.TaskID(c.r.URL.Query().Get("task"))
	for i := len(tasks) - 1; i >= 0; i-- {
		if wanted == "" || tasks[i].ID == wanted {
			return tasks[i], nil
		}
	}
	return nil, newProblem(http.StatusNotFound, "job.no-output", "job "+string(j.ID)+" has no task yet: "+j.Reason, "wait for it with --follow, or see why: sovmesh job explain "+string(j.ID))
}

func (s *Server) taskLogs(ctx context.Context, v *state.View, t *placement.Task, from int64, follow bool) (io.ReadCloser, error) {
	if t.Node == s.cfg.Self && s.cfg.Tasks != nil {
		return s.cfg.Tasks.Logs(ctx, t.ID, from, follow)
	}
	node, err := nodeOf(v, t)
	if err != nil {
		return nil, err
	}
	return s.mesh.For(t.Tenant).TaskLogs(ctx, s.peerOf(node), t.ID, from, follow)
}

// nodeOf is the node that keeps what a task put out.
func nodeOf(v *state.View, t *placement.Task) (*placement.Node, error) {
	node := v.Node(t.Node)
	if node == nil {
		return nil, newProblem(http.StatusNotFound, "job.no-output", "node "+string(t.Node)+" was removed, and the output with it", "nothing can be done")
	}
	return node, nil
}

// taskOutput is the node's own part: the output of one of its tasks, for
// another node of the region.
func taskOutput(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	from, err := int64Query(c, "from")
	if err != nil {
		return err
	}
	follow, err := boolQuery(c, "follow")
	if err != nil {
		return err
	}
	if s.cfg.Tasks == nil {
		return newProblem(http.StatusNotFound, "job.no-output", "this node runs no tasks", "ask the node of the task")
	}
	task := placement.TaskID(c.r.PathValue("job") + "/" + c.r.PathValue("rest"))
	source, err := s.cfg.Tasks.Logs(c.r.Context(), task, from, follow)
	if err != nil {
		return newProblem(http.StatusNotFound, "job.no-output", fmt.Sprintf("no output of task %s is kept here: %v", quoteWord(string(task)), err), "it may not have started")
	}
	defer source.Close()
	return c.copyStream("text/plain; charset=utf-8", source)
}

// stream takes one of the places for long answers.
func (s *Server) stream() (release func(), err error) {
	select {
	case s.streams <- struct{}{}:
		return func() { <-s.streams }, nil
	default:
		return nil, newProblem(http.StatusTooManyRequests, "streams.full", "too many followers at once on this node", "ask another node, or again in a moment").retry(time.Second)
	}
}

// copyStream passes bytes on as they come. A source that breaks off breaks the
// answer off too: never a clean end.
func (c *call) copyStream(contentType string, source io.Reader) error {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	c.w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(c.w)
	_ = out.Flush() // an error shows at the next write
	buf := make([]byte, 32<<10)
	for {
		n, err := source.Read(buf)
		if n > 0 {
			if _, err := c.w.Write(buf[:n]); err != nil {
				return nil
			}
			_ = out.Flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if c.r.Context().Err() == nil {
				c.s.cfg.Log.Warn("a stream broke off", "op", c.op.ID, "err", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
}
