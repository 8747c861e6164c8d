//go:build linux

// Package qemu runs one QEMU process per task: what drivers of machines share.
//
// A [Machine] says what to start. It is started by a supervisor of this same
// program, which holds the machine's console, its monitor and its further
// channels, so that nothing of a task is lost while no agent is there. The rule:
// a machine has its own user where the agent is root, its own cgroup, QEMU's
// sandbox, and no device that its driver did not name. Only its supervisor may
// be asked for what goes on inside; the socket "qmp.sock" is for the agent.
//
// Which accelerator a machine has is decided by [Probe], which tries KVM out:
// a device that opens is no proof that a kernel runs on it.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Machine is one QEMU process, as its driver orders it; a JSON value.
type Machine struct {
	Binary string `json:"binary"`
	Type   string `json:"type"`  // -machine
	Accel  Accel  `json:"accel"` // of [Probe]
	CPUs   int    `json:"cpus"`
	// Memory is the guest's own. What QEMU needs beside it is in [Machine.Limits].
	Memory placement.Bytes `json:"memory"`
	// Args are the driver's own, after those that every machine has. "@NAME@" in
	// them stands for the path by which the file of that name can be opened.
	Args []string `json:"args"`
	// Files are opened by the supervisor and handed on: the machine's own user
	// need not reach them by their paths. It must be allowed to read them.
	Files []File `json:"files,omitempty"`
	// Channels are character devices of these names whose other ends the
	// supervisor holds; "console" and "monitor" are always there. What the
	// machine's serial port is wired to is the driver's to say: -serial chardev:console.
	Channels []string `json:"channels,omitempty"`
	// UID is the machine's own user and group; 0 is the agent's.
	UID int `json:"uid,omitempty"`
	// Spawn lets QEMU start further processes, which some of its parts need.
	Spawn bool `json:"spawn,omitempty"`
	// Network is its own, held to a list; nil for none of that kind.
	Network *Network `json:"network,omitempty"`
	// Shares are directories that a program serves beside QEMU, by virtiofs. The
	// driver plugs them in: -device vhost-user-fs-...,chardev=NAME,tag=NAME.
	Shares []Share `json:"shares,omitempty"`
	// Vsock is the host's device for sockets to machines, of which this one has its
	// own; empty for none. "@cid@" and "@#vsock@" in the machine's arguments stand for
	// its CID and its descriptor: -device vhost-vsock-...,guest-cid=@cid@,vhostfd=@#vsock@.
	Vsock string `json:"vsock,omitempty"`
}

// File is one that a machine reads or, with Write, changes.
type File struct {
	Name  string `json:"name"`
	Path  string `json:"path"`
	Write bool   `json:"write,omitempty"`
	// Tail is this machine's own after what the file holds, of which it then has a copy
	// in memory.
	Tail []byte `json:"tail,omitempty"`
}

// Names of what is in the task's directory. Home is the machine's own directory,
// in which QEMU runs.
const (
	Home    = "machine"
	Monitor = "qmp.sock"     // in Home; QEMU's, for the agent
	Console = "console.sock" // the supervisor's: see [DialConsole]
)

// Overhead is what QEMU needs beside the guest's memory: its own code and heap,
// and a cache of translated code where it interprets.
func (m *Machine) Overhead() placement.Bytes {
	if m.Accel.Name == TCG {
		return 320 * placement.MiB
	}
	return 192 * placement.MiB
}

// Limits are those of the machine's cgroup.
func (m *Machine) Limits(r placement.Resources) placement.Resources {
	r.Memory = m.Memory + m.Overhead() + placement.Bytes(len(m.Shares))*shareOverhead
	return r
}

// argv is the command line; files and channels are descriptors, as QEMU will have
// them. cid is that of a machine with vsock.
func (m *Machine) argv(name string, files, channels map[string]int, cid uint32) []string {
	spawn := "deny"
	if m.Spawn {
		spawn = "allow"
	}
	a := []string{m.Binary,
		"-name", name, "-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny,spawn=" + spawn,
		"-machine", m.Type, "-accel", m.Accel.arg(), "-cpu", m.Accel.CPU,
		"-smp", strconv.Itoa(max(m.CPUs, 1)), "-m", strconv.FormatInt(int64(m.Memory>>20), 10),
		"-chardev", "socket,id=qmp,path=" + Monitor + ",server=on,wait=off", "-mon", "chardev=qmp,mode=control",
	}
	for _, c := range m.channels() {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", c, channels[c]))
	}
	a = append(a, "-mon", "chardev=monitor,mode=control")
	a = append(a, m.shareArgs(channels)...)
	pairs := []string{"@cid@", strconv.FormatUint(uint64(cid), 10)}
	for name, fd := range files {
		pairs = append(pairs, "@"+name+"@", fmt.Sprintf("/dev/fd/%d", fd), "@#"+name+"@", strconv.Itoa(fd))
	}
	paths := strings.NewReplacer(pairs...)
	for _, arg := range m.Args {
		a = append(a, paths.Replace(arg))
	}
	return a
}

func (m *Machine) channels() []string {
	return append([]string{"console", "monitor"}, m.Channels...)
}

// Prepare makes the machine's own directory in a task's that is being made; it
// is for [process.Order].Fill. What else the driver puts there must belong to
// the machine's user too: [Machine.Own].
func (m *Machine) Prepare(dir string) error {
	home := filepath.Join(dir, Home)
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	return m.Own(home)
}

