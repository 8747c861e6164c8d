package inference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Servers runs inference jobs: those whose model server is there already, and
// those that bring theirs, which the driver of its kind starts. A server that a
// job brought is asked until it is ready, asked on while it runs, and ended once
// the streams that it serves are over or its grace is.
//
// A task of a server has the same id with both drivers; its handle holds the
// other driver's.
type Servers struct {
	promises *Driver
	drivers  map[string]runner.Driver
	cfg      Config

	mu    sync.Mutex
	conns map[placement.TaskID]*streams // guarded by mu
}

// streams are the connections to one task's server.
type streams struct {
	open   int
	ending bool
	idle   chan struct{} // closed and replaced when open falls to zero
}

// brought is what the handle of a server remembers.
type brought struct {
	Server placement.Kind `json:"server"`
	Inner  runner.Handle  `json:"inner"`
	Port   int            `json:"port"`
	Models []string       `json:"models"`
	// Ready is when it has to be ready, or is given up.
	Ready time.Time `json:"ready"`
}

var (
	_ runner.Driver         = (*Servers)(nil)
	_ runner.Preparer       = (*Servers)(nil)
	_ runner.InputsPreparer = (*Servers)(nil)
	_ runner.Dialer         = (*Servers)(nil)
	_ runner.Delegate       = (*Servers)(nil)
	_ runner.Leaser         = (*Servers)(nil)
)

// startWithin bounds the wait for a server that says nothing of it: models of
// hundreds of gigabytes are loaded from a disk first.
const startWithin = 30 * time.Minute

// NewServers adds servers that jobs bring to the driver of those that are there.
// drivers start them, by kind, and may grow until the first task starts; only
// those that dial into their tasks can serve from a network of their own.
func NewServers(promises *Driver, drivers map[string]runner.Driver) *Servers {
	return &Servers{promises: promises, drivers: drivers, cfg: promises.cfg, conns: make(map[placement.TaskID]*streams)}
}

// Name is "inference".
func (s *Servers) Name() string { return s.promises.Name() }

// Fingerprint names the kinds of servers that jobs may bring.
func (s *Servers) Fingerprint(ctx context.Context) (runner.Fingerprint, error) {
	fp, err := s.promises.Fingerprint(ctx)
	var kinds []string
	for name, d := range s.drivers {
		if _, reaches := d.(runner.Dialer); reaches && name != s.Name() {
			kinds = append(kinds, name)
		}
	}
	slices.Sort(kinds)
	if len(kinds) > 0 {
		fp.Facts["isolation"] = "that of the server's own kind for a server that its job brings; none for one that the node has"
		fp.Facts["servers"] = strings.Join(kinds, " ")
	}
	return fp, err
}

// inner is the driver of a server's kind, and the spec that it is started with.
func (s *Servers) inner(spec runner.Spec) (runner.Driver, runner.Spec, error) {
	server := spec.Setup.Server
	d := s.drivers[string(server.Kind)]
	if d == nil || server.Kind == placement.KindInference {
		return nil, spec, &runner.StartError{Task: spec.Task, Reason: fmt.Sprintf("this node has no driver for a %s", server.Kind), Advice: "name another kind of server, or a node that can run it"}
	}
	if _, reaches := d.(runner.Dialer); !reaches {
		return nil, spec, &runner.StartError{Task: spec.Task, Reason: fmt.Sprintf("nobody reaches a port of a %s on this node", server.Kind), Advice: "let the server be a container, a vm or a process"}
	}
	setup := *spec.Setup
	setup.Server = nil
	in := spec
	in.Setup, in.Command, in.Image, in.Upstream = &setup, server.Command, server.Image, ""
	in.Env = make(map[string]string, len(spec.Env)+len(server.Env))
	for _, env := range []map[string]string{spec.Env, server.Env} {
		for k, v := range env {
			in.Env[k] = v
		}
	}
	return d, in, nil
}

// Prepare fetches what the server's driver needs.
func (s *Servers) Prepare(ctx context.Context, spec runner.Spec) error {
	if spec.Setup == nil || spec.Setup.Server == nil {
		return nil
	}
	d, in, err := s.inner(spec)
	if err != nil {
		return err
	}
	if p, ok := d.(runner.Preparer); ok {
		return p.Prepare(ctx, in)
	}
	return nil
}

// PrepareInputs has the server's driver make of its inputs what it needs.
func (s *Servers) PrepareInputs(ctx context.Context, spec runner.Spec) error {
	if spec.Setup == nil || spec.Setup.Server == nil {
		return nil
	}
	d, in, err := s.inner(spec)
	if err != nil {
		return err
	}
	if p, ok := d.(runner.InputsPreparer); ok {
		return p.PrepareInputs(ctx, in)
	}
	return nil
}

