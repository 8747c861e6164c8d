//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// machine is what a session acts upon: the guest, or in a test the machine that
// the test runs on.
type machine struct {
	root         string        // of the workload
	own          bool          // the whole machine is the workload's
	capabilities map[uint]bool // that are kept
	cgroup       *os.File      // of the workload; nil for none
	running      map[int]bool  // pids that somebody waits for; guarded by the session's mu
	disks        []string      // paths that disks are mounted at
	laid         bool          // the root is a layer over the image
	noVsock      bool          // commands make no sockets to the host
}

func newMachine(root string) *machine {
	return &machine{root: root, own: true, capabilities: make(map[uint]bool)}
}

// prepare makes the workload's root, with what is to be in it.
func (m *machine) prepare(r *wire.Root, user string, secrets map[string][]byte) error {
	if !m.own {
		return nil
	}
	if r == nil {
		return errors.New("nothing is said of the root")
	}
	for _, c := range r.Capabilities {
		m.capabilities[c] = true
	}
	if err := m.mountRoot(r.Writable, r.Disks); err != nil {
		return err
	}
	if err := m.mountKernel(); err != nil {
		return err
	}
	if err := m.fill(r, user, secrets); err != nil {
		return err
	}
	if r.Hostname != "" {
		_ = unix.Sethostname([]byte(r.Hostname))
	}
	loopback()
	if err := m.connect(r.Net); err != nil {
		return err
	}
	m.limit(r.Pids)
	return nil
}

// fill mounts the job's disks and hands its secrets over.
func (m *machine) fill(r *wire.Root, user string, secrets map[string][]byte) error {
	if len(r.Disks) == 0 && len(secrets) == 0 {
		return nil
	}
	root, err := os.Open(m.root)
	if err != nil {
		return err
	}
	defer root.Close()
	who, err := findUser(root, user)
	if err != nil {
		return err
	}
	if err := m.mountDisks(r.Disks, who); err != nil {
		return err
	}
	if m.laid && !r.Writable { // its places are made: it is the image's again
		if err := unix.Mount("", m.root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make the root read-only: %w", err)
		}
	}
	return m.writeSecrets(secrets, who)
}

func (m *machine) mountRoot(writable bool, disks []wire.Disk) error {
	const image = "/image"
	device, err := device(wire.ImageDisk)
	if err != nil {
		return err
	}
	if err := unix.Mount(device, m.root, "ext4", unix.MS_RDONLY, "noload"); err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	if !writable && !lacks(m.root, disks) {
		return nil
	}
	m.laid = true
	if err := unix.Mount(m.root, image, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the image: %w", err)
	}
	if err := loadModules(overlayList); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/upper", "tmpfs", 0, "mode=755,size=75%"); err != nil {
		return fmt.Errorf("mount the upper layer: %w", err)
	}
	err = errors.Join(os.Mkdir("/upper/files", 0o755), os.Mkdir("/upper/work", 0o755))
	if err == nil {
		err = unix.Mount("overlay", m.root, "overlay", 0, "lowerdir=/image,upperdir=/upper/files,workdir=/upper/work")
	}
	if err != nil {
		return fmt.Errorf("lay the upper layer over the image: %w", err)
	}
	return nil
}

func waitFor(path string, most time.Duration) error {
	deadline := time.Now().Add(most)
	for wait := time.Millisecond; ; wait = min(2*wait, 4*time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return nil
		} else if time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}

// mountKernel mounts what every program expects; the image has the directories.
func (m *machine) mountKernel() error {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, f := range []struct {
		kind, at string
		flags    uintptr
		data     string
	}{
		{"proc", "proc", strict, ""},
		{"sysfs", "sys", strict | unix.MS_RDONLY, ""},
		{"tmpfs", "dev", unix.MS_NOSUID, "mode=755,size=64k"},
		{"tmpfs", "tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=50%"},
		{"tmpfs", "run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755,size=25%"},
	} {
		if err := unix.Mount(f.kind, filepath.Join(m.root, f.at), f.kind, f.flags, f.data); err != nil {
			return fmt.Errorf("mount /%s: %w", f.at, err)
		}
	}
	// Root of the guest may do without any capability what these files are for.
	for _, name := range []string{"sys", "sysrq-trigger", "irq", "bus", "fs"} {
		if err := readOnly(filepath.Join(m.root, "proc", name)); err != nil {
			return fmt.Errorf("close /proc/%s: %w", name, err)
		}
	}
	dev := filepath.Join(m.root, "dev")
	for _, n := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		path := filepath.Join(dev, n.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", n.name, err)
		}
		_ = os.Chmod(path, 0o666)
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		_ = os.Symlink(to, filepath.Join(dev, name))
	}
	_ = os.Mkdir(filepath.Join(dev, "shm"), 0o1777)
	_ = os.Mkdir(filepath.Join(dev, "pts"), 0o755)
	err := unix.Mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", strict, "mode=1777,size=50%")
	if err == nil {
		err = unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
	}
	if err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	return nil
}

// readOnly makes what is at a path read-only; what is not there needs none.
func readOnly(path string) error {
	err := unix.Mount(path, path, "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	return err
}

// loopback brings the one interface up that every machine has.
func loopback() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if r, err := unix.NewIfreq("lo"); err == nil {
		r.SetUint16(unix.IFF_UP)
		_ = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	}
}

// limit bounds the workload's processes. A kernel that cannot leaves it at its
// own bound.
func (m *machine) limit(pids int) {
	if pids <= 0 || unix.Mount("cgroup2", "/cgroup", "cgroup2", 0, "") != nil {
		return
	}
	const dir = "/cgroup/task"
	if os.WriteFile("/cgroup/cgroup.subtree_control", []byte("+pids"), 0) != nil || os.Mkdir(dir, 0o755) != nil {
		return
	}
	if os.WriteFile(dir+"/pids.max", []byte(strconv.Itoa(pids)), 0) == nil {
		m.cgroup, _ = os.Open(dir)
	}
}

// oomKills counts what the kernel ended for want of memory.
func oomKills() int64 { return field("/proc/vmstat", "oom_kill") }

// memory is what the kernel says of it.
func memory() wire.Memory {
	return wire.Memory{Total: field("/proc/meminfo", "MemTotal:") << 10, Available: field("/proc/meminfo", "MemAvailable:") << 10, Processes: processes()}
}

// field is the number after a word that begins a line of a file.
func field(path, word string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == word {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// processes counts those of user space but ourselves.
func processes() int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 {
			if cmd, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && len(cmd) > 0 {
				n++
			}
		}
	}
	return n
}
