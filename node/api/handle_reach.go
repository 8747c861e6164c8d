package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// Inside reaches into the tasks of this node. What a task's driver cannot do is
// an error that says so.
type Inside interface {
	Exec(ctx context.Context, task placement.TaskID, r ExecRequest) (ReachExit, error)
	Console(ctx context.Context, task placement.TaskID) (io.ReadWriteCloser, error)
	Dial(ctx context.Context, task placement.TaskID, port int) (net.Conn, error)
	// Serve is Dial for another task of that tenant: only to what a service declares.
	Serve(ctx context.Context, task placement.TaskID, tenant placement.TenantID, port int) (net.Conn, error)
	Pause(ctx context.Context, task placement.TaskID) error
	Resume(ctx context.Context, task placement.TaskID) error
	Isolation(ctx context.Context, task placement.TaskID) ([]Boundary, []Denial, error)
	Drift(ctx context.Context, task placement.TaskID) (placement.Drift, []DriftFinding, error)
	// Snapshot copies the task's state into a directory of its own, which the
	// caller ends.
	Snapshot(ctx context.Context, task placement.TaskID) (SnapshotDir, error)
	// Disks does one thing with the snapshots of the task's disks that lie beside
	// them, and says which there are then.
	Disks(ctx context.Context, task placement.TaskID, what DisksVerb, name string) (DiskSnapshots, error)
}

// ExecRequest is a command to run in a task.
type ExecRequest struct {
	Command []string
	Env     map[string]string
	TTY     bool
	Size    TermSize
	Resize  <-chan TermSize
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
}

// headWithin bounds the wait for the first frame of a request.
const headWithin = 15 * time.Second

// Codes of what cannot be reached.
const (
	CodeNotRunning = "task.not-running"
	CodeNoPart     = "task.no-part"
	CodeElsewhere  = "job.elsewhere"
)

// reachJob reaches into a job's running task: whoever may end a job may do so,
// and each time is a record of the ledger before anything is opened.
func reachJob(what string) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		release, err := s.stream()
		if err != nil {
			return err
		}
		defer release()
		v, j, err := c.reachable()
		if err != nil {
			return err
		}
		frames := &frameReader{r: c.r.Body}
		head, err := c.readHead(frames, what)
		if err != nil {
			return err
		}
		return c.ending(s.reachInto(c, v, j, what, head, frames))
	}
}

// reachInto finds the task, writes down who reaches into it, and opens the session.
func (s *Server) reachInto(c *call, v *state.View, j *placement.Job, what string, head ReachHead, frames *frameReader) error {
	if err := s.logsMayLeave(c, v, j); err != nil {
		return err
	}
	if j.Forward != nil && j.Forward.State == placement.ForwardPlaced {
		return s.reachAbroad(c, v, j, what, head)
	}
	t, err := liveTask(v, j, head.Task)
	if err != nil {
		return err
	}
	if err := c.noteAccess(t, what); err != nil {
		return err
	}
	head.Task = t.ID
	if t.Node == s.cfg.Self && s.cfg.Inside != nil {
		return s.reachHere(c, what, head, frames)
	}
	node := v.Node(t.Node)
	if node == nil {
		return newProblem(http.StatusNotFound, CodeNotRunning, "node "+string(t.Node)+" was removed", "the task is not reached any more")
	}
	path := "/tasks/" + string(t.ID) + "/reach/" + what
	if c.abroad() {
		path += "?abroad=true"
	}
	return s.reachOn(c, j, s.peerOf(node), cargo(transport.CargoStatus), path, head)
}

// ending answers what went wrong after the head was read, as the end of a session:
// the body is still open then, and its sender listens for frames.
func (c *call) ending(err error) error {
	if err == nil {
		return nil
	}
	p := c.problem(err)
	if c.abroad() && p.Code == CodeNoPart {
		p = c.s.plain()
	}
	if p.Code == CodeInternal && c.r.Context().Err() == nil {
		c.s.cfg.Log.Error("a session failed", "op", c.op.ID, "err", err)
	}
	_ = c.answerFrames().json(frameEnd, ReachEnd{Problem: p}) // the caller is gone: nobody to tell
	c.endBody()
	_, _ = io.Copy(io.Discard, c.r.Body) // its end is all that is waited for
	return nil
}

