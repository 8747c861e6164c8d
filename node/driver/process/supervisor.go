//go:build linux

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/output"
	"github.com/sovmesh/sovmesh/node/runner"
)

// ready is the supervisor's first word to the agent, if that still listens.
type ready struct {
	Exists bool   `json:"exists,omitempty"` // somebody else has the claim
	Reason string `json:"reason,omitempty"` // why the command could not be started
	Advice string `json:"advice,omitempty"`
}

// SupervisorMain supervises the task whose directory is args[0], and returns
// the exit code of the supervisor itself.
func SupervisorMain(args []string) int { return Supervise(args, nil) }

// Supervise is SupervisorMain for work of another kind than the job's own
// command; nil is for that.
func Supervise(args []string, work Work) int {
	if len(args) != 1 || (args[0] != spareTask && !filepath.IsAbs(args[0])) {
		fmt.Fprintln(os.Stderr, SupervisorCommand+" is started by the agent only")
		return 2
	}
	// The command is killed when the thread that started it ends: this one
	// stays as long as the supervisor does.
	runtime.LockOSThread()
	spare := args[0] == spareTask
	closeInherited(spare)
	s := &supervisor{
		first:   os.NewFile(readyFD, "ready"),
		signals: make(chan os.Signal, 8), ended: make(chan unix.WaitStatus, 1), alone: make(chan struct{}),
		work: work, tidings: make(chan func()), execs: execs{running: make(map[int]*execution)},
		servants: make(map[int]string), deserted: make(chan string, 1),
	}
	// Not ignored but heard by nobody: what is ignored stays so for all that is
	// started, and a command on a terminal could not be interrupted.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	dir := args[0]
	if spare {
		if dir = hearTask(); dir == "" {
			return 0 // the agent ended, or needs no spare
		}
	}
	s.dir = taskDir(dir)
	signal.Notify(s.signals, unix.SIGUSR1, unix.SIGTERM)
	if err := s.run(); err != nil {
		s.say(ready{Reason: err.Error()})
		return 1
	}
	return 0
}

// hearTask waits until the agent names a task. A name that is not whole is none.
func hearTask() string {
	f := os.NewFile(taskFD, "task")
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	dir, whole := strings.CutSuffix(string(data), "\n")
	if err != nil || !whole || !filepath.IsAbs(dir) {
		return ""
	}
	return dir
}

// closeInherited closes descriptors that the agent did not mean to hand on:
// those that some library opened without close-on-exec.
func closeInherited(spare bool) {
	last := readyFD
	if spare {
		last = taskFD
		unix.CloseOnExec(taskFD)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= last {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	unix.CloseOnExec(readyFD)
}

// supervisor is the state of one supervisor; run owns all of it.
type supervisor struct {
	dir     taskDir
	spec    spec
	first   *os.File // the agent, until the first word
	signals chan os.Signal
	ended   chan unix.WaitStatus // the command's
	alone   chan struct{}        // closed when nothing below us lives any more
	group   *group
	pid     int
	exit    runner.Exit // what is known of the end before it comes
	stopped bool
	lease   time.Time // as it was last read
	leaseAt <-chan time.Time
	killAt  <-chan time.Time

	cell      *cell            // nil if the task is not held in
	servants  map[int]string   // programs by their pids; not changed once the work runs
	deserted  chan string      // a servant ended
	leftAt    <-chan time.Time // when the task is ended after that
	work      Work             // nil for the job's own command
	network   *os.File         // that the work's process is to run in; nil is ours
	elsewhere Elsewhere        // it runs no process below us
	tidings   chan func()      // what the work has to say; done by watch
	workExit  *runner.Exit     // how the work says that it ended
	offAt     <-chan time.Time // when what it ran in is ended after that
	failed    *ready           // the work could not be started after all
	execs     execs            // the commands that run beside the task's own
	nofile    *unix.Rlimit     // of open files, as the command was started with
	obeyAt    <-chan time.Time // when the orders are read again
}

func (s *supervisor) say(r ready) {
	if s.first == nil {
		return
	}
	data, _ := json.Marshal(r)
	_, _ = s.first.Write(data)
	_ = s.first.Close()
	s.first = nil
}

func (s *supervisor) run() error {
	if err := s.dir.readJSON("spec", &s.spec); err != nil {
		return err
	}
	if err := s.dir.readJSON("held", &s.spec.Held); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	if err := s.dir.takeClaim(claim{process: self}); err != nil {
		if errors.Is(err, os.ErrExist) {
			s.say(ready{Exists: true})
			return nil
		}
		return err
	}
	// What the command leaves behind becomes ours, so that nothing escapes.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of the task: %w", err)
	}
	s.group = makeGroup(s.spec.Cgroup, filepath.Base(string(s.dir)), s.spec.limits(), s.spec.pids())
	printed, failed, err := s.start()
	if err != nil {
		s.cell.leave()
		s.exit = runner.Exit{Code: 127, Reason: failed.Reason, At: time.Now()}
		s.record()
		_ = removeGroups(s.group.dirs(), time.Second)
		s.say(failed)
		return nil
	}
	written := make(chan struct{})
	if s.work != nil {
		go s.attend(printed, written)
	} else {
		s.openDoor()
		s.say(ready{})
		go s.copyOutput(printed, written)
	}
	if s.elsewhere == nil {
		go s.reap()
		go s.group.attachV1(s.processes)
	} else {
		close(s.alone)
	}
	s.setLease(s.spec.LeaseUntil)
	s.obey()
	status := s.watch()
	s.execs.shut()
	s.endRest()
	s.settle(written)
	s.finish(status)
	return nil
}

// processes are all of the task's but the first one of its namespace.
func (s *supervisor) processes() []int {
	return slices.DeleteFunc(descendants(os.Getpid()), func(pid int) bool { return s.cell != nil && pid == s.cell.init })
}

// copyOutput drains the command's output until nobody can write any more.
func (s *supervisor) copyOutput(r *os.File, done chan<- struct{}) {
	defer close(done)
	w := &output.Writer{Dir: string(s.dir), FileSize: s.spec.LogFileSize, Files: s.spec.LogFiles}
	defer w.Close()
	_, _ = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 32<<10))
}

