//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
)

// monitorPatience bounds a question to QEMU that it answers at once.
const monitorPatience = 20 * time.Second

// ask runs what needs a machine's monitor. QEMU serves one at a time.
func (d *Driver) ask(ctx context.Context, h runner.Handle, do func(context.Context, *qmp.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, monitorPatience)
	defer cancel()
	return d.askLong(ctx, h, do)
}

func (d *Driver) askLong(ctx context.Context, h runner.Handle, do func(context.Context, *qmp.Client) error) error {
	m, err := qemu.DialMonitor(ctx, d.TaskDir(h.Task))
	if err != nil {
		return fmt.Errorf("task %s: %w", h.Task, err)
	}
	defer m.Close()
	if err := do(ctx, m); err != nil {
		return fmt.Errorf("task %s: %w", h.Task, err)
	}
	return nil
}

// Pause holds the machine still, until somebody resumes it: also one that was still
// to be let go on after a snapshot.
func (d *Driver) Pause(ctx context.Context, h runner.Handle) error {
	release, err := d.steady(h.Task)
	if err != nil {
		return err
	}
	defer release()
	return d.ask(ctx, h, func(ctx context.Context, m *qmp.Client) error {
		if err := m.Run(ctx, "stop", nil, nil); err != nil {
			return err
		}
		return errors.Join(staysStill(d.TaskDir(h.Task), true), dropHeld(d.TaskDir(h.Task)))
	})
}

// Resume lets it go on.
func (d *Driver) Resume(ctx context.Context, h runner.Handle) error {
	release, err := d.steady(h.Task)
	if err != nil {
		return err
	}
	defer release()
	return d.ask(ctx, h, func(ctx context.Context, m *qmp.Client) error {
		if dir := d.TaskDir(h.Task); there(dir, restoreNote) {
			if err := staysStill(dir, false); err != nil {
				return err
			}
			return d.completeRestore(ctx, m, h.Task)
		}
		return m.Run(ctx, "cont", nil, nil)
	})
}

// dialForwarded reaches a port of the guest through QEMU's own network: a port of
// the node's loopback leads there from the first time that it is asked for, until
// the machine ends. QEMU takes the connection before the guest does: one that
// the guest refuses is closed at once.
func (d *Driver) dialForwarded(ctx context.Context, h runner.Handle, port int) (net.Conn, error) {
	at, err := d.forwarded(ctx, h, port)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", at))
	if err != nil {
		return nil, fmt.Errorf("task %s: reach port %d: %w", h.Task, port, err)
	}
	return conn, nil
}

// forwarded finds the port of the loopback that leads to one of the guest's, and
// makes it so if none does.
func (d *Driver) forwarded(ctx context.Context, h runner.Handle, port int) (at int, err error) {
	d.forward.Lock()
	defer d.forward.Unlock()
	err = d.ask(ctx, h, func(ctx context.Context, m *qmp.Client) error {
		text, err := monitorCommand(ctx, m, "info usernet")
		if err != nil {
			return err
		}
		if at = findForward(text, port); at != 0 {
			return nil
		}
		for range 8 { // another program may take the port in between
			if at, err = freePort(); err != nil {
				return err
			}
			if text, err = monitorCommand(ctx, m, fmt.Sprintf("hostfwd_add %s tcp:127.0.0.1:%d-:%d", netdev, at, port)); err != nil {
				return err
			}
			if strings.TrimSpace(text) == "" {
				return nil
			}
		}
		return errors.New("QEMU opens no port: " + strings.TrimSpace(text))
	})
	return at, err
}

func monitorCommand(ctx context.Context, m *qmp.Client, line string) (text string, err error) {
	err = m.Run(ctx, "human-monitor-command", map[string]string{"command-line": line}, &text)
	return text, err
}

// A line of QEMU's table: protocol, descriptor, the node's address and port, the
// guest's, two queues.
var forwardLine = regexp.MustCompile(`(?m)^\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s`)

func findForward(text string, port int) int {
	for _, m := range forwardLine.FindAllStringSubmatch(text, -1) {
		if m[2] == strconv.Itoa(port) {
			at, err := strconv.Atoi(m[1])
			if err == nil && at > 0 && at < 65536 {
				return at
			}
		}
	}
	return 0
}

// freePort is one that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// agent connects to the agent in the guest, if there is one; whether there is
// shows when it is asked something.
func (d *Driver) agent(ctx context.Context, h runner.Handle) (*qmp.Guest, error) {
	conn, err := process.DialUnix(ctx, filepath.Join(d.TaskDir(h.Task), qemu.Home), agentSocket)
	if err != nil {
		return nil, fmt.Errorf("task %s: reach the guest's agent: %w", h.Task, err)
	}
	return qmp.NewGuest(conn), nil
}
