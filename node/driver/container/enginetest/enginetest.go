//go:build linux

// Package enginetest starts real container engines for tests: dockerd and the
// service of Podman, each in a network and a mount namespace of its own, with all
// that it keeps in one directory, so that the machine is afterwards as it was:
// its forwarding rules, its mounts, its images. Nothing reaches a network.
//
// A test that needs an engine which is not installed is skipped by name, with
// the package that brings it.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Kind names an engine.
type Kind string

// The engines.
const (
	Docker Kind = "docker"
	Podman Kind = "podman"
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{Docker, Podman} }

// patience bounds every wait for an engine.
const patience = 60 * time.Second

// Engines are those that a test program has started, at most one of a kind.
// The zero value has none; Close, in TestMain, ends them.
type Engines struct {
	mu  sync.Mutex
	all map[Kind]*Engine // guarded by mu
}

// Get is the engine of that kind, started if need be. A test on a machine that
// cannot have it is skipped.
func (e *Engines) Get(t testing.TB, kind Kind) *Engine {
	t.Helper()
	if testing.Short() {
		t.Skip("the fast part starts no engines; make test does")
	}
	if why := Missing(kind); why != "" {
		t.Skipf("no %s here: %s", kind, why)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = make(map[Kind]*Engine)
	}
	if e.all[kind] == nil {
		engine, err := Start(kind)
		if err != nil {
			t.Fatal(err)
		}
		e.all[kind] = engine
	}
	return e.all[kind]
}

// Close ends what was started.
func (e *Engines) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var problems []error
	for _, engine := range e.all {
		problems = append(problems, engine.Close())
	}
	e.all = nil
	return errors.Join(problems...)
}

// needs are the programs of an engine, and the package of Debian that has each.
var needs = map[Kind][][2]string{
	Docker: {{"dockerd", "docker.io"}, {"containerd", "containerd"}, {"runc", "runc"}, {"unshare", "util-linux"}, {"ip", "iproute2"}},
	Podman: {{"podman", "podman"}, {"conmon", "conmon"}, {"runc", "runc"}, {"unshare", "util-linux"}, {"ip", "iproute2"}},
}

// Missing says what this machine lacks for the engine; empty is nothing.
func Missing(kind Kind) string {
	if os.Getuid() != 0 {
		return "starting one in namespaces of its own takes root"
	}
	for _, n := range needs[kind] {
		if _, err := exec.LookPath(n[0]); err != nil {
			return fmt.Sprintf("%s is not installed (package %s)", n[0], n[1])
		}
	}
	return ""
}

// Engine is one that runs.
type Engine struct {
	Kind Kind
	// Host is where it answers: unix:// and a path.
	Host string
	// Dir holds all that it keeps.
	Dir string

	cmd   *exec.Cmd
	log   *os.File
	space int64
}

// Start starts an engine; [Engine.Close] ends it.
func Start(kind Kind) (*Engine, error) { return StartSmall(kind, 0) }