// reap collects everything that ends below us.
func (s *supervisor) reap() {
	defer close(s.alone)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return // no children: the command was one until it was collected
		case pid == s.pid:
			s.ended <- status
		case s.servants[pid] != "":
			select {
			case s.deserted <- filepath.Base(s.servants[pid]):
			default: // one is enough
			}
		default:
			s.execs.ended(pid, status, s.group)
		}
	}
}

// watch waits for the command's end and does what is ordered meanwhile.
func (s *supervisor) watch() unix.WaitStatus {
	left := ""
	for {
		select {
		case status := <-s.ended:
			return status
		case sig := <-s.signals:
			if sig == unix.SIGTERM { // the machine goes down
				s.stop(s.spec.Grace)
			} else {
				s.obey()
			}
		case <-s.leaseAt:
			s.exit.Reason = "its lease ended before it was renewed"
			s.exit.Stopped = true
			s.kill()
		case tell := <-s.tidings:
			tell()
		case <-s.obeyAt:
			s.obey()
		case <-s.offAt:
			s.kill()
		case who := <-s.deserted:
			// It may be because what it serves is just ending.
			left, s.leftAt = who, time.After(2*time.Second)
		case <-s.leftAt:
			reason := left + " ended, which served it"
			if s.first != nil { // it did not come up
				s.failed = &ready{Reason: reason, Advice: "see whether it runs on the node, and what it needs"}
			}
			s.exit.Reason = reason
			s.kill()
		case <-s.killAt:
			s.exit.Killed = true
			s.kill()
		}
	}
}

// obey reads the orders. Where there is no descriptor left to read them with, there
// may be one soon, and nobody says again that there are some.
func (s *supervisor) obey() {
	var o orders
	s.obeyAt = nil
	ok, err := s.dir.readSlot("orders", &o)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		s.obeyAt = time.After(100 * time.Millisecond)
	}
	if !ok || err != nil {
		return
	}
	s.setLease(o.LeaseUntil)
	if o.Stop {
		s.stop(max(time.Until(o.StopAt.Add(o.Grace)), 0))
	}
}

// setLease is kept by this process' monotonic clock once it is known.
func (s *supervisor) setLease(until time.Time) {
	if !until.IsZero() && !until.Equal(s.lease) {
		s.lease = until
		s.leaseAt = time.After(time.Until(until))
	}
}

// stop asks the command's process group to end and sets the time to kill it.
// Asked again, it only moves that time.
func (s *supervisor) stop(grace time.Duration) {
	s.exit.Stopped = true
	s.killAt = time.After(grace)
	if !s.stopped && s.work != nil {
		go s.work.Stop(grace)
	} else if !s.stopped && grace > 0 {
		_ = unix.Kill(-s.pid, unix.SIGTERM)
	}
	s.stopped = true
}

// kill ends all that the command started; the command's own end is then seen by watch.
func (s *supervisor) kill() {
	if s.elsewhere != nil {
		go s.elsewhere.Kill()
		return
	}
	s.cell.leave()
	killGroup(s.group.dirs())
	_ = unix.Kill(-s.pid, unix.SIGKILL)
}

// endRest ends what outlived the command: a task is over as a whole.
func (s *supervisor) endRest() {
	s.cell.leave()
	if await(s.alone, 0) {
		return
	}
	for range 500 {
		killGroup(s.group.dirs())
		for _, pid := range descendants(os.Getpid()) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if await(s.alone, 20*time.Millisecond) {
			return
		}
	}
}

func await(done <-chan struct{}, most time.Duration) bool {
	select {
	case <-done:
		return true
	default:
	}
	select {
	case <-done:
		return true
	case <-time.After(most):
		return false
	}
}

func (s *supervisor) finish(status unix.WaitStatus) {
	s.exit.At, s.exit.Code = time.Now(), status.ExitStatus()
	if status.Signaled() {
		s.exit.Code, s.exit.Signal = 128+int(status.Signal()), unix.SignalName(status.Signal())
	}
	s.exit.OOM = s.group.ooms() > s.execs.starvedSoFar() && s.exit.Code != 0 && !s.exit.Stopped
	s.judge()
	s.record()
	_ = removeGroups(s.group.dirs(), time.Second)
	if s.failed != nil {
		s.say(*s.failed)
	}
}

// record writes the end down. The space was taken when the task was made, so
// only a broken disk keeps it from being written; then nobody will know.
func (s *supervisor) record() {
	for range 60 {
		if s.dir.writeSlot("exit", s.exit) == nil {
			return
		}
		time.Sleep(time.Second)
	}
}
