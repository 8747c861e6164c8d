//go:build linux

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// look inspects the task's container.
func (d *Driver) look(ctx context.Context, id placement.TaskID) (container.InspectResponse, error) {
	seen, err := d.engine.ContainerInspect(ctx, d.containerName(id), client.ContainerInspectOptions{})
	if err != nil {
		return container.InspectResponse{}, fmt.Errorf("look at the container of task %s: %w", id, d.unanswered(err))
	}
	return seen.Container, nil
}

// Pause holds every process of the container still.
func (d *Driver) Pause(ctx context.Context, h runner.Handle) error {
	c, err := d.look(ctx, h.Task)
	if err != nil || c.State.Paused {
		return err
	}
	if _, err := d.engine.ContainerPause(ctx, c.ID, client.ContainerPauseOptions{}); err != nil {
		return fmt.Errorf("pause task %s: %w", h.Task, d.unanswered(err))
	}
	return nil
}

// Resume lets them go on.
func (d *Driver) Resume(ctx context.Context, h runner.Handle) error {
	c, err := d.look(ctx, h.Task)
	if err != nil || !c.State.Paused {
		return err
	}
	if _, err := d.engine.ContainerUnpause(ctx, c.ID, client.ContainerUnpauseOptions{}); err != nil {
		return fmt.Errorf("resume task %s: %w", h.Task, d.unanswered(err))
	}
	return nil
}

// Stats asks the engine what the container uses.
func (d *Driver) Stats(ctx context.Context, h runner.Handle) (runner.Stats, error) {
	answer, err := d.engine.ContainerStats(ctx, d.containerName(h.Task), client.ContainerStatsOptions{})
	if err != nil {
		return runner.Stats{}, fmt.Errorf("measure task %s: %w", h.Task, d.unanswered(err))
	}
	defer answer.Body.Close()
	var s container.StatsResponse
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		return runner.Stats{}, fmt.Errorf("measure task %s: %w", h.Task, err)
	}
	out := runner.Stats{At: time.Now(), CPU: time.Duration(s.CPUStats.CPUUsage.TotalUsage), Processes: int(s.PidsStats.Current)}
	// What the page cache holds can be had back; version 1 and 2 name it differently.
	used := s.MemoryStats.Usage
	for _, key := range []string{"total_inactive_file", "inactive_file"} {
		if cache, ok := s.MemoryStats.Stats[key]; ok {
			used -= min(cache, used)
			break
		}
	}
	out.Memory = placement.Bytes(used)
	return out, nil
}

// Dial reaches a TCP port of the container from within its own network, so that
// it needs none that leads out.
func (d *Driver) Dial(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("port %d is none", port)
	}
	c, err := d.look(ctx, h.Task)
	if err != nil {
		return nil, err
	}
	if !c.State.Running || c.State.Pid == 0 {
		return nil, fmt.Errorf("dial task %s: it does not run", h.Task)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.State.Pid))
	if err != nil {
		return nil, fmt.Errorf("dial task %s: its network namespace: %w", h.Task, err)
	}
	defer ns.Close()
	// The process may have ended, and its number be another's now.
	if again, err := d.look(ctx, h.Task); err != nil || again.State.Pid != c.State.Pid {
		return nil, fmt.Errorf("dial task %s: it has just ended", h.Task)
	}
	conn, err := dialIn(ctx, ns, port)
	if err != nil {
		return nil, fmt.Errorf("dial task %s: %w", h.Task, err)
	}
	return conn, nil
}