// reachable is the job that the caller may reach into.
func (c *call) reachable() (*state.View, *placement.Job, error) {
	v, err := c.s.fresh(c.r.Context())
	if err != nil {
		return nil, nil, err
	}
	j, err := c.findJob(v)
	if err != nil {
		return nil, nil, err
	}
	if !c.caller.reaches(j) {
		return nil, nil, newProblem(http.StatusForbidden, CodeRole, "you may not reach into job "+string(j.ID), "ask its owner, or an operator of the region that runs it")
	}
	return v, j, nil
}

// reaches reports whether the caller may reach into a job that it sees: as for
// its end, but never by a grant. A region reaches into what it forwarded itself,
// for those whom it has judged.
func (c *Caller) reaches(j *placement.Job) bool {
	switch c.Kind {
	case CallerToken:
		return c.may(VerbReach) && c.stops(j)
	case CallerForeign:
		return j.Origin == c.Region
	}
	return false
}

// readHead is the first frame. One that does not come in time ends the request.
func (c *call) readHead(frames *frameReader, what string) (ReachHead, error) {
	var head ReachHead
	err := c.firstFrame(frames, &head)
	if err != nil {
		return head, err
	}
	if what == ReachConnect && c.r.URL.Query().Get("port") != "" {
		if head.Port, err = strconv.Atoi(c.r.URL.Query().Get("port")); err != nil {
			head.Port = 0
		}
	}
	return head, head.validate(what)
}

// liveTask is the job's task that is meant, or its newest that runs.
func liveTask(v *state.View, j *placement.Job, wanted placement.TaskID) (*placement.Task, error) {
	tasks := v.TasksOf(j.ID)
	for i := len(tasks) - 1; i >= 0; i-- {
		if t := tasks[i]; t.Status == placement.TaskRunning && (wanted == "" || t.ID == wanted) {
			return t, nil
		}
	}
	return nil, newProblem(http.StatusConflict, CodeNotRunning, "job "+string(j.ID)+" has no such task that runs: it is "+string(j.Status), "wait until it runs: sovmesh job show "+string(j.ID))
}

// noteAccess writes down who reaches into what. Without the record nothing is
// opened.
func (c *call) noteAccess(t *placement.Task, what string) error {
	note := placement.TaskNote{Task: t.ID, What: placement.NoteAccess, Subject: what, At: c.s.now()}
	_, _, err := c.propose(state.NoteTasks{Notes: []placement.TaskNote{note}}, c.caller.Actor)
	return err
}

// reachAbroad goes on to the region that runs the job, which judges once more
// whether anything of it may come back here, and keeps a record of its own.
func (s *Server) reachAbroad(c *call, v *state.View, j *placement.Job, what string, head ReachHead) error {
	region := v.Region(j.Forward.Region)
	if region == nil {
		return newProblem(http.StatusNotFound, CodeNotFound, "the region that runs the job is not federated any more", "it cannot be reached from here")
	}
	peer, ok := s.doorOf(region)
	if !ok {
		return newProblem(http.StatusServiceUnavailable, CodePeerUnknown, "no front door of region "+string(region.ID)+" is known", "try again soon: sovmesh region list").retry(5 * time.Second)
	}
	policy, err := v.PolicyOf(j)
	if err != nil {
		return err
	}
	return s.reachOn(c, j, peer, transport.Cargo{Kind: transport.CargoJob, Policy: policy}, "/jobs"+seg(j.ID)+"/reach/"+what, head)
}

// reachOn passes a session on to another node: its frames are looked at by who
// ends them.
func (s *Server) reachOn(c *call, j *placement.Job, peer transport.Peer, what transport.Cargo, path string, head ReachHead) error {
	body, stop := c.feed(func(w io.Writer) error {
		return (&frameWriter{w: w}).json(frameHead, head)
	})
	defer stop()
	req, err := http.NewRequestWithContext(c.r.Context(), http.MethodPost, "https://"+peer.Addr+MeshPrefix+path, body)
	if err != nil {
		return fmt.Errorf("reach a task: %w", err)
	}
	req.Header.Set("Content-Type", MediaFrames)
	res, err := s.cfg.Peers.Do(c.r.Context(), peer, s.mesh.For(j.Tenant).lasting(transport.LastingSession, what), req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		if res.Request == nil {
			res.Request = req
		}
		return readProblem(res)
	}
	out := c.answerFrames()
	return c.passFrames(out, res.Body)
}

