//go:build linux

package microvm

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
)

// BenchmarkFirstLine measures from the start to the task's first line, and
// beside it a bare QEMU with the same kernel and machine whose init says one.
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
		if err := d.Prepare(b.Context(), spec(b, 0, "print", "line")); err != nil {
			b.Fatal(err)
		}
		k, err := findKernel("", "", DefaultConfig().KernelRoots)
		if err != nil {
			b.Fatal(err)
		}
		accel, err := qemu.Probe(b.Context(), d.cfg.Binary)
		if err != nil {
			b.Fatal(err)
		}
		first := bareInitramfs(b)
		for b.Loop() {
			cmd := exec.Command(d.cfg.Binary, "-M", "microvm", "-accel", accel.Name, "-cpu", accel.CPU, "-m", "192", "-nodefaults", "-no-user-config",
				"-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", k.file, "-initrd", first, "-append", kernelLine(accel))
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				b.Fatal(err)
			}
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if bytes.Contains(lines.Bytes(), []byte("this is the init")) || bytes.Contains(lines.Bytes(), []byte("sovmesh init:")) {
					break
				}
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
}

// bareInitramfs holds the init alone, which finds no modules and says so.
func bareInitramfs(b *testing.B) string {
	b.Helper()
	program, err := os.ReadFile(must(b, builtInit))
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "initramfs")
	out, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	c := &cpio{out: out}
	for _, dir := range []string{"dev", "proc", "sys"} {
		c.add(dir, 0o040755, nil, 0, 0)
	}
	c.add("dev/console", 0o020600, nil, 5, 1)
	c.add("init", 0o100755, program, 0, 0)
	if err := c.close(); err != nil {
		b.Fatal(err)
	}
	return file
}
