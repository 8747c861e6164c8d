//go:build linux

package container

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watchMemory remembers when the kernel ends something of the container for
// want of memory, for an engine that does not tell. It goes with the group.
func (w *work) watchMemory(pid int) {
	dir := memoryGroup(pid)
	if dir == "" {
		w.unseen = true
		return
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = control.Close()
		return
	}
	event := os.NewFile(uintptr(fd), "eventfd")
	// https://docs.kernel.org/admin-guide/cgroup-v1/memory.html#oom-control
	err = os.WriteFile(filepath.Join(dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0)
	if err != nil {
		_, _ = control.Close(), event.Close()
		return
	}
	if starved(dir) { // before we looked
		w.oom.Store(true)
	}
	w.watched = make(chan struct{})
	go func() {
		defer close(w.watched)
		defer control.Close()
		defer event.Close()
		// The group's own end is told in the same way, once.
		for total := uint64(0); total < 2; {
			var count [8]byte
			if n, err := event.Read(count[:]); err != nil || n != 8 {
				return
			}
			total += binary.NativeEndian.Uint64(count[:])
			if starved(dir) || total > 1 {
				w.oom.Store(true)
				return
			}
			if _, err := os.Stat(dir); err != nil {
				_ = event.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			}
		}
	}()
}

// starved reports whether something of the group was ended for want of memory.
func starved(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "memory.oom_control"))
	return err == nil && bytes.Contains(data, []byte("oom_kill ")) && !bytes.Contains(data, []byte("oom_kill 0\n"))
}

// memoryGroup is the directory of a process' memory group of version 1; empty
// where there is none.
func memoryGroup(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] == "memory" {
			return filepath.Join("/sys/fs/cgroup/memory", parts[2])
		}
	}
	return ""
}
