//go:build linux

package process

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
)

// start brings the command up. What it prints comes out of the file returned.
func (s *supervisor) start() (*os.File, ready, error) {
	failed := func(err error, reason, advice string) (*os.File, ready, error) {
		return nil, ready{Reason: reason, Advice: advice}, err
	}
	if s.work != nil {
		return s.launch()
	}
	command := s.spec.Command
	if len(command) == 0 {
		return failed(os.ErrInvalid, "the job names no command", "write one: command: [\"/path/to/program\", \"argument\"]")
	}
	if s.spec.Held != nil {
		c, err := s.enter()
		if err != nil {
			return failed(err, fmt.Sprintf("its boundary cannot be made: %v", err), "this is a fault of the node: tell its operator")
		}
		s.cell = c
	}
	var path string
	var err error
	s.within(func() { path, err = s.find(command[0], s.spec.Env["PATH"]) })
	if err != nil {
		return failed(err, fmt.Sprintf("command not found: %v", err), "give the full path of a program that is installed on the node, where tasks see it")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return failed(err, err.Error(), "")
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return failed(err, err.Error(), "")
	}
	defer w.Close()
	attr := &syscall.ProcAttr{
		Dir: s.dir.path("work"), Env: s.environment(s.spec.Env), Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if s.cell != nil {
		s.cell.apply(attr.Sys)
	}
	s.pid, err = s.fork(path, command, attr)
	if err != nil {
		_ = r.Close()
		return failed(err, fmt.Sprintf("%s cannot be run: %v", path, err), "check that it is an executable for this machine")
	}
	var files unix.Rlimit // Go gives what it starts another one than its own
	if unix.Prlimit(s.pid, unix.RLIMIT_NOFILE, nil, &files) == nil {
		s.nofile = &files
	}
	s.describe()
	return r, ready{}, nil
}

// describe writes down what was started. Only figures and the search for
// leftovers use it: a disk that does not take it holds nothing up.
func (s *supervisor) describe() {
	me, err := identify(s.pid)
	if err != nil {
		return
	}
	what := child{process: me, Since: time.Now(), Cgroups: s.group.dirs()}
	if s.cell != nil {
		what.Init, what.Boundary = s.cell.init, append(s.cell.bound, s.group.words(s.spec.limits())...)
	}
	if data, err := json.Marshal(what); err == nil {
		_ = os.WriteFile(s.dir.path("child"), data, 0o600)
	}
}

// fork starts the command inside its cgroup, or outside if that is refused.
func (s *supervisor) fork(path string, command []string, attr *syscall.ProcAttr) (pid int, err error) {
	if s.group.v2 != "" {
		if fd, err := unix.Open(s.group.v2, unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			defer unix.Close(fd)
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
			var pid int
			lost := s.within(func() { pid, err = syscall.ForkExec(path, command, attr) })
			if lost != nil || err == nil {
				return pid, lost
			}
			attr.Sys.UseCgroupFD = false
		}
	}
	lost := s.within(func() { pid, err = syscall.ForkExec(path, command, attr) })
	if lost != nil {
		err = lost
	}
	return pid, err
}

// within does something where the command is to be; an error is that it was not done.
func (s *supervisor) within(f func()) error {
	switch {
	case s.network != nil:
		return forkWithin(s.network, f)
	case s.cell != nil:
		s.cell.run(f)
	default:
		f()
	}
	return nil
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is a clean one: nothing of the agent's, then what was said.
func (s *supervisor) environment(said map[string]string) []string {
	env := map[string]string{
		"PATH": searchPath, "HOME": s.dir.path("work"), "LANG": "C.UTF-8",
	}
	maps.Copy(env, said)
	maps.Copy(env, s.spec.DeviceEnv())
	if s.spec.SecretsDir != "" {
		env[runner.SecretsEnv] = s.spec.SecretsDir
		if h := s.spec.Held; h != nil && h.Secrets != nil {
			env[runner.SecretsEnv] = h.Secrets.To
		}
	}
	if s.spec.InputsDir != "" {
		env[runner.InputsEnv] = s.spec.InputsDir
		if h := s.spec.Held; h != nil && h.Inputs != nil {
			env[runner.InputsEnv] = h.Inputs.To
		}
	}
	if s.spec.OutputsDir != "" {
		env[runner.OutputsEnv] = s.spec.OutputsDir
		if h := s.spec.Held; h != nil && h.Outputs != nil {
			env[runner.OutputsEnv] = h.Outputs.To
		}
	}
	env["SOVMESH_TASK"], env["SOVMESH_JOB"] = string(s.spec.Task), string(s.spec.Job)
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	return list
}

// find looks the program up as a shell in the working directory would, with that
// PATH; empty is the job's, or the usual one.
func (s *supervisor) find(name, path string) (string, error) {
	if path == "" {
		path = s.spec.Env["PATH"]
	}
	if path == "" {
		path = searchPath
	}
	if err := os.Setenv("PATH", path); err != nil {
		return "", err
	}
	if !filepath.IsAbs(name) && filepath.Base(name) != name {
		name = filepath.Join(s.dir.path("work"), name)
	}
	return exec.LookPath(name)
}