// StartSmall starts an engine that has so many bytes for its images and
// containers, in memory; 0 is the disk that Dir is on.
func StartSmall(kind Kind, space int64) (*Engine, error) {
	dir, err := os.MkdirTemp("", "engine-"+string(kind)+"-")
	if err != nil {
		return nil, err
	}
	e := &Engine{Kind: kind, Dir: dir, Host: "unix://" + filepath.Join(dir, "engine.sock"), space: space}
	if err := e.Run(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Run starts the engine again after [Engine.Kill].
func (e *Engine) Run() error {
	log, err := os.OpenFile(filepath.Join(e.Dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for _, d := range []string{"data", "run", "empty"} {
		if err := os.MkdirAll(filepath.Join(e.Dir, d), 0o700); err != nil {
			return err
		}
	}
	// Semaphores and locks that engines share by name stay in here too.
	script := `ip link set lo up && mount -t tmpfs none /dev/shm && exec "$@"`
	if e.space > 0 {
		script = fmt.Sprintf("mount -t tmpfs -o size=%d none '%s' && ", e.space, filepath.Join(e.Dir, "data")) + script
	}
	argv := append([]string{"--net", "--mount", "--", "/bin/sh", "-c", script, "sh"}, e.command()...)
	e.cmd = exec.Command("unshare", argv...)
	e.cmd.Dir, e.cmd.Stdout, e.cmd.Stderr = "/", log, log
	e.cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(e.Dir, "run"), "CONTAINERS_REGISTRIES_CONF="+filepath.Join(e.Dir, "registries.conf"),
		"DOCKER_CONFIG="+filepath.Join(e.Dir, "empty"), "HOME="+filepath.Join(e.Dir, "empty"))
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: 0}
	e.log = log
	// Registries of tests listen on the loopback, which is the engine's own.
	for name, text := range map[string]string{
		"docker.json":     "{}\n",
		"registries.conf": "unqualified-search-registries = []\n[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n",
	} {
		if err := os.WriteFile(filepath.Join(e.Dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := e.cmd.Start(); err != nil {
		return err
	}
	return e.await()
}

// command is the engine's own command line.
func (e *Engine) command() []string {
	data, run := filepath.Join(e.Dir, "data"), filepath.Join(e.Dir, "run")
	if e.Kind == Docker {
		return []string{
			"dockerd", "-H", e.Host, "--data-root", data, "--exec-root", run, "--pidfile", filepath.Join(e.Dir, "pid"),
			"--config-file", filepath.Join(e.Dir, "docker.json"), "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
			"--cgroup-parent", e.group(), "--exec-opt", "native.cgroupdriver=cgroupfs", "--log-level=warn",
		}
	}
	return []string{
		"podman", "--root", data, "--runroot", run, "--tmpdir", filepath.Join(run, "tmp"), "--cgroup-manager=cgroupfs",
		"--runtime=runc", "--events-backend=file", "--log-level=error", "system", "service", "--time=0", e.Host,
	}
}

// group is the parent of its containers' cgroups.
func (e *Engine) group() string {
	if e.Kind == Podman {
		return "/libpod_parent" // it has no say
	}
	return "/" + filepath.Base(e.Dir)
}

// Socket is the path of its socket.
func (e *Engine) Socket() string { return strings.TrimPrefix(e.Host, "unix://") }

// PID is the engine's own process.
func (e *Engine) PID() int { return e.cmd.Process.Pid }

func (e *Engine) await() error {
	ended := make(chan error, 1)
	go func() { ended <- e.cmd.Wait() }()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended: %v\n%s", e.Kind, err, e.Log())
		case <-deadline:
			return fmt.Errorf("%s does not answer within %v\n%s", e.Kind, patience, e.Log())
		case <-tick.C:
			if e.answers() {
				return nil
			}
		}
	}
}

// answers asks the engine for a sign of life.
func (e *Engine) answers() bool {
	conn, err := net.DialTimeout("unix", e.Socket(), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")); err != nil {
		return false
	}
	head := make([]byte, 15)
	_, err = conn.Read(head)
	return err == nil && bytes.Contains(head, []byte(" 200"))
}

// Log is the last of what the engine itself wrote.
func (e *Engine) Log() string {
	data, _ := os.ReadFile(filepath.Join(e.Dir, "log"))
	return string(data[max(0, len(data)-4000):])
}

// Kill ends the engine as a crash would: what it started may go on.
func (e *Engine) Kill() error {
	if err := e.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	below := filepath.Join(e.Dir, "run", "containerd", "containerd.pid")
	if err := until(ctx, func() bool { return !alive(e.PID()) && !alive(number(below)) }); err != nil {
		return err
	}
	_ = os.Remove(below)
	_ = os.Remove(e.Socket())
	_ = os.Remove(filepath.Join(e.Dir, "pid"))
	return e.log.Close()
}

// Close ends the engine and all that it started, and removes all that it kept.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var problems []error
	if e.cmd != nil && e.cmd.Process != nil {
		_ = e.cmd.Process.Signal(unix.SIGTERM)
		term, stop := context.WithTimeout(ctx, 20*time.Second)
		_ = until(term, func() bool { return !alive(e.PID()) })
		stop()
		_ = e.cmd.Process.Kill()
	}
	// What is left names the directory in its command line, or is in a group below its own.
	problems = append(problems, until(ctx, func() bool {
		left := e.left()
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(left) == 0
	}))
	e.removeGroups()
	if e.log != nil {
		_ = e.log.Close()
	}
	// Mounts went with the namespace, when its last process had ended.
	problems = append(problems, until(ctx, func() bool { return os.RemoveAll(e.Dir) == nil }))
	return errors.Join(problems...)
}

// left are the processes that belong to the engine.
func (e *Engine) left() []int {
	entries, _ := os.ReadDir("/proc")
	var all []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		groups, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		daemon := bytes.Contains(line, []byte(e.Dir)) && !bytes.Contains(line, []byte("supervisor"))
		if (daemon || (e.Kind == Docker && bytes.Contains(groups, []byte(":"+e.group())))) && alive(pid) {
			all = append(all, pid)
		}
	}
	return all
}

// removeGroups removes the cgroups that the engine made and left empty.
func (e *Engine) removeGroups() {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + e.group())
	for _, root := range append(roots, "/sys/fs/cgroup"+e.group()) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = os.Remove(dirs[i]) // one in use, of another engine, stays
		}
	}
}

// number reads a process id from a file; 0 is none.
func number(file string) int {
	data, _ := os.ReadFile(file)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data[bytes.LastIndexByte(data, ')')+1:]), " ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// until asks again and again.
func until(ctx context.Context, holds func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("an engine under test does not end: %w", ctx.Err())
		}
	}
	return nil
}
