//go:build linux

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/placement"
)

// makeRoot gives the calling thread a root directory of the task's own and moves
// there: what is not put into it does not exist for the task. The thread is in a
// mount namespace of its own.
//
// The root is a directory within the namespace's root and not that itself: to a
// process below it the kernel gives no user namespace, and with it none of the
// capabilities that come along (user_namespaces(7), EPERM).
func makeRoot(t taskDir, h *held) error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("part from the node's mounts: %w", err)
	}
	stage := t.path("root")
	if err := os.MkdirAll(stage, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", stage, "tmpfs", unix.MS_NOSUID, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount the task's root: %w", err)
	}
	root := filepath.Join(stage, "task")
	for _, dir := range []string{"proc", "dev", "run", "var", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := makeSystem(root); err != nil {
		return err
	}
	if err := makeDevices(root, h.Devices); err != nil {
		return err
	}
	if err := makeResolvers(root, h.Resolvers); err != nil {
		return err
	}
	if err := makeHosts(root, h.Hosts); err != nil {
		return err
	}
	binds := []bind{{From: t.path("tmp"), To: "/tmp"}, {From: t.path("tmp"), To: "/var/tmp"}, {From: t.path("work"), To: t.path("work")}}
	for _, p := range h.Paths {
		binds = append(binds, bind{From: p, To: p})
	}
	if h.Secrets != nil {
		binds = append(binds, *h.Secrets)
	}
	if h.Inputs != nil {
		binds = append(binds, *h.Inputs)
	}
	if h.Outputs != nil {
		binds = append(binds, *h.Outputs)
	}
	for _, b := range ownFirst(append(binds, h.Volumes...)) {
		if err := b.put(root); err != nil {
			return err
		}
	}
	if err := os.Chdir(stage); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("leave the node's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the node's root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("close the task's root: %w", err)
	}
	if err := unix.Chroot("/task"); err != nil {
		return err
	}
	return os.Chdir("/")
}

// makeSystem shows the node's programs and settings, unchangeable.
func makeSystem(root string) error {
	for _, dir := range placement.NodePlaces() {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(dir)
			if err == nil {
				err = os.Symlink(to, root+dir)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := (bind{From: dir, To: dir, ReadOnly: true}).put(root); err != nil {
			return err
		}
	}
	return nil
}

// put shows a place of the node in the root, with what is mounted below it.
func (b bind) put(root string) error {
	to := filepath.Join(root, b.To)
	info, err := os.Stat(b.From)
	if err == nil && info.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if err == nil {
		err = touch(to)
	}
	if err == nil {
		err = unix.Mount(b.From, to, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("show the task %s: %w", b.To, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	flags := uintptr(unix.MS_NOSUID)
	if b.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		flags |= unix.MS_RDONLY
	}
	err = unix.MountSetattr(-1, to, unix.AT_RECURSIVE, &attr)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12, which leaves out what is mounted below
		err = unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
	}
	if err != nil {
		return fmt.Errorf("hold what the task sees at %s: %w", b.To, err)
	}
	return nil
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// makeDevices shows the devices that hold nothing, and those of GPUs to a task
// that was given some.
func makeDevices(root string, gpus bool) error {
	dev := filepath.Join(root, "dev")
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mount the task's /dev: %w", err)
	}
	names := []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
	if gpus {
		names = append(names, gpuDevices()...)
	}
	for _, n := range names {
		if _, err := os.Stat(n); err != nil {
			continue
		}
		if err := (bind{From: n, To: n}).put(root); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	for _, m := range []struct{ dir, fs, options string }{{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"}, {"shm", "tmpfs", "mode=1777"}} {
		at := filepath.Join(dev, m.dir)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, at, m.fs, unix.MS_NOSUID|unix.MS_NOEXEC, m.options); err != nil {
			return fmt.Errorf("mount the task's /dev/%s: %w", m.dir, err)
		}
	}
	return nil
}

// gpuDevices are the files by which programs reach GPUs.
func gpuDevices() []string {
	var all []string
	for _, pattern := range []string{"/dev/nvidia*", "/dev/dri", "/dev/kfd"} {
		found, _ := filepath.Glob(pattern)
		all = append(all, found...)
	}
	return all
}

// makeResolvers names the resolvers that the job may ask, and none else.
func makeResolvers(root string, resolvers []string) error {
	var text strings.Builder
	for _, r := range resolvers {
		fmt.Fprintf(&text, "nameserver %s\n", r)
	}
	own := filepath.Join(root, "run", "resolv.conf")
	if err := os.WriteFile(own, []byte(text.String()), 0o644); err != nil {
		return err
	}
	at := "/etc/resolv.conf"
	info, err := os.Lstat(at)
	if err != nil {
		return nil // the node has none: there is no place to put it
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(at)
		if err != nil {
			return err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join("/etc", to)
		}
		if !strings.HasPrefix(to, "/run/") && !strings.HasPrefix(to, "/var/") {
			return nil
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(to)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(root, to), []byte(text.String()), 0o644)
	}
	return unix.Mount(own, filepath.Join(root, at), "", unix.MS_BIND, "")
}

// closeKernel makes the kernel's own switches in the task's /proc read-only: to
// some of them the kernel lets user 0 write who has no capability left.
func closeKernel() error {
	for _, at := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"} {
		err := unix.Mount(at, at, "", unix.MS_BIND|unix.MS_REC, "")
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}
		if err != nil {
			return fmt.Errorf("close %s: %w", at, err)
		}
	}
	return nil
}

// makeHosts adds the task's services to the names that the node knows.
func makeHosts(root, lines string) error {
	if lines == "" {
		return nil
	}
	const at = "/etc/hosts"
	known, err := os.ReadFile(at)
	if err != nil {
		return nil // the node has none: there is no place to put it
	}
	if len(known) > 0 && known[len(known)-1] != '\n' {
		known = append(known, '\n')
	}
	own := filepath.Join(root, "run", "hosts")
	if err := os.WriteFile(own, append(known, lines...), 0o644); err != nil {
		return err
	}
	return unix.Mount(own, filepath.Join(root, at), "", unix.MS_BIND, "")
}
