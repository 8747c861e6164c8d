package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/scenarios/agents"
)

// firstLine is the time from a submit until the task's first line is read.
func (b *bench) firstLine(ctx context.Context) error {
	a, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var each []time.Duration
	n := b.times(100, 20)
	for i := range n + 3 {
		began := time.Now()
		j, err := b.runOne(ctx, a, fmt.Sprintf("line-%d", i), job("batch", "echo line; exec sleep 2"))
		if err != nil {
			return err
		}
		out, err := c.Logs(ctx, j.ID, api.LogOptions{Follow: true})
		if err != nil {
			return err
		}
		_, err = io.ReadFull(out, make([]byte, 5))
		took := time.Since(began)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
		if i >= 3 { // the first ones find no supervisor in reserve
			each = append(each, took)
		}
	}
	slices.Sort(each)
	p50, p99 := quantile(each, 0.5), quantile(each, 0.99)
	b.report.add(Row{
		Name: "process: submit to first line, p50 / p99", Nomad: "not measured", Reach: "60 ms",
		Measured: fmt.Sprintf("%.1f / %.1f ms", ms(p50), ms(p99)), Reached: p50 <= 60*time.Millisecond,
		Figures: map[string]float64{"p50_ms": ms(p50), "p99_ms": ms(p99), "n": float64(n)},
		Note:    "kind process, in namespaces, user, network and rules of its own; submit at the leader, the waiting read, then its output over the API of that node; on any of the three",
	})
	return nil
}

// idleTasks is how many tasks the agent looks after that do nothing.
const idleTasks = 200

