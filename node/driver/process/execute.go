//go:build linux

package process

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
)

// execs are the commands that run in a task beside its own.
type execs struct {
	starting sync.Mutex // held before mu, and by nobody that the task's end waits for
	cell     *cell      // where they are started if the task is not held in; guarded by starting

	mu      sync.Mutex // held around a copy, an end and a kill: never for as long as the task likes
	running map[int]*execution
	over    bool // the task ends, and nothing is started any more; guarded by mu
	// starved is how often the kernel ended one for want of memory: those are not
	// the task's own end. Guarded by mu.
	starved int64
}

// execution is one of them.
type execution struct {
	pid    int
	pidfd  int
	conn   *net.UnixConn
	told   bool          // the agent knows that it was started; guarded by execs.mu
	exit   *runner.Exit  // how it ended; guarded by execs.mu
	unsent bool          // it was killed because nobody wants it any more
	over   chan struct{} // closed when it has ended
}

// errOver is that nothing is started any more.
var errOver = errors.New("the task ends")

// execute starts a command where the task is, and answers. Nil is that there is
// none. It is called by the door, and may take as long as the task's files do.
func (s *supervisor) execute(conn *net.UnixConn, c call, files []*os.File) *execution {
	refuse := func(reason, advice string) *execution {
		_ = conn.SetWriteDeadline(time.Now().Add(callTimeout))
		_ = send(conn, answer{Reason: reason, Advice: advice})
		return nil
	}
	if len(c.Command) == 0 || c.TTY == (len(files) == 3) {
		return refuse("there is no command to run", "write one: sovmesh job exec ID -- /bin/program")
	}
	s.execs.starting.Lock()
	copied := sync.OnceFunc(s.execs.starting.Unlock)
	defer copied()
	at := s.cell
	if at == nil {
		if s.execs.cell == nil {
			s.execs.cell = bareCell()
		}
		at = s.execs.cell
	}
	var path string
	var err error
	at.run(func() { path, err = s.find(c.Command[0], c.Env["PATH"]) })
	if err != nil {
		return refuse(fmt.Sprintf("command not found: %v", err), "give the full path of a program that the task sees")
	}
	var master *os.File
	if c.TTY {
		var slave *os.File
		at.run(func() { master, slave, err = openTerminal(at.h.User) })
		if err != nil {
			return refuse(fmt.Sprintf("a terminal cannot be opened for it: %v", err), "run it without one")
		}
		defer master.Close()
		defer slave.Close()
		_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: c.Rows, Col: c.Columns})
		files = []*os.File{slave, slave, slave}
	}
	env := maps.Clone(s.spec.Env)
	if env == nil {
		env = make(map[string]string)
	}
	maps.Copy(env, c.Env)
	e := &execution{pidfd: -1, conn: conn, over: make(chan struct{})}
	attr := &syscall.ProcAttr{
		Dir: s.dir.path("work"), Env: s.environment(env), Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: c.TTY, Pdeathsig: syscall.SIGKILL, PidFD: &e.pidfd},
	}
	at.apply(attr.Sys)
	begun, err := s.bring(e, at, path, c.Command, attr)
	copied()
	if err == nil {
		err = begun()
	}
	if errors.Is(err, errOver) {
		return refuse(err.Error(), "")
	}
	if err != nil {
		s.execs.kill(e)
		return refuse(fmt.Sprintf("%s cannot be run: %v", path, err), "check that it is an executable for this machine, and that the task may have another process")
	}
	s.execs.tell(e, master)
	return e
}

// bring starts a command, which may not have begun its program by then: begun waits for that.
func (s *supervisor) bring(e *execution, at *cell, path string, argv []string, attr *syscall.ProcAttr) (begun func() error, err error) {
	s.execs.mu.Lock() // an end is not heard of before the start is known
	defer s.execs.mu.Unlock()
	if s.execs.over {
		return nil, errOver
	}
	if begun, err = s.forkMore(e, at, path, argv, attr); err == nil {
		s.execs.running[e.pid] = e
	}
	return begun, err
}

