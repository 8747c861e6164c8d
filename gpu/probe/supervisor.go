package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// Config is what a supervisor is told.
type Config struct {
	// Command starts the child; "--once" is appended for a single reading.
	Command []string
	// Env is added to the agent's own environment.
	Env []string
	// Start is how long a child may take to its first reading: a driver without
	// persistence wakes its devices first. Silence is the longest pause after it.
	Start, Silence time.Duration
	// Pause is the wait before the first new try, PauseMax the longest.
	Pause, PauseMax time.Duration
	Log             *slog.Logger
}

// DefaultConfig has every limit and no command.
func DefaultConfig() Config {
	return Config{Start: 30 * time.Second, Silence: 10 * time.Second, Pause: time.Second, PauseMax: time.Minute}
}

// Supervisor runs the child and listens to it. It is a [gpu.Source].
type Supervisor struct{ cfg Config }

// New makes a supervisor and starts nothing.
func New(cfg Config) (*Supervisor, error) {
	if len(cfg.Command) == 0 || cfg.Start <= 0 || cfg.Silence <= 0 || cfg.Pause <= 0 || cfg.PauseMax < cfg.Pause {
		return nil, errors.New("probe: the command is missing or a limit is not positive; begin with DefaultConfig")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Supervisor{cfg}, nil
}

// Failure is why a child ended or was ended.
type Failure struct {
	// None: the child says that there is nothing to read on this machine.
	None bool
	// Sure: it was silent for too long, or said itself that it cannot go on.
	Sure bool
	Why  string
}

// Error says what happened to the child.
func (f *Failure) Error() string { return f.Why }

// Hint says where to look.
func (f *Failure) Hint() string { return "see what nvidia-smi and the kernel's log say of the driver" }

// Read takes one look through a child of its own.
func (s *Supervisor) Read(ctx context.Context) (gpu.Reading, error) {
	var r *gpu.Reading
	err := s.child(ctx, true, func(u gpu.Update) {
		if u.Reading != nil {
			r = u.Reading
		}
	})
	var f *Failure
	switch {
	case r != nil:
		return *r, nil
	case errors.As(err, &f) && f.None:
		s.cfg.Log.Info("no devices of this driver", "err", err)
		return gpu.Reading{NoDriver: true}, nil
	case err == nil:
		err = ctx.Err()
	}
	return gpu.Reading{}, err
}

// Watch keeps a child running until ctx ends and passes on what it says. A
// machine that has nothing to read is asked again rarely: a driver may be
// installed while the agent runs.
func (s *Supervisor) Watch(ctx context.Context, take func(gpu.Update)) error {
	pause, failed := s.cfg.Pause, 0
	for ctx.Err() == nil {
		err := s.child(ctx, false, func(u gpu.Update) {
			if u.Reading != nil {
				pause, failed = s.cfg.Pause, 0
			}
			take(u)
		})
		if ctx.Err() != nil {
			return nil
		}
		var f *Failure
		if errors.As(err, &f) && f.None {
			take(gpu.Update{Reading: &gpu.Reading{NoDriver: true}})
			pause = s.cfg.PauseMax
		} else {
			s.cfg.Log.Error("the GPU probe ended; it is started again", "err", err, "pause", pause)
			// One crash may be chance.
			if failed++; failed > 1 || f != nil && f.Sure {
				take(gpu.Update{Down: err.Error()})
			}
		}
		wait(ctx, pause)
		pause = min(2*pause, s.cfg.PauseMax)
	}
	return nil
}

// child runs one child to its end and says why it ended.
func (s *Supervisor) child(ctx context.Context, once bool, take func(gpu.Update)) error {
	p, err := s.start(once)
	if err != nil {
		return &Failure{Why: fmt.Sprintf("the GPU probe cannot be started: %v", err)}
	}
	lines := make(chan line, 16)
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() { p.read(lines, done) })
	why := s.listen(ctx, once, lines, take)
	close(done)
	_ = p.out.Close() // ends the reading too
	reading.Wait()
	exit := p.end(ctx)
	if why == nil && !once || errors.Is(why, io.EOF) {
		why = &Failure{Why: exit}
	}
	return why
}

