//go:build linux

package process

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/output"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Work is a task that is more than the job's own command: a process that the
// workload runs in, a machine for one. A driver built upon this one starts it
// with [Driver.StartWork], and has a supervisor command of its own that ends in
// [Supervise]. The methods are called in the supervisor.
type Work interface {
	// Launch says what to start for the task in dir; told is that of the [Order].
	// The files it opens are closed after the start. Its error may be a
	// *runner.StartError.
	Launch(dir string, s runner.Spec, told json.RawMessage) (Launch, error)
	// Attend keeps company with what was launched, says when the workload runs and
	// how it ended, and returns when there is nothing more to be heard. What it
	// returns explains an end that the workload did not announce.
	Attend(t Tending) (why string)
	// Stop asks the workload to end. Whether it does is not waited for: it is
	// killed after the grace.
	Stop(grace time.Duration)
}

// Elsewhere is a [Work] that launches nothing, its Path being empty: what it
// attends to runs elsewhere, in a container engine for one. Attend then brings
// the workload up, and the task is over when it returns.
type Elsewhere interface {
	Work
	// Kill ends the workload at once, or keeps it from starting. It is called
	// in a goroutine of its own, and may be called again.
	Kill()
}

// Launch is a process to start; without a Path there is none: see [Elsewhere].
type Launch struct {
	Path       string
	Argv       []string
	Env        []string // beside the variable by which the task's processes are found
	Dir        string
	Files      []*os.File // handed on as descriptors 3, 4, ...
	Credential *syscall.Credential
	// Network is the namespace that it runs in; nil is the supervisor's own. It is
	// closed as the files are.
	Network *os.File
	// Servants run beside it, in its cgroup and network. The task ends when one of
	// them does.
	Servants []Servant
}

// servantUsers is how many users of the node's stand for those that a servant knows.
const servantUsers = 1 << 16

// Servant is a program that serves what is launched. It is no user of the node's:
// in its own namespaces it is root, of [servantUsers] users that begin with Users.
type Servant struct {
	Path  string
	Argv  []string
	Files []*os.File // as those of a [Launch], and closed with them
	Users int
}

// Tending is what a [Work] has to do with while it attends.
type Tending struct {
	Dir string
	PID int
	// Output takes the task's output; one goroutine at a time.
	Output io.Writer
	// Said is what the launched process itself writes, both streams.
	Said io.Reader
	// Ready ends the start: the workload runs.
	Ready func()
	// Failed ends the start too: the workload cannot be started.
	Failed func(reason, advice string)
	// Ended says how the workload ended. What it ran in is killed if it does not
	// end by itself within linger.
	Ended func(exit runner.Exit, linger time.Duration)
}

// Order is what a driver that is built upon this one starts.
type Order struct {
	Told   any                 // for the [Work]; a JSON value
	Limits placement.Resources // of the cgroups
	Data   json.RawMessage     // of the handle
	// Fill puts more into the task's directory before it is in its place.
	Fill func(dir string) error
}

// StartWork is Start for a task that is a [Work].
func (d *Driver) StartWork(ctx context.Context, s runner.Spec, o Order) (runner.Handle, error) {
	told, err := json.Marshal(o.Told)
	if err != nil {
		return runner.Handle{}, fmt.Errorf("start task %s: %w", s.Task, err)
	}
	h := d.handle(s.Task)
	h.Data = o.Data
	return d.start(ctx, s, spec{Spec: s, Told: told, Limits: &o.Limits}, h, o.Fill)
}

// Told reads what a task's order told its work, and its spec.
func (d *Driver) Told(id placement.TaskID, told any) (runner.Spec, error) {
	var s spec
	err := d.dir(id).readJSON("spec", &s)
	if err == nil {
		err = json.Unmarshal(s.Told, told)
	}
	if err != nil {
		return s.Spec, fmt.Errorf("look at task %s: %w", id, err)
	}
	return s.Spec, nil
}

// TaskDir is the directory of a task.
func (d *Driver) TaskDir(id placement.TaskID) string { return string(d.dir(id)) }

// Stopping reports whether a task was ordered to end.
func (d *Driver) Stopping(id placement.TaskID) bool {
	var o orders
	_, err := d.dir(id).readSlot("orders", &o)
	return err != nil || o.Stop
}

// PID is that of the process that was launched for a task, 0 if it does not run.
func (d *Driver) PID(id placement.TaskID) int {
	var what child
	if d.dir(id).readJSON("child", &what) != nil || !what.alive() {
		return 0
	}
	return what.PID
}

// DialUnix connects to a unix socket by its name in a directory. The path may
// be longer than an address takes: unix(7) has room for 107 bytes. The directory
// may be another user's, such as a QEMU's that was taken over by its guest: a link
// in the socket's place, or in the directory's, is refused and leads nowhere.
func DialUnix(ctx context.Context, dir, name string) (net.Conn, error) {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(dir, name), Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%s is not a socket: somebody put something else in its place", filepath.Join(dir, name))
	}
	// By the descriptor: what is at the path by now may be another one.
	return (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}

