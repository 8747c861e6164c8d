//go:build linux

package microvm

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/container"
	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// engines are those that the same image runs on beside; TestMain ends them.
var engines enginetest.Engines

// side is one way to run the image.
type side struct {
	name string
	d    runner.Driver
}

// sides are the micro-VM and every engine of this machine. All of them read one
// and the same archive.
func sides(t testing.TB) []side {
	t.Helper()
	needMachine(t)
	archive := must(t, workload)
	all := []side{{"microvm", newDriver(t, t.TempDir(), nil)}}
	for _, kind := range enginetest.Kinds() {
		if why := enginetest.Missing(kind); why != "" {
			t.Logf("no %s here: %s", kind, why)
			continue
		}
		cfg := container.DefaultConfig()
		cfg.Dir, cfg.Host = t.TempDir(), engines.Get(t, kind).Host
		cfg.Instance, cfg.ImageDirs = cfg.Dir, []string{shared}
		d, err := container.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		all = append(all, side{"container on " + string(kind), d})
	}
	if len(all) == 1 {
		t.Skipf("no container engine to compare with: install docker.io or podman (%s)", archive)
	}
	return all
}

// run starts the image and returns what it prints, how it ends, and how long it
// took to the first byte of its output.
func (s side) run(t testing.TB, n int, change func(*runner.Spec)) (output string, exit runner.Exit, first time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), boots)
	defer cancel()
	task := spec(t, n)
	task.Command, task.Setup = nil, &placement.Setup{}
	change(&task)
	defer func() {
		if err := s.d.Destroy(context.WithoutCancel(ctx), runner.Handle{Version: 1, Driver: s.d.Name(), Task: task.Task}); err != nil {
			t.Error(err)
		}
	}()
	if p, ok := s.d.(runner.Preparer); ok {
		if err := p.Prepare(ctx, task); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	began := time.Now()
	h, err := s.d.Start(ctx, task)
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	r, err := s.d.Logs(ctx, h, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	one := make([]byte, 1)
	n, err = r.Read(one)
	first = time.Since(began)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err = s.d.Wait(ctx, h); err != nil {
		t.Fatal(err)
	}
	return string(one[:n]) + string(rest), exit, first
}

// TestOneImageAsContainerAndAsMicroVM runs one archive unchanged as both: the
// same output and the same exit code, and how long each took to its first line.
func TestOneImageAsContainerAndAsMicroVM(t *testing.T) {
	all := sides(t)
	for n, test := range []struct {
		name    string
		command []string
		exit    int
	}{
		{"what it prints, who it is and what it may not", []string{"/workload", "each", "print bonjour", "whoami", "stat /tmp", "write /new", "cat /no/such/file", "exit 7"}, 7},
		{"its own entry point", nil, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var outputs []string
			for _, s := range all {
				out, exit, first := s.run(t, n, func(spec *runner.Spec) { spec.Command = test.command })
				outputs = append(outputs, out)
				if exit.Code != test.exit || out == "" || out != outputs[0] {
					t.Errorf("%s: exit %d, output %q; want %d and %q", s.name, exit.Code, out, test.exit, outputs[0])
				}
				t.Logf("%-20s first line after %4d ms, exit %d, %d bytes", s.name, first.Milliseconds(), exit.Code, len(out))
			}
		})
	}
}

// BenchmarkBeside is the start to the first line of one image by each of its ways.
func BenchmarkBeside(b *testing.B) {
	for i, s := range sides(b) {
		b.Run(s.name, func(b *testing.B) {
			var sum time.Duration
			n := 0
			for b.Loop() {
				n++
				_, _, first := s.run(b, 100*(i+1)+n, func(spec *runner.Spec) { spec.Command = []string{"/workload", "print", "line"} })
				sum += first
			}
			b.ReportMetric(float64(sum.Milliseconds())/float64(n), "first-line-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
