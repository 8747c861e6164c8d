//go:build linux

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/placement"
)

// process names a process so that no other one is ever taken for it: numbers
// are used again, a number with its start time within one boot is not.
type process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // clock ticks since boot, field 22 of proc_pid_stat(5)
	Boot  string `json:"boot,omitempty"`
}

// bootID changes with every boot.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// identify reads the process' start time.
func identify(pid int) (process, error) {
	_, _, start, err := stat(pid)
	return process{PID: pid, Start: start, Boot: bootID()}, err
}

// stat reads state, parent and start time from /proc/<pid>/stat. The command
// name, in parentheses, may hold anything: fields are counted after the last ")".
func stat(pid int) (state byte, parent int, start uint64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, 0, err
	}
	_, rest, _ := bytes.Cut(data[max(bytes.LastIndexByte(data, ')'), 0):], []byte(") "))
	f := strings.Fields(string(rest))
	if len(f) < 20 {
		return 0, 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	parent, err1 := strconv.Atoi(f[1])
	start, err2 := strconv.ParseUint(f[19], 10, 64)
	return f[0][0], parent, start, errors.Join(err1, err2)
}

// alive reports whether exactly this process still runs.
func (p process) alive() bool {
	if p.PID == 0 || p.Boot != bootID() {
		return false
	}
	state, _, start, err := stat(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// open returns a descriptor of exactly this process, or nil if it has ended.
func (p process) open() (*os.File, error) {
	if p.PID == 0 || p.Boot != bootID() {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	// The descriptor cannot change its process: if this is it now, it stays it.
	if !p.alive() {
		return nil, f.Close()
	}
	return f, nil
}

// signal sends a signal to exactly this process; it may have ended.
func (p process) signal(sig unix.Signal) error {
	f, err := p.open()
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	if err := unix.PidfdSendSignal(int(f.Fd()), sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// wait blocks until the process has ended, and reaps it if it is our child.
func (p process) wait(ctx context.Context) error {
	defer func() { _, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil) }()
	f, err := p.open()
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cancel := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer cancel()
	err = raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		return err == nil && n > 0
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// pids lists all processes.
func pids() []int {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []int
	for _, e := range names {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// descendants are all processes below the given one.
func descendants(root int) []int {
	children := make(map[int][]int)
	for _, pid := range pids() {
		if _, parent, _, err := stat(pid); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var all []int
	for queue := children[root]; len(queue) > 0; queue = queue[1:] {
		all = append(all, queue[0])
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

// marked are all processes whose environment at their start named the task:
// the way to find what a killed supervisor left.
func marked(env string) []process {
	var all []process
	for _, pid := range pids() {
		p, err := identify(pid)
		if err != nil {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(append([]byte{0}, data...), []byte("\x00"+env+"\x00")) {
			all = append(all, p)
		}
	}
	return all
}

// usage reads processor time and resident memory of one process. The kernel
// reports in 1/100 s to user space on every architecture Go runs on (USER_HZ).
func usage(pid int) (time.Duration, placement.Bytes, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := bytes.Cut(data[max(bytes.LastIndexByte(data, ')'), 0):], []byte(") "))
	f := strings.Fields(string(rest))
	if len(f) < 22 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	pages, err3 := strconv.ParseInt(f[21], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, placement.Bytes(pages) * placement.Bytes(os.Getpagesize()), errors.Join(err1, err2, err3)
}