// passFrames copies an answer of frames on, as it comes. One that breaks off
// breaks this one off too.
func (c *call) passFrames(out *frameWriter, source io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := source.Read(buf)
		if n > 0 {
			if _, err := out.w.Write(buf[:n]); err != nil {
				return nil
			}
			out.flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// feed is what another node is sent: what first writes, and then the rest of the
// request's body as it comes. stop ends it and waits until nobody reads the body.
func (c *call) feed(first func(io.Writer) error) (body io.ReadCloser, stop func()) {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := first(w)
		if err == nil {
			_, err = io.Copy(w, c.r.Body)
		}
		w.CloseWithError(err)
	}()
	return r, func() {
		_ = r.CloseWithError(io.ErrClosedPipe)
		c.endBody()
		<-done
	}
}

// endBody bounds what still comes of the request's body: its sender has heard the
// end of the session, and ends too.
func (c *call) endBody() {
	if err := http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(endWithin)); err != nil {
		_ = c.r.Body.Close()
	}
}

// endWithin is how long a sender has to end its body after the session did.
const endWithin = 2 * time.Second

// reachTask is the node's own part: one of its tasks, for a node that holds the
// region's state and has the record.
func reachTask(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	if err := s.fromVoter(c); err != nil {
		return err
	}
	what := c.r.PathValue("what")
	if what != ReachExec && what != ReachConsole && what != ReachConnect {
		return &InputError{Code: CodeUsage, Message: "there is no way " + quoteWord(what) + " into a task", Help: "use exec, console or connect"}
	}
	frames := &frameReader{r: c.r.Body}
	head, err := c.readHead(frames, what)
	if err != nil {
		return err
	}
	head.Task = c.taskInPath()
	return c.ending(s.reachHere(c, what, head, frames))
}

// reachForeign is reachJob for the region that forwarded the job.
func reachForeign(s *Server, c *call) error {
	what := c.r.PathValue("what")
	if what != ReachExec && what != ReachConsole && what != ReachConnect {
		return &InputError{Code: CodeUsage, Message: "there is no way " + quoteWord(what) + " into a task", Help: "use exec, console or connect"}
	}
	return reachJob(what)(s, c)
}

// abroad reports whether the session ends in another region.
func (c *call) abroad() bool {
	return c.caller != nil && (c.caller.Kind == CallerForeign || c.caller.Kind == CallerNode && c.r.URL.Query().Get("abroad") == "true")
}

// plain is what another region hears of why it did not come into a task: nothing
// of the machine.
func (s *Server) plain() *Problem {
	return newProblem(http.StatusConflict, CodeNoPart, "region "+string(s.cfg.Region)+" cannot do this with the job's task", "see whether there is such a program or port in it; its operators can see more")
}

// endProblem is why a session ended, as its caller may know it.
func (c *call) endProblem(err error) *Problem {
	if c.abroad() {
		return c.s.plain()
	}
	return problemOf(reachProblem(err))
}

func (c *call) taskInPath() placement.TaskID {
	return placement.TaskID(c.r.PathValue("job") + "/" + c.r.PathValue("rest"))
}

// fromVoter refuses nodes that hold no state: a worker that was taken over could
// otherwise reach into the tasks of all others without a record.
func (s *Server) fromVoter(c *call) error {
	trusted := c.caller.Role == placement.RoleVoter || c.caller.Role == placement.RoleStandby
	if c.view == nil {
		trusted = slices.ContainsFunc(s.cfg.Voters(), func(p transport.Peer) bool { return p.ID.Node == c.caller.Node })
	}
	if !trusted || s.cfg.Inside == nil {
		return newProblem(http.StatusForbidden, CodeRole, "tasks are reached through a node that holds the region's state", "ask a voter: sovmesh node list")
	}
	return nil
}

// hinted is an error that knows what to do about it.
type hinted interface {
	error
	Hint() string
}

// reachProblem is why a task was not reached, as an answer.
func reachProblem(err error) error {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	help := "see whether it runs: sovmesh job show ID"
	var h hinted
	if errors.As(err, &h) {
		help = h.Hint()
	}
	return newProblem(http.StatusConflict, CodeNoPart, shortError(err), help)
}
