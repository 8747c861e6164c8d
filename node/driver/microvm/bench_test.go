//go:build linux

package microvm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// BenchmarkFirstLine measures from the start to the task's first line, and
// beside it a bare QEMU with the same machine, kernel, initramfs and disk, of
// which the benchmark itself holds the control channel. init-s is what our own
// first program takes of the guest's time, init-percent its share of the whole.
func BenchmarkFirstLine(b *testing.B) {
	needMachine(b)
	d := newDriver(b, b.TempDir(), nil)
	s := spec(b, 0, "print", "line")
	p, err := d.prepare(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	m, _, err := d.machine(b.Context(), s, p, nil)
	if err != nil {
		b.Fatal(err)
	}
	command, err := commandOf(s, p.Config)
	if err != nil {
		b.Fatal(err)
	}
	var inits, shares []float64
	drivertest.Pairs(b, func(n int) (time.Duration, error) {
		took, init, err := firstLine(b, d, spec(b, n, "print", "line"))
		inits, shares = append(inits, init.Seconds()), append(shares, 100*init.Seconds()/took.Seconds())
		return took, err
	}, func(int) (time.Duration, error) { return bareFirstLine(m, command) })
	slices.Sort(inits)
	slices.Sort(shares)
	b.ReportMetric(inits[len(inits)/2], "init-s")
	b.ReportMetric(shares[len(shares)/2], "init-percent")
}

// firstLine runs a task to its first line; init is what the guest's first program
// says that it took itself.
func firstLine(b *testing.B, d *Driver, s runner.Spec) (took, init time.Duration, err error) {
	began := time.Now()
	h, err := d.Start(b.Context(), s)
	if err != nil {
		return 0, 0, err
	}
	r, err := d.Logs(b.Context(), h, 0, true)
	if err != nil {
		return 0, 0, err
	}
	if _, err := r.Read(make([]byte, 8)); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	o, err := d.Recover(b.Context(), h)
	if err != nil {
		return 0, 0, err
	}
	init, err = time.ParseDuration(o.Facts["init"])
	return took, init, errors.Join(err, r.Close(), d.Destroy(b.Context(), h))
}

// bareFirstLine starts QEMU by hand and waits for the command's first line.
func bareFirstLine(m *qemu.Machine, command wire.Command) (took time.Duration, err error) {
	began := time.Now()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), channel), os.NewFile(uintptr(fds[1]), channel)
	defer ours.Close()
	var pairs []string
	for _, f := range m.Files {
		pairs = append(pairs, "@"+f.Name+"@", f.Path)
	}
	paths := strings.NewReplacer(pairs...)
	args := []string{"-machine", m.Type, "-accel", m.Accel.Name, "-cpu", m.Accel.CPU, "-m", fmt.Sprint(int64(m.Memory >> 20)),
		"-nodefaults", "-no-user-config", "-display", "none", "-chardev", "null,id=console", "-chardev", "socket,id=" + channel + ",fd=3"}
	for _, a := range m.Args {
		args = append(args, paths.Replace(a))
	}
	cmd := exec.Command(m.Binary, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_ = theirs.Close()
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	w := wire.NewWriter(ours)
	for in := wire.NewReader(ours); ; {
		f, err := in.Next()
		if err != nil {
			return 0, err
		}
		switch f.Type {
		case wire.Hello:
			if err := w.SendCommand(0, command); err != nil {
				return 0, err
			}
		case wire.Stdout:
			return time.Since(began), nil
		}
	}
}