// ListenUnix is the other end of [DialUnix]. The socket's file stays when the
// listener is closed; it goes with its directory.
func ListenUnix(dir, name string) (net.Listener, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), name))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// launch starts what the work consists of.
func (s *supervisor) launch() (*os.File, ready, error) {
	l, err := s.work.Launch(string(s.dir), s.spec.Spec, s.spec.Told)
	defer func() {
		for _, f := range l.Files {
			_ = f.Close()
		}
		for _, a := range l.Servants {
			for _, f := range a.Files {
				_ = f.Close()
			}
		}
		if l.Network != nil {
			_ = l.Network.Close()
		}
	}()
	if err != nil {
		return nil, refusal(err), err
	}
	s.network = l.Network
	if e, ok := s.work.(Elsewhere); ok && l.Path == "" {
		s.elsewhere = e
		return nil, ready{}, nil
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, refusal(err), err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, refusal(err), err
	}
	defer w.Close()
	attr := &syscall.ProcAttr{
		Dir: l.Dir, Env: append([]string{"PATH=" + searchPath, "LANG=C.UTF-8", "SOVMESH_TASK=" + string(s.spec.Task)}, l.Env...),
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Credential: l.Credential},
	}
	for _, f := range l.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	for _, a := range l.Servants {
		if err := s.serve(a, null, w); err != nil {
			_ = r.Close()
			return nil, refusal(err), err
		}
	}
	if s.pid, err = s.fork(l.Path, l.Argv, attr); err != nil {
		_ = r.Close()
		err = &runner.StartError{Task: s.spec.Task, Reason: fmt.Sprintf("%s cannot be run: %v", l.Path, err), Advice: "see that it is installed on the node and made for it"}
		return nil, refusal(err), err
	}
	s.describe()
	return r, ready{}, nil
}

// serve starts a servant. It ends with us, and is ended with the task.
func (s *supervisor) serve(a Servant, null, said *os.File) error {
	users := []syscall.SysProcIDMap{{ContainerID: 0, HostID: a.Users, Size: servantUsers}}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + searchPath, "LANG=C.UTF-8"},
		Files: []uintptr{null.Fd(), said.Fd(), said.Fd()},
		Sys: &syscall.SysProcAttr{
			Setsid: true, Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{},
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			UidMappings: users, GidMappings: users, GidMappingsEnableSetgroups: true,
		},
	}
	for _, f := range a.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	pid, err := s.fork(a.Path, a.Argv, attr)
	if err != nil {
		return &runner.StartError{Task: s.spec.Task, Reason: fmt.Sprintf("%s cannot be run in namespaces of its own: %v", a.Path, err), Advice: "see that the node's kernel makes namespaces of users"}
	}
	s.servants[pid] = a.Path
	return nil
}

// refusal is an error as the agent is told it.
func refusal(err error) ready {
	if e, ok := err.(*runner.StartError); ok {
		return ready{Reason: e.Reason, Advice: e.Advice}
	}
	return ready{Reason: err.Error(), Advice: "see the node's log"}
}

// attend lets the work keep company with what was launched.
func (s *supervisor) attend(said *os.File, done chan<- struct{}) {
	defer close(done)
	tending := Tending{Dir: string(s.dir), PID: s.pid}
	if said != nil {
		defer said.Close()
		tending.Said = said
	}
	out := &output.Writer{Dir: string(s.dir), FileSize: s.spec.LogFileSize, Files: s.spec.LogFiles, Behind: true}
	defer out.Close()
	tending.Output = out
	tending.Ready = func() {
		s.tidings <- func() {
			if s.elsewhere != nil {
				s.describeElsewhere()
			}
			s.say(ready{})
		}
	}
	tending.Failed = func(reason, advice string) {
		s.tidings <- func() {
			if s.exit.Stopped {
				return // it was ended while it started: no fault of the workload's
			}
			s.failed = &ready{Reason: reason, Advice: advice}
			s.workExit = &runner.Exit{Code: 127, Reason: reason}
			s.kill()
		}
	}
	tending.Ended = func(exit runner.Exit, linger time.Duration) {
		s.tidings <- func() { s.workExit, s.offAt = &exit, time.After(linger) }
	}
	why := s.work.Attend(tending)
	s.tidings <- func() {
		if s.workExit == nil && why != "" && s.exit.Reason == "" && !s.exit.Stopped {
			s.exit.Reason = why
		}
		if s.elsewhere != nil {
			if s.workExit == nil {
				s.workExit = &runner.Exit{Code: 255, Reason: why}
			}
			s.ended <- 0
		}
	}
}

// describeElsewhere writes down since when a workload runs that has no process here.
func (s *supervisor) describeElsewhere() {
	if data, err := json.Marshal(child{Since: time.Now(), Cgroups: s.group.dirs()}); err == nil {
		_ = os.WriteFile(s.dir.path("child"), data, 0o600)
	}
}

// settle hears the rest of what an attending work has to say.
func (s *supervisor) settle(done <-chan struct{}) {
	most := time.After(5 * time.Second)
	for {
		select {
		case tell := <-s.tidings:
			tell()
		case <-done:
			return
		case <-most:
			return
		}
	}
}

// judge prefers what the work said of its end to how its process ended.
func (s *supervisor) judge() {
	if s.workExit == nil {
		if s.work != nil && s.exit.Code == 0 && !s.exit.Stopped {
			s.exit.Code = 255 // its process went in peace and never said how its work ended: no success
		}
		return
	}
	s.exit.Code, s.exit.Signal, s.exit.OOM = s.workExit.Code, s.workExit.Signal, s.workExit.OOM
	if !s.workExit.At.IsZero() {
		s.exit.At = s.workExit.At
	}
	if s.exit.Reason == "" {
		s.exit.Reason = s.workExit.Reason
	}
}
