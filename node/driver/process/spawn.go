//go:build linux

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// The descriptors of a supervisor: the agent listens at the first for one
// word, and tells a spare one its task over the second.
const (
	readyFD = 3
	taskFD  = 4
)

// spareTask, in place of a directory, makes a supervisor wait to be told one.
const spareTask = "-"

// supervised is a supervisor as the agent that started it sees it, until its
// first word.
type supervised struct {
	pid  int
	word *os.File // read end
	task *os.File // write end; nil unless it is a spare
}

// spares are supervisors that have started and wait for a task: starting a
// program of this size takes longer than anything else on a task's way. A
// spare ends by itself when its agent does.
type spares struct {
	ready   chan *supervised
	mu      sync.Mutex
	closed  bool // guarded by mu
	filling sync.WaitGroup
}

// fill starts spares until there are enough, and returns at once.
func (d *Driver) fill() {
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	if d.spares.closed || len(d.spares.ready) == cap(d.spares.ready) {
		return
	}
	d.spares.filling.Go(func() {
		s, err := d.launch(spareTask)
		if err != nil {
			return // the next start says why
		}
		select {
		case d.spares.ready <- s:
		default:
			s.dismiss()
		}
	})
}

// Close ends the spare supervisors and what is kept of networks in reserve. Tasks go on.
func (d *Driver) Close() error {
	d.spares.mu.Lock()
	d.spares.closed = true
	d.spares.mu.Unlock()
	d.spares.filling.Wait()
	for {
		select {
		case s := <-d.spares.ready:
			s.dismiss()
		default:
			if d.cfg.Hold.Network != nil {
				return d.cfg.Hold.Network.Close()
			}
			return nil
		}
	}
}

// dismiss ends a supervisor that has no task.
func (s *supervised) dismiss() {
	_ = s.task.Close()
	_ = s.word.Close()
	s.reap()
}

// reap collects a supervisor that ends at once because it has no task.
func (s *supervised) reap() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if p, err := identify(s.pid); err == nil {
		_ = p.wait(ctx)
	}
}

// launch starts a supervisor, in a session of its own and with nothing of ours.
func (d *Driver) launch(task string) (*supervised, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	word, say, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer say.Close()
	s := &supervised{word: word}
	files := []*os.File{null, null, null, say}
	if task == spareTask {
		hear, tell, err := os.Pipe()
		if err != nil {
			return nil, errors.Join(err, word.Close())
		}
		defer hear.Close()
		s.task, files = tell, append(files, hear)
	}
	argv := append(append([]string(nil), d.cfg.Supervisor...), task)
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Dir: "/", Files: files,
		// It is small and mostly asleep: one thread of Go code, a tight heap.
		Env: []string{"GOMAXPROCS=1", "GOGC=50", "GOTRACEBACK=none"},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		_ = word.Close()
		if s.task != nil {
			_ = s.task.Close()
		}
		return nil, fmt.Errorf("start a supervisor: %w", err)
	}
	s.pid = p.Pid
	_ = p.Release()
	return s, nil
}

// spawn gives the task a supervisor, a spare one if there is one, and returns
// its first word.
func (d *Driver) spawn(ctx context.Context, t taskDir) (ready, error) {
	defer d.fill()
	select {
	case s := <-d.spares.ready:
		_, err := s.task.WriteString(string(t) + "\n")
		_ = s.task.Close()
		if err == nil {
			word, err := d.listen(ctx, s)
			if err == nil || ctx.Err() != nil {
				return word, err
			}
		} else {
			_ = s.word.Close()
			s.reap()
		}
		// Somebody killed it. If it did begin, the claim is taken and the next
		// one says so.
	default:
	}
	s, err := d.launch(string(t))
	if err != nil {
		return ready{}, err
	}
	return d.listen(ctx, s)
}

// listen waits for the supervisor's first word.
func (d *Driver) listen(ctx context.Context, s *supervised) (ready, error) {
	defer s.word.Close()
	_ = s.word.SetReadDeadline(time.Now().Add(d.cfg.StartTimeout))
	defer context.AfterFunc(ctx, func() { _ = s.word.SetReadDeadline(time.Unix(1, 0)) })()
	var word ready
	data, err := io.ReadAll(io.LimitReader(s.word, 64<<10))
	if err == nil {
		err = json.Unmarshal(data, &word)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.reap()
		}
		return word, fmt.Errorf("hear from the supervisor: %w", err)
	}
	if word.Exists || word.Reason != "" {
		s.reap()
	}
	return word, nil
}