// dialIn connects to a port of a network namespace's loopback. A socket belongs
// to the namespace of the thread that makes it; a thread that does not find its
// way back ends.
func dialIn(ctx context.Context, ns *os.File, port int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{nil, err}
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- result{nil, err}
			return
		}
		var conn net.Conn
		for _, host := range []string{"127.0.0.1", "::1"} {
			if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
				break
			}
		}
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// Inspect says what really runs, as the engine and the kernel tell it.
func (d *Driver) Inspect(ctx context.Context, h runner.Handle) (runner.Actual, error) {
	c, err := d.look(ctx, h.Task)
	if err != nil {
		return runner.Actual{}, err
	}
	if c.HostConfig == nil || c.Config == nil {
		return runner.Actual{}, fmt.Errorf("look at the container of task %s: the engine says nothing of it", h.Task)
	}
	hc := c.HostConfig
	a := runner.Actual{
		CPU: placement.MilliCPU(hc.NanoCPUs / 1e6), Memory: placement.Bytes(hc.Memory), Networks: []string{string(hc.NetworkMode)},
	}
	if hc.PidsLimit != nil {
		a.Pids = int(max(*hc.PidsLimit, 0))
	}
	if m, err := d.made(h.Task); err == nil && m.Image.ID == c.Image {
		a.ImageDigest = m.Image.Digest
	} else if err == nil {
		a.ImageDigest = c.Image // another one runs
	}
	for _, m := range c.Mounts {
		if ours(m.Destination) {
			continue
		}
		a.Mounts = append(a.Mounts, m.Destination)
	}
	slices.Sort(a.Mounts)
	a.Mounts = slices.Compact(a.Mounts)
	for name := range cdiNames(hc) {
		a.Devices = append(a.Devices, strings.TrimPrefix(name, cdiPrefix))
	}
	slices.Sort(a.Devices)
	a.Boundary = holds(c)
	return a, d.holdsNetwork(h.Task, &a)
}

// holds tells in words what holds the container in.
func holds(c container.InspectResponse) []runner.Boundary {
	hc := c.HostConfig
	var all []runner.Boundary
	say := func(what string, holds bool, how, otherwise string) {
		if !holds {
			how = otherwise
		}
		all = append(all, runner.Boundary{What: what, Holds: holds, How: how})
	}
	say("kernel", false, "", "it shares the node's kernel, in namespaces of its own")
	say("root", hc.ReadonlyRootfs, "its root is the image's, read-only; it writes to /tmp in memory and to its volumes", "its root is a writable copy of the image's")
	user := c.Config.User
	say("user", user != "" && user != "0" && user != "root" && !strings.HasPrefix(user, "0:"), "it runs as "+user, "it runs as root of its namespaces, which is the node's root without its capabilities")
	secure := slices.ContainsFunc(hc.SecurityOpt, func(s string) bool { return strings.HasPrefix(s, "no-new-privileges") })
	kept := "it has no capability"
	if len(hc.CapAdd) > 0 {
		kept = "it keeps " + strings.Join(hc.CapAdd, ", ")
	}
	say("privileges", secure && !hc.Privileged && len(hc.CapDrop) > 0, kept+" and can gain none", "it may gain privileges")
	filtered := true
	for _, s := range hc.SecurityOpt {
		if s == "seccomp=unconfined" {
			filtered = false
		}
	}
	mode := seccompMode(c.State.Pid)
	say("system calls", filtered && mode != "0", "the engine's own filter", "none is refused")
	switch {
	case hc.NetworkMode == "none":
		say("network", true, "it has a loopback of its own and nothing else", "")
	default:
		say("network", false, "", "it has the network "+string(hc.NetworkMode))
	}
	say("processes", hc.PidsLimit != nil && *hc.PidsLimit > 0, fmt.Sprintf("it sees its own, at most %d", value(hc.PidsLimit)), "it sees its own; their number is not bounded")
	say("cpu", hc.NanoCPUs > 0, fmt.Sprintf("at most %d thousandths of a processor", hc.NanoCPUs/1e6), "not bounded")
	say("memory", hc.Memory > 0, fmt.Sprintf("at most %d bytes, no swap", hc.Memory), "not bounded")
	say("devices", !hc.Privileged, "those that it was given and no others", "all of the node's")
	return all
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// seccompMode is what the kernel says of a process: 2 is a filter, 0 none,
// empty not known. proc_pid_status(5)
func seccompMode(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || pid == 0 {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "Seccomp:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
