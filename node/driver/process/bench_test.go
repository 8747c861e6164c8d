//go:build linux

package process

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// BenchmarkFirstLine measures from the order to start until the task's first line
// is read ("ms", the median), of tasks that are held in by all there is and come one
// after another: what is kept in reserve is there again before the next.
func BenchmarkFirstLine(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("tasks have namespaces and users of their own only where the agent is root")
	}
	cfg := DefaultConfig()
	cfg.Dir, cfg.Cgroup, cfg.Supervisor = filepath.Join(b.TempDir(), "tasks"), "sovmesh-bench", lightSupervisor(b)
	cfg.Hold.Network = network(b, cfg.Dir)
	d, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if _, err := firstLine(b.Context(), d, 0); err != nil { // from now on there is something in reserve
		b.Fatal(err)
	}
	var each []float64
	for n := 1; b.Loop(); n++ {
		select { // b.Loop counts this, and "ms" does not
		case s := <-d.spares.ready:
			d.spares.ready <- s
		case <-time.After(time.Minute):
			b.Fatal("no supervisor is there in reserve")
		}
		took, err := firstLine(b.Context(), d, n)
		if err != nil {
			b.Fatal(err)
		}
		each = append(each, took.Seconds()*1000)
	}
	slices.Sort(each)
	b.ReportMetric(each[len(each)/2], "ms")
}

// firstLine starts a task, waits for its first line and removes it.
func firstLine(ctx context.Context, d *Driver, n int) (time.Duration, error) {
	began := time.Now()
	h, err := d.Start(ctx, runner.Spec{
		Task: placement.JobID("a.b").Task(n, 1), Job: "a.b", Command: shell("echo line; exec sleep 100"),
		Keep: noted, Grace: time.Minute, Resources: placement.DefaultResources(),
	})
	if err != nil {
		return 0, err
	}
	r, err := d.Logs(ctx, h, 0, true)
	if err != nil {
		return 0, err
	}
	_, err = io.ReadFull(r, make([]byte, 5))
	took := time.Since(began)
	return took, errors.Join(err, r.Close(), d.Destroy(ctx, h))
}