// tell has the agent know that a command was started, and of its end if that has
// come. The master is that of its terminal, or nil.
func (x *execs) tell(e *execution, master *os.File) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.told = true
	var rights []*os.File
	if master != nil {
		rights = append(rights, master)
	}
	_ = e.conn.SetWriteDeadline(time.Now().Add(callTimeout))
	_ = send(e.conn, answer{Started: true}, rights...)
	if e.exit != nil {
		_ = send(e.conn, answer{Exit: e.exit})
	}
}

// shut has nothing started any more.
func (x *execs) shut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
}

// bareCell is a thread that starts commands of a task that is not held in: what
// a thread started ends with it.
func bareCell() *cell {
	c := &cell{do: make(chan func()), h: &held{}}
	ready := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		c.tid = unix.Gettid()
		close(ready)
		for f := range c.do {
			f()
		}
	}()
	<-ready
	return c
}

// forkMore starts a command inside all groups of the task, from its first instant
// on: one that could not be put there is not started, for it would be under no limit.
func (s *supervisor) forkMore(e *execution, at *cell, path string, argv []string, attr *syscall.ProcAttr) (begun func() error, err error) {
	if s.group.v2 != "" {
		fd, err := unix.Open(s.group.v2, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open the task's group: %w", err)
		}
		defer unix.Close(fd)
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
	}
	begun = func() error { return nil }
	fork := func() { e.pid, err = syscall.ForkExec(path, argv, attr) }
	if copies(attr) {
		fork = func() {
			var u unborn
			if u, err = bear(path, argv, attr, s.nofile); err == nil {
				e.pid, e.pidfd, begun = u.pid, u.pidfd, u.begun
			}
		}
	}
	if lent := s.group.lend(at.tid, func() { at.run(fork) }); lent != nil {
		return nil, lent
	}
	return begun, err
}

// openTerminal makes a pair in the devices that the calling thread sees, for a user.
func openTerminal(user int) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "terminal")
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		var peer uintptr
		var e syscall.Errno
		if peer, _, e = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC); e != 0 {
			err = e
		} else {
			slave = os.NewFile(peer, "terminal")
		}
	}
	if err == nil && user != 0 {
		if err = slave.Chown(user, user); err != nil {
			_ = slave.Close()
		}
	}
	if err != nil {
		_ = master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// ended tells the agent of an end. It is called by reap, before the supervisor
// can end, so that an end of the whole task is told of as well.
func (x *execs) ended(pid int, status unix.WaitStatus, g *group) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.running[pid]
	if e == nil {
		return
	}
	delete(x.running, pid)
	exit := &runner.Exit{Code: status.ExitStatus(), At: time.Now()}
	if status.Signaled() {
		exit.Code, exit.Signal = 128+int(status.Signal()), unix.SignalName(status.Signal())
		if status.Signal() == unix.SIGKILL && !e.unsent && g.ooms() > x.starved {
			x.starved++
			exit.OOM = true
		}
	}
	if e.exit = exit; e.told {
		_ = e.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_ = send(e.conn, answer{Exit: exit})
	}
	_ = unix.Close(e.pidfd)
	close(e.over)
	_ = e.conn.SetReadDeadline(time.Unix(1, 0)) // nobody need wait for the agent's word any more
}

func (x *execs) starvedSoFar() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.starved
}

// kill ends a command and what it started. What had parted from it before is the
// task's, and ends with that.
func (x *execs) kill(e *execution) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running[e.pid] != e || unix.PidfdSendSignal(e.pidfd, 0, nil, 0) != nil {
		return
	}
	e.unsent = true
	below := descendants(e.pid)
	_ = unix.Kill(-e.pid, unix.SIGKILL)
	for _, pid := range below {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = unix.PidfdSendSignal(e.pidfd, unix.SIGKILL, nil, 0)
}