// Start brings the server up and returns once it is ready. One that is not in
// time, or ends before, is ended.
func (s *Servers) Start(ctx context.Context, spec runner.Spec) (runner.Handle, error) {
	if spec.Setup == nil || spec.Setup.Server == nil {
		return s.promises.Start(ctx, spec)
	}
	d, in, err := s.inner(spec)
	if err != nil {
		return runner.Handle{}, err
	}
	within := time.Duration(spec.Setup.Server.Start)
	if within <= 0 {
		within = startWithin
	}
	b := brought{Server: spec.Setup.Server.Kind, Port: spec.Setup.Server.Port, Models: spec.Models, Ready: time.Now().Add(within)}
	in.Keep = func(h runner.Handle) error { b.Inner = h; return s.keep(spec, b) }
	h, err := d.Start(ctx, in)
	var exists *runner.ExistsError
	if errors.As(err, &exists) {
		b.Inner = exists.Handle
		outer, encodeErr := s.handle(spec.Task, b)
		return runner.Handle{}, errors.Join(encodeErr, &runner.ExistsError{Handle: outer})
	}
	if err != nil {
		return runner.Handle{}, err
	}
	b.Inner = h
	outer, err := s.handle(spec.Task, b)
	if err != nil {
		return runner.Handle{}, err
	}
	if spec.Begun != nil {
		spec.Begun()
	}
	if err := s.untilReady(ctx, d, b, spec.Unwanted); err != nil {
		if ctx.Err() != nil {
			return runner.Handle{}, ctx.Err() // the agent ends; the next one finds it
		}
		end := context.WithoutCancel(ctx)
		return runner.Handle{}, errors.Join(&runner.StartError{
			Task: spec.Task, Reason: err.Error(), Advice: "look at its output: sovmesh job logs " + string(spec.Job),
		}, d.Stop(end, h, spec.Grace))
	}
	return outer, nil
}

func (s *Servers) keep(spec runner.Spec, b brought) error {
	h, err := s.handle(spec.Task, b)
	if err != nil {
		return err
	}
	return spec.Keep(h)
}

func (s *Servers) handle(id placement.TaskID, b brought) (runner.Handle, error) {
	data, err := json.Marshal(b)
	return runner.Handle{Version: 1, Driver: s.Name(), Task: id, Data: data}, err
}

// open reads a handle: the driver is nil for a promise about a server that is
// there already.
func (s *Servers) open(h runner.Handle) (runner.Driver, brought, error) {
	var b brought
	if err := json.Unmarshal(h.Data, &b); err != nil {
		return nil, b, fmt.Errorf("read the handle of task %s: %w", h.Task, err)
	}
	if b.Server == "" {
		return nil, b, nil
	}
	d := s.drivers[string(b.Server)]
	if d == nil {
		return nil, b, fmt.Errorf("task %s is a %s, for which this node has no driver now", h.Task, b.Server)
	}
	return d, b, nil
}

// untilReady asks the server until it has the models, has ended, is given up, or
// is not wanted any more.
func (s *Servers) untilReady(ctx context.Context, d runner.Driver, b brought, unwanted func() bool) error {
	ctx, cancel := context.WithDeadline(ctx, b.Ready)
	defer cancel()
	ended := make(chan runner.Exit, 1)
	go func() { // ends with ctx
		if exit, err := d.Wait(ctx, b.Inner); err == nil {
			ended <- exit
		}
	}()
	pause, last := 20*time.Millisecond, errors.New("it was never asked")
	for {
		if last = s.ask(ctx, d, b); last == nil {
			return nil
		}
		if unwanted != nil && unwanted() {
			return errors.New("it was told to end before it was ready")
		}
		select {
		case exit := <-ended:
			return fmt.Errorf("the model server ended before it was ready: %s", exit)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("the model server was not ready in time: %w", last)
			}
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, s.cfg.ProbeEvery)
	}
}

// ask puts one question to the server: does it have the models?
func (s *Servers) ask(ctx context.Context, d runner.Driver, b brought) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return s.reach(ctx, d, b.Inner, b.Port) }
	client := &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return probeModels(ctx, client, s.cfg.ProbeTimeout, "http://127.0.0.1:"+strconv.Itoa(b.Port), b.Models)
}

// reach dials into the task, and nowhere else: on the node's own loopback another
// program may answer.
func (s *Servers) reach(ctx context.Context, d runner.Driver, h runner.Handle, port int) (net.Conn, error) {
	in, ok := d.(runner.Dialer)
	if !ok {
		return nil, fmt.Errorf("nobody reaches into a %s on this node", d.Name())
	}
	return in.Dial(ctx, h, port)
}

// Dial reaches the server of a task. A server that is to end takes no new
// connections.
func (s *Servers) Dial(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	d, b, err := s.open(h)
	if err != nil {
		return nil, err
	}
	if d == nil || port != b.Port {
		return nil, fmt.Errorf("task %s serves nothing on port %d", h.Task, port)
	}
	if !s.begin(h.Task) {
		return nil, fmt.Errorf("the model server of task %s is about to end", h.Task)
	}
	c, err := s.reach(ctx, d, b.Inner, port)
	if err != nil {
		s.done(h.Task)
		return nil, err
	}
	return &counted{Conn: c, done: sync.OnceFunc(func() { s.done(h.Task) })}, nil
}

