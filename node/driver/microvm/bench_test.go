//go:build linux

package microvm

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
)

// BenchmarkFirstLine measures from the start to the task's first line, and
// beside it a bare QEMU with the same machine, kernel, initramfs and disk, of
// which the benchmark itself holds the control channel.
func BenchmarkFirstLine(b *testing.B) {
	needMachine(b)
	b.Run("microvm", func(b *testing.B) {
		d := newDriver(b, b.TempDir(), nil)
		if err := d.Prepare(b.Context(), spec(b, 0, "print", "line")); err != nil {
			b.Fatal(err)
		}
		for n := 1; b.Loop(); n++ {
			h, err := d.Start(b.Context(), spec(b, n, "print", "line"))
			if err != nil {
				b.Fatal(err)
			}
			r, err := d.Logs(b.Context(), h, 0, true)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.Read(make([]byte, 8)); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			_ = r.Close()
			o, err := d.Recover(b.Context(), h)
			if err != nil {
				b.Fatal(err)
			}
			if init, err := time.ParseDuration(o.Facts["init"]); err == nil {
				b.ReportMetric(init.Seconds(), "init-s")
			}
			if err := d.Destroy(b.Context(), h); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("bare", func(b *testing.B) {
		d := newDriver(b, b.TempDir(), nil)
		s := spec(b, 0, "print", "line")
		p, err := d.prepare(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		m, err := d.machine(b.Context(), s, p)
		if err != nil {
			b.Fatal(err)
		}
		command, err := commandOf(s, p.Config)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := bareFirstLine(m, command); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// bareFirstLine starts QEMU by hand and waits for the command's first line.
func bareFirstLine(m *qemu.Machine, command wire.Command) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
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
		return err
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
			return err
		}
		switch f.Type {
		case wire.Hello:
			if err := w.SendCommand(0, command); err != nil {
				return err
			}
		case wire.Stdout:
			return nil
		}
	}
}