// sleepers is what an agent's own work costs while its tasks sleep.
func (b *bench) sleepers(ctx context.Context) error {
	dir := filepath.Join(b.dir, "sleepers")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	w := agents.New(b.program, dir)
	defer func() { _ = w.Close() }()
	r, err := w.Found(ctx, "fra-9", country)
	if err != nil {
		return err
	}
	wire, err := r.Wire(8)
	if err != nil {
		return err
	}
	defer wire.Close()
	a := r.Agents[0]
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range idleTasks {
		g.Go(func() error {
			body := fmt.Appendf(nil, `{"name":"idle","kind":"process","type":"service","residency":%q,"command":["/bin/sleep","86400"],"resources":{"cpu":"1m","memory":"1MiB"},"stop_grace":"1s"}`, tag)
			_, err := (&bench{wire: wire}).runOne(gctx, a, fmt.Sprintf("idle-%d", i), body)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	used, over, err := cpuOver(ctx, a, time.Duration(b.times(60, 20))*time.Second)
	if err != nil {
		return err
	}
	percent := 100 * used.Seconds() / over.Seconds()
	b.report.add(Row{
		Name: "agent's own CPU with 200 idle tasks", Nomad: "not measured", Reach: "2 % of a core",
		Measured: fmt.Sprintf("%.2f %%", percent), Reached: percent < 2,
		Figures: map[string]float64{"percent": percent, "cpu_seconds": used.Seconds(), "seconds": over.Seconds()},
		Note:    "one agent, the leader of its region, with 200 processes that sleep, each held in as every task is; its processor time from proc_pid_stat(5) after they all run",
	})
	return nil
}

// cpuOver is the processor time that an agent uses meanwhile, once what it did
// before has settled.
func cpuOver(ctx context.Context, a *agents.Agent, meanwhile time.Duration) (used, over time.Duration, err error) {
	if err := wait(ctx, 10*time.Second); err != nil {
		return 0, 0, err
	}
	before, err := a.CPU()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := wait(ctx, meanwhile); err != nil {
		return 0, 0, err
	}
	after, err := a.CPU()
	return after - before, time.Since(began), err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runtimes are containers and machines beside the bare engines. They need root,
// the engines, QEMU and a cloud kernel; what is missing fails its row by name.
func (b *bench) runtimes(ctx context.Context) error {
	return errors.Join(b.containers(ctx), b.microvms(ctx), b.disks(ctx), b.moves(ctx))
}

func (b *bench) containers(ctx context.Context) error {
	got, err := benchmarks(ctx, "node/driver/container", "^BenchmarkFirstLine$", "-benchtime", fmt.Sprintf("%dx", b.times(25, 10)))
	if err != nil {
		return err
	}
	for _, engine := range []string{"docker", "podman"} {
		if err := b.beside(got, "FirstLine/"+engine, "container on "+engine+": start to first line", 1.2,
			"BenchmarkFirstLine in node/driver/container: create, attach and start by hand, and through the driver with its supervisor, in turns; medians, and the median of the pairs' ratios"); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) microvms(ctx context.Context) error {
	got, err := benchmarks(ctx, "node/driver/microvm", "^BenchmarkFirstLine$", "-benchtime", fmt.Sprintf("%dx", b.times(7, 3)))
	if err != nil {
		return err
	}
	if err := b.beside(got, "FirstLine", "micro-VM: start to first line", 1.15,
		"BenchmarkFirstLine in node/driver/microvm: QEMU by hand with the same machine, kernel, initramfs and disk, and through the driver with its supervisor, sandbox and limits, in turns; medians"); err != nil {
		return err
	}
	share, err := got.of("FirstLine", "init-percent")
	if err != nil {
		return err
	}
	b.report.add(Row{Name: "micro-VM: our init's part of it", Nomad: "not measured", Reach: "5 %", Measured: fmt.Sprintf("%.1f %%", share), Reached: share < 5,
		Figures: map[string]float64{"percent": share}, Note: "by the guest's clock, from init's first instruction to its greeting, without the kernel's loading of modules; of the time to the first line"})
	return nil
}

// beside is a row of what a driver takes beside what it stands on.
func (b *bench) beside(got figures, bench, name string, reach float64, note string) error {
	ours, err1 := got.of(bench, "ours-ms")
	bare, err2 := got.of(bench, "bare-ms")
	ratio, err3 := got.of(bench, "ratio")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	b.report.add(Row{Name: name, Nomad: "not measured", Reach: fmt.Sprintf("%gx of bare", reach),
		Measured: fmt.Sprintf("%.2fx (%.0f ms, bare %.0f ms)", ratio, ours, bare), Reached: ratio <= reach,
		Figures: map[string]float64{"ratio": ratio, "ms": ours, "bare_ms": bare}, Note: note})
	return nil
}

func (b *bench) disks(ctx context.Context) error {
	got, err := benchmarks(ctx, "node/driver/microvm", "^BenchmarkDisk$", "-benchtime", "1x", b.count())
	if err != nil {
		return err
	}
	ns, err := got.of("Disk", "ns/op")
	if err != nil {
		return err
	}
	b.report.add(Row{Name: "OCI image to ext4, 470 MB", Nomad: "not measured", Reach: "2.5 s", Measured: fmt.Sprintf("%.2f s", ns/1e9), Reached: ns <= 2.5e9,
		Figures: map[string]float64{"seconds": ns / 1e9}, Note: "BenchmarkDisk in node/driver/microvm: an archive on the disk to a file system on the disk, once per digest"})
	return nil
}

func (b *bench) moves(ctx context.Context) error {
	got, err := benchmarks(ctx, "node/driver/vm", "^BenchmarkMove$", "-benchtime", fmt.Sprintf("%dx", b.times(7, 3)))
	if err != nil {
		return err
	}
	idle, err1 := got.of("Move/idle", "ms-still/op")
	writing, err2 := got.of("Move/writing", "ms-still/op")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	b.report.add(Row{Name: "live migration, 512 MB guest: stands still", Nomad: "moves none", Reach: "150 ms", Measured: fmt.Sprintf("%.0f ms (64 MiB of its memory written all the time: %.0f ms)", idle, writing), Reached: max(idle, writing) <= 150,
		Figures: map[string]float64{"ms": idle, "writing_ms": writing}, Note: "BenchmarkMove in node/driver/vm: the whole standstill, its disk mirrored, to and fro between two drivers of one machine; until it is told to go on at the target, without the region's decision in between; the mean"})
	return nil
}