// counted is a connection that says when it is closed.
type counted struct {
	net.Conn
	done func()
}

func (c *counted) Close() error {
	defer c.done()
	return c.Conn.Close()
}

func (s *Servers) of(id placement.TaskID) *streams {
	if s.conns[id] == nil {
		s.conns[id] = &streams{idle: make(chan struct{})}
	}
	return s.conns[id]
}

func (s *Servers) begin(id placement.TaskID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.of(id); !st.ending {
		st.open++
		return true
	}
	return false
}

func (s *Servers) done(id placement.TaskID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.conns[id]
	if st == nil {
		return // it was destroyed
	}
	if st.open--; st.open == 0 {
		close(st.idle)
		st.idle = make(chan struct{})
	}
}

// Stop lets the streams that are open finish, for grace at the most, then ends
// the server with what is left of its grace.
func (s *Servers) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	d, b, err := s.open(h)
	if err != nil {
		return err
	}
	if d == nil {
		return s.promises.Stop(ctx, h, grace)
	}
	until := time.Now().Add(grace)
	s.mu.Lock()
	st := s.of(h.Task)
	st.ending = true
	open, idle := st.open, st.idle
	s.mu.Unlock()
	if open > 0 && grace > 0 {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-idle:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return d.Stop(ctx, b.Inner, max(0, time.Until(until)))
}

// Wait returns when the server has ended. One that runs and stays silent is
// ended: it has failed, and its restart policy starts it anew.
func (s *Servers) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	d, b, err := s.open(h)
	if err != nil {
		return runner.Exit{}, err
	}
	if d == nil {
		return s.promises.Wait(ctx, h)
	}
	watch, cancel := context.WithCancel(ctx)
	silent := make(chan error, 1)
	go func() { silent <- s.watch(watch, d, b) }() // ends with watch
	exit, err := d.Wait(ctx, b.Inner)
	cancel()
	if why := <-silent; why != nil && err == nil {
		exit.Stopped, exit.Reason = false, why.Error()
		if exit.Code == 0 {
			exit.Code = 1
		}
	}
	return exit, err
}

// watch asks the server now and then, and ends it when it was silent too often.
// It returns why, or nil.
func (s *Servers) watch(ctx context.Context, d runner.Driver, b brought) error {
	ticker := time.NewTicker(s.cfg.ProbeEvery)
	defer ticker.Stop()
	answered := false
	for silent := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := s.ask(ctx, d, b)
		switch {
		case ctx.Err() != nil || s.ending(b.Inner.Task):
			return nil
		case err == nil:
			silent, answered = 0, true
		case !answered && time.Now().Before(b.Ready): // found again while it still loads
		default:
			if silent++; silent < s.cfg.Failures {
				continue
			}
			if stopErr := d.Stop(ctx, b.Inner, 0); stopErr != nil {
				return nil // the driver cannot end it now; Wait tells of its end
			}
			return err
		}
	}
}

func (s *Servers) ending(id placement.TaskID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(id).ending
}

// Lease passes the lease of a server on to whoever runs it. A promise about a
// server of the node needs none: it ends with the agent.
func (s *Servers) Lease(ctx context.Context, h runner.Handle, until time.Time) error {
	d, b, err := s.open(h)
	if l, ok := d.(runner.Leaser); err == nil && ok {
		return l.Lease(ctx, b.Inner, until)
	}
	return err
}

// Recover asks the server's driver.
func (s *Servers) Recover(ctx context.Context, h runner.Handle) (runner.Observed, error) {
	d, b, err := s.open(h)
	if err != nil || d == nil {
		if err == nil {
			return s.promises.Recover(ctx, h)
		}
		return runner.Observed{}, err
	}
	o, err := d.Recover(ctx, b.Inner)
	o.Handle = h
	return o, err
}

// List is what this driver has beside what the servers' own drivers list.
func (s *Servers) List(ctx context.Context) ([]runner.Observed, error) { return s.promises.List(ctx) }

// Destroy removes the server and forgets it.
func (s *Servers) Destroy(ctx context.Context, h runner.Handle) error {
	d, b, err := s.open(h)
	if err != nil {
		return err
	}
	if d == nil {
		return s.promises.Destroy(ctx, h)
	}
	s.mu.Lock()
	delete(s.conns, h.Task)
	s.mu.Unlock()
	return d.Destroy(ctx, b.Inner)
}

// Logs are those of the server.
func (s *Servers) Logs(ctx context.Context, h runner.Handle, from int64, follow bool) (io.ReadCloser, error) {
	d, b, err := s.open(h)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return s.promises.Logs(ctx, h, from, follow)
	}
	return d.Logs(ctx, b.Inner, from, follow)
}

// Behind is the driver of a server that its job brought.
func (s *Servers) Behind(h runner.Handle) (runner.Driver, runner.Handle, bool) {
	d, b, err := s.open(h)
	return d, b.Inner, err == nil && d != nil
}

// Endpoints are those of servers that are there already.
func (s *Servers) Endpoints() []Endpoint { return s.promises.Endpoints() }