// Own gives a file to the machine's user.
func (m *Machine) Own(path string) error {
	if m.UID == 0 {
		return nil
	}
	return os.Lchown(path, m.UID, m.UID)
}

// FreeUID is the first user number of the size ones from base on that no task of
// the driver has, and that is not among those taken; 0 where the agent is not root
// and cannot give users away.
func FreeUID(ctx context.Context, d *process.Driver, base, size int, taken ...int) (int, error) {
	if os.Geteuid() != 0 || base <= 0 {
		return 0, nil
	}
	all, err := d.List(ctx)
	if err != nil {
		return 0, err
	}
	used := slices.Clone(taken)
	for _, o := range all {
		var m struct {
			Machine Machine `json:"machine"`
		}
		if _, err := d.Told(o.Handle.Task, &m); err == nil {
			used = append(used, m.Machine.UID)
		}
	}
	for uid := base; uid < base+size; uid++ {
		if !slices.Contains(used, uid) {
			return uid, nil
		}
	}
	return 0, fmt.Errorf("no user number is free for another machine: this agent's end at %d", base+size-1)
}

// Told is what a machine's supervisor is told: the [process.Order].Told of every
// driver here. Guest is for the driver's own [Guest].
type Told struct {
	Machine Machine         `json:"machine"`
	Guest   json.RawMessage `json:"guest,omitempty"`
}

// work starts a machine and keeps what it needs until it is attended.
type work struct {
	guest Guest
	told  Told
	spec  runner.Spec
	ends  map[string]net.Conn // of the channels
	dir   *os.File            // the machine's own
	net   *network            // nil without one of its own
	vsock *Vsock              // nil without one
}

var _ process.Work = (*work)(nil)

// Launch opens the files, makes the channels and says how to start QEMU.
func (w *work) Launch(dir string, s runner.Spec, told json.RawMessage) (l process.Launch, err error) {
	if err := json.Unmarshal(told, &w.told); err != nil {
		return l, fmt.Errorf("read what the machine is told: %w", err)
	}
	w.spec, w.ends = s, make(map[string]net.Conn)
	m := &w.told.Machine
	if w.dir, err = os.Open(filepath.Join(dir, Home)); err != nil {
		return l, err
	}
	files, channels := make(map[string]int), make(map[string]int)
	add := func(f *os.File) int {
		l.Files = append(l.Files, f)
		return 2 + len(l.Files)
	}
	for _, f := range m.Files {
		file, err := f.open()
		if err != nil {
			return l, &runner.StartError{Task: s.Task, Reason: "a file of the machine cannot be opened: " + err.Error(), Advice: "start the job again, so that it is made anew"}
		}
		files[f.Name] = add(file)
	}
	if m.Network != nil {
		var tap *os.File
		if w.net, tap, l.Network, err = m.Network.raise(s); err != nil {
			return l, err
		}
		if tap != nil {
			files[tapFile] = add(tap)
		}
	}
	var cid uint32
	if m.Vsock != "" {
		if w.vsock, err = openVsock(m.Vsock); err != nil {
			return l, &runner.StartError{Task: s.Task, Reason: "the machine cannot have sockets to its host: " + err.Error(), Advice: "start the job again, or have the node's operator leave vsock off"}
		}
		fd, err := w.vsock.handOn()
		if err != nil {
			return l, err
		}
		cid, files[vsockFile] = w.vsock.CID, add(fd)
	}
	for _, one := range m.Shares {
		servant, conn, err := one.serve(dir)
		if err != nil {
			return l, fmt.Errorf("share %s: %w", one.Name, err)
		}
		l.Servants, channels[one.Name] = append(l.Servants, servant), add(conn)
	}
	for _, name := range m.channels() {
		ours, theirs, err := Pair(name)
		if err != nil {
			return l, err
		}
		w.ends[name], channels[name] = ours, add(theirs)
	}
	l.Path, l.Argv = m.Binary, m.argv("sovmesh "+string(s.Task), files, channels, cid)
	// By descriptor: the machine's user cannot walk there from the root.
	l.Dir = fmt.Sprintf("/proc/self/fd/%d", w.dir.Fd())
	if m.UID != 0 {
		l.Credential = &syscall.Credential{Uid: uint32(m.UID), Gid: uint32(m.UID), Groups: m.Accel.groups()}
	}
	return l, nil
}

// open is the file as the machine has it.
func (f File) open() (*os.File, error) {
	mode := os.O_RDONLY
	if f.Write {
		mode = os.O_RDWR
	}
	file, err := os.OpenFile(f.Path, mode, 0)
	if err != nil || len(f.Tail) == 0 {
		return file, err
	}
	defer file.Close()
	fd, err := unix.MemfdCreate(f.Name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	whole := os.NewFile(uintptr(fd), f.Name)
	if _, err = io.Copy(whole, file); err == nil {
		_, err = whole.Write(f.Tail)
	}
	if err == nil {
		_, err = whole.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, whole.Close())
	}
	return whole, nil
}

// Pair makes a channel: our end, and the one that QEMU is handed.
func Pair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours := os.NewFile(uintptr(fds[0]), name)
	defer ours.Close()
	conn, err := net.FileConn(ours)
	return conn, os.NewFile(uintptr(fds[1]), name), err
}

// groups are those that the machine's user needs.
func (a Accel) groups() []uint32 {
	var st unix.Stat_t
	if a.Name == KVM && unix.Stat("/dev/kvm", &st) == nil {
		return []uint32{st.Gid}
	}
	return nil
}
