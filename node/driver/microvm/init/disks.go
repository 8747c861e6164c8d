//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// device finds a disk by the serial number that the host gave it: their order is
// the kernel's own.
func device(serial string) (string, error) {
	deadline := time.Now().Add(portTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 4*time.Millisecond) {
		found, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, f := range found {
			if line(f) == serial {
				path := "/dev/" + filepath.Base(filepath.Dir(f))
				return path, waitFor(path, portTimeout)
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("there is no disk %q", serial)
		}
		time.Sleep(wait)
	}
}

// mountDisks mounts what the job keeps beside its image.
func (m *machine) mountDisks(disks []wire.Disk, who account) error {
	for _, d := range disks {
		if err := m.mountDisk(d, who); err != nil {
			return fmt.Errorf("mount %s: %w", d.Path, err)
		}
	}
	return nil
}

func (m *machine) mountDisk(d wire.Disk, who account) error {
	dev, kind := d.Serial, "virtiofs"
	if !d.Shared {
		var err error
		if dev, err = device(d.Serial); err != nil {
			return err
		}
		kind = "ext4"
	}
	at, err := m.place(d.Path)
	if err != nil {
		return err
	}
	defer at.Close()
	var flags uintptr = unix.MS_NOSUID | unix.MS_NODEV
	data := ""
	if d.ReadOnly {
		flags |= unix.MS_RDONLY
		if !d.Shared {
			data = "noload"
		}
	}
	path := fmt.Sprintf("/proc/self/fd/%d", at.Fd())
	if err := unix.Mount(dev, path, kind, flags, data); err != nil {
		return err
	}
	m.disks = append(m.disks, d.Path)
	if !d.Give || d.ReadOnly {
		return nil
	}
	root, err := os.Open(m.root)
	if err != nil {
		return err
	}
	defer root.Close()
	top, err := openIn(root, d.Path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer top.Close()
	return top.Chown(int(who.uid), int(who.gid))
}

// place opens a directory of the workload's root as the workload would find it,
// and makes what is missing of it, where the root can be written to.
func (m *machine) place(path string) (*os.File, error) {
	root, err := os.Open(m.root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	at := ""
	for _, part := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
		parent, err := openIn(root, "/"+at, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		err = unix.Mkdirat(int(parent.Fd()), part, 0o755)
		_ = parent.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EROFS) {
			return nil, err
		}
		at += "/" + part
	}
	return openIn(root, at, unix.O_PATH|unix.O_DIRECTORY)
}

// lacks reports whether the image lacks a directory that something is to be mounted at.
func lacks(image string, disks []wire.Disk) bool {
	root, err := os.Open(image)
	if err != nil {
		return true
	}
	defer root.Close()
	for _, d := range disks {
		f, err := openIn(root, d.Path, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			// What begins with /run or /tmp lies in memory of its own, made later.
			if strings.HasPrefix(d.Path, "/run/") || strings.HasPrefix(d.Path, "/tmp/") {
				continue
			}
			return true
		}
		_ = f.Close()
	}
	return false
}

// unmountDisks lets what was written to them reach the host before the power goes.
func (m *machine) unmountDisks() {
	for i := len(m.disks) - 1; i >= 0; i-- {
		_ = unix.Unmount(filepath.Join(m.root, m.disks[i]), unix.MNT_DETACH)
	}
	m.disks = nil
	unix.Sync()
}
