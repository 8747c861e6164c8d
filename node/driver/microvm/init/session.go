//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// session serves one host until it goes away.
type session struct {
	conn io.ReadWriteCloser
	w    *wire.Writer
	m    *machine

	parts map[uint32][]byte // commands that are not whole; owned by serve
	// secrets are those that were handed over, until they lie in the workload's
	// root; owned by serve.
	secrets map[string][]byte
	mu      sync.Mutex      // never held while something is sent
	runs    map[uint32]*run // guarded by mu
	reap    chan struct{}
}

// run is a command that runs.
type run struct {
	id    uint32
	pid   int
	stdin *wire.Queue // nil: it has none
	gate  *wire.Gate  // nil: its output is not held back
	tty   *os.File
	outs  sync.WaitGroup
	gone  chan struct{} // of a connection: closed when the host is done with it
	leave sync.Once
}

// end ends a command with all of its group, or a connection.
func (r *run) end(with unix.Signal) {
	if r.gone != nil {
		r.leave.Do(func() { close(r.gone) })
		r.gate.Close()
		r.stdin.End()
		return
	}
	_ = unix.Kill(-r.pid, with)
}

func newSession(conn io.ReadWriteCloser, m *machine) *session {
	m.running = make(map[int]bool)
	return &session{conn: conn, w: wire.NewWriter(conn), m: m, parts: make(map[uint32][]byte), secrets: make(map[string][]byte), runs: make(map[uint32]*run), reap: make(chan struct{}, 1)}
}

var errOff = errors.New("the host is done")

// serve does what the host says; it ends with the connection, or when told.
func (s *session) serve() error {
	if s.m.own {
		go s.reapOrphans()
	}
	defer s.endAll()
	for in := wire.NewReader(s.conn); ; {
		f, err := in.Next()
		if err == nil {
			err = s.take(f)
		}
		if errors.Is(err, errOff) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *session) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		r.end(unix.SIGKILL)
		if r.gate != nil {
			r.gate.Close()
		}
		if r.stdin != nil {
			r.stdin.End()
		}
	}
}

func (s *session) take(f wire.Frame) error {
	switch f.Type {
	case wire.Start:
		if len(s.parts) >= wire.MaxRuns || len(s.parts[f.Run])+len(f.Payload) > wire.MaxJSON {
			return fmt.Errorf("run %d: a command that is too large", f.Run)
		}
		s.parts[f.Run] = append(s.parts[f.Run], f.Payload...)
		return nil
	case wire.Begin:
		return s.begin(f.Run)
	case wire.Measure:
		return s.w.SendJSON(wire.Measured, f.Run, memory())
	case wire.Clock:
		n, err := f.Number()
		if err == nil && s.m.own {
			tv := unix.NsecToTimeval(int64(n))
			_ = unix.Settimeofday(&tv)
		}
		return err
	case wire.Off:
		return errOff
	case wire.Secret:
		return s.secret(f)
	case wire.Dial:
		port, err := f.Port()
		if err != nil {
			return err
		}
		return s.dial(f.Run, port)
	}
	s.mu.Lock()
	r := s.runs[f.Run]
	s.mu.Unlock()
	if r == nil {
		return nil // it ended meanwhile
	}
	return r.take(f)
}

// take does what is said to one run.
func (r *run) take(f wire.Frame) error {
	switch f.Type {
	case wire.Stdin:
		switch {
		case r.stdin == nil:
		case len(f.Payload) == 0:
			r.stdin.End()
		case !r.stdin.Put(f.Payload):
			return fmt.Errorf("run %d: more input than there was credit for", r.id)
		}
	case wire.Credit:
		n, err := f.Number()
		if err == nil && r.gate != nil {
			r.gate.Add(n)
		}
		return err
	case wire.Signal:
		n, err := f.Number()
		if err == nil && n > 0 && n < 65 {
			r.end(unix.Signal(n))
		}
		return err
	case wire.Resize:
		columns, rows, err := f.Size()
		if err == nil && r.tty != nil {
			_ = unix.IoctlSetWinsize(int(r.tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
		}
		return err
	}
	return nil
}

// begin starts a run whose command is whole.
func (s *session) begin(id uint32) error {
	var c wire.Command
	data := s.parts[id]
	delete(s.parts, id)
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("run %d: %w", id, err)
	}
	s.mu.Lock()
	taken, many := s.runs[id] != nil, len(s.runs) >= wire.MaxRuns
	s.mu.Unlock()
	switch {
	case taken:
		return fmt.Errorf("run %d is there already", id)
	case many:
		return s.w.SendJSON(wire.Failed, id, wire.Failure{Reason: fmt.Sprintf("%d commands run in it already", wire.MaxRuns), Advice: "end some of them"})
	}
	if id == 0 {
		err := s.m.prepare(c.Root, c.User, s.secrets)
		clear(s.secrets)
		if err != nil {
			return s.w.SendJSON(wire.Failed, id, wire.Failure{Reason: "the guest cannot be set up: " + err.Error(), Advice: "see the machine's console"})
		}
	}
	before := oomKills()
	r, pumps, err := s.start(id, c)
	if err != nil {
		return s.w.SendJSON(wire.Failed, id, wire.Failure{Reason: err.Error(), Advice: "name a program that the image holds"})
	}
	if err := s.w.Send(wire.Started, id, nil); err != nil {
		return err
	}
	for _, pump := range pumps {
		go pump()
	}
	go s.wait(r, before)
	return nil
}

// wait tells the host of a run's end, after all that it printed.
func (s *session) wait(r *run, oomBefore int64) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(r.pid, &status, 0, nil)
		if err != unix.EINTR {
			break
		}
	}
	if r.id == 0 && s.m.own {
		_ = unix.Kill(-1, unix.SIGKILL) // a task is over as a whole
	}
	_ = unix.Kill(-r.pid, unix.SIGKILL)
	r.settle()
	exit := wire.Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		exit.Code, exit.Signal = 128+int(status.Signal()), int(status.Signal())
		exit.OOM = status.Signal() == unix.SIGKILL && oomKills() > oomBefore
	}
	s.mu.Lock()
	delete(s.runs, r.id)
	delete(s.m.running, r.pid)
	s.mu.Unlock()
	if r.stdin != nil {
		r.stdin.End()
	}
	_ = s.w.SendJSON(wire.Exited, r.id, exit)
	select {
	case s.reap <- struct{}{}:
	default:
	}
}

// settle waits until what the run printed is sent. Somebody it left behind, in a
// session of its own, may hold its output open; that is not waited for.
func (r *run) settle() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.outs.Wait()
	}()
	most := 2 * time.Second
	if r.gate != nil {
		most = time.Minute // whoever reads it may be slow
	}
	select {
	case <-done:
	case <-time.After(most):
		if r.gate != nil {
			r.gate.Close()
		}
	}
}

// reapOrphans collects what ends and is nobody's: the first process of a
// machine is the parent of all that lost theirs.
func (s *session) reapOrphans() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	for {
		select {
		case <-signals:
		case <-s.reap:
		}
		for {
			var info unix.Siginfo
			if unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != nil {
				break
			}
			pid := siginfoPID(&info)
			s.mu.Lock()
			waited := s.m.running[pid]
			if pid > 0 && !waited {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
			s.mu.Unlock()
			if pid <= 0 || waited {
				break
			}
		}
	}
}