// listen passes on what the child says until it is silent, wrong or over. A
// child that closed its output gives io.EOF.
func (s *Supervisor) listen(ctx context.Context, once bool, lines <-chan line, take func(gpu.Update)) error {
	limit := s.cfg.Start
	silence := time.NewTimer(limit)
	defer silence.Stop()
	for first := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-silence.C:
			return &Failure{Sure: true, Why: fmt.Sprintf("the GPU driver did not answer within %s; the probe was killed", limit)}
		case l := <-lines:
			if l.err != nil {
				return l.err
			}
			m, err := parse(l.data)
			if err == nil && first != (m.Hello != 0) && m.End == nil {
				err = errors.New("a greeting that is missing or comes twice")
			}
			if err != nil {
				return &Failure{Why: fmt.Sprintf("the GPU probe said what it cannot say and was killed: %v", err)}
			}
			first = false
			if m.End != nil {
				return &Failure{None: m.End.Kind == endNone, Sure: true, Why: bounded(m.End.Reason)}
			}
			if m.Reading != nil {
				limit = s.cfg.Silence
				s.sift(m.Reading)
			}
			silence.Reset(limit)
			s.pass(m, take)
			if once && m.Reading != nil {
				return nil
			}
		}
	}
}

func (s *Supervisor) pass(m message, take func(gpu.Update)) {
	if m.Reading != nil || m.Samples != nil || m.Event != nil {
		take(gpu.Update{Reading: m.Reading, Samples: m.Samples, Event: m.Event})
	}
}

// sift drops the devices that cannot be as they were reported, by name.
func (s *Supervisor) sift(r *gpu.Reading) {
	for i := range r.Devices {
		r.Devices[i].Memory = placement.Bytes(r.Devices[i].MemoryBytes)
	}
	kept, lies := gpu.Sift(r.Devices)
	for _, err := range lies {
		s.cfg.Log.Error("a device is not offered: what the driver says of it cannot be", "err", err)
	}
	r.Devices = kept
}

// line is one line of the child, or the end of its output.
type line struct {
	data []byte
	err  error
}

// process is a running child.
type process struct {
	cmd    *exec.Cmd
	out    *os.File  // what it says
	in     io.Closer // closed, it ends by itself
	errors head
	exited chan error
}

func (s *Supervisor) start(once bool) (*process, error) {
	args := s.cfg.Command[1:]
	if once {
		args = append(args[:len(args):len(args)], "--once")
	}
	p := &process{cmd: exec.Command(s.cfg.Command[0], args...), exited: make(chan error, 1)}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.out = r
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.WaitDelay = w, &p.errors, time.Second
	p.cmd.Env = append(os.Environ(), s.cfg.Env...)
	if p.in, err = p.cmd.StdinPipe(); err == nil {
		err = p.cmd.Start()
	}
	_ = w.Close() // the child has its own
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

// read cuts the output into lines until it ends.
func (p *process) read(lines chan<- line, done <-chan struct{}) {
	b := bufio.NewScanner(p.out)
	b.Buffer(make([]byte, 64<<10), maxLine+1)
	say := func(l line) bool {
		select {
		case lines <- l:
			return true
		case <-done:
			return false
		}
	}
	for b.Scan() {
		if !say(line{data: append([]byte(nil), b.Bytes()...)}) {
			return
		}
	}
	err := io.EOF
	if errors.Is(b.Err(), bufio.ErrTooLong) {
		err = &Failure{Why: fmt.Sprintf("the GPU probe wrote a line of more than %d bytes and was killed", maxLine)}
	}
	say(line{err: err})
}

// end makes sure that the child is gone and says how it went. One that sits in
// the kernel cannot be killed: no other is started before it has gone, and the
// agent does not wait for it to end itself.
func (p *process) end(ctx context.Context) string {
	_ = p.in.Close()
	gone := func(limit time.Duration) bool {
		t := time.NewTimer(limit)
		defer t.Stop()
		select {
		case err := <-p.exited:
			p.exited <- err
			return true
		case <-t.C:
			return false
		}
	}
	if !gone(100 * time.Millisecond) {
		_ = p.cmd.Process.Kill()
		for !gone(time.Second) && ctx.Err() == nil {
			continue
		}
	}
	if !gone(time.Millisecond) {
		return "the GPU probe hangs in the kernel and cannot be killed"
	}
	state := p.cmd.ProcessState
	why := "the GPU probe ended: " + state.String()
	if state.ExitCode() == 127 {
		why = "the GPU driver's library lacks a function that was called, which ended the probe"
	}
	if said := p.errors.String(); said != "" {
		why += ": " + bounded(said)
	}
	return why
}

// head keeps the first that was written to it: of a crash the first line says why.
type head struct {
	mu   sync.Mutex
	data []byte // guarded by mu
}

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.data = append(h.data, b[:min(len(b), 1024-len(h.data))]...)
	return len(b), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	first, _, _ := strings.Cut(strings.TrimSpace(string(h.data)), "\n")
	return first
}

// bounded makes a foreign text fit for a log and a record.
func bounded(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return s
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
