package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// tracesEnv names a directory with the files of the openb trace. They are not
// ours to carry.
const tracesEnv = "SOVMESH_TRACES"

// placement is what the engine's decisions cost, and how good they are.
func (b *bench) placement(ctx context.Context) error {
	err := b.placementSpeed(ctx)
	if os.Getenv(tracesEnv) == "" {
		b.report.add(inside("placement quality on the openb trace", "see the rows", "not measured", false, nil,
			tracesEnv+" names no directory with openb_node_list_gpu_node.csv.gz and openb_pod_list_*.csv.gz"))
		return err
	}
	return errors.Join(err, b.placementQuality(ctx))
}

func (b *bench) placementSpeed(ctx context.Context) error {
	got, err := benchmarks(ctx, "placement/simulate", "^BenchmarkDecision$", "-benchtime", "1x", "-count=3")
	if err != nil {
		return err
	}
	median, err1 := got.of("Decision", "median-us")
	p99, err2 := got.of("Decision", "p99-us")
	cold, err3 := got.of("Decision", "cold-ms")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	trace := "the openb trace"
	if os.Getenv(tracesEnv) == "" {
		trace = "our own small trace, repeated"
	}
	b.report.add(Row{Name: "one placement decision at 10,917 nodes, median / p99", Nomad: "-", Reach: "10 us / 200 us",
		Measured: fmt.Sprintf("%.1f us / %.0f us", median, p99), Reached: median <= 10 && p99 <= 200,
		Figures: map[string]float64{"median_us": median, "p99_us": p99},
		Note:    "one thread, with the index's catching up, while the cluster fills to 95 %; " + trace})
	b.report.add(Row{Name: "cold placement index at 10,917 nodes", Nomad: "-", Reach: "1 s",
		Measured: fmt.Sprintf("%.0f ms", cold), Reached: cold <= 1000, Figures: map[string]float64{"ms": cold},
		Note: "nodes, mix and an index for every kind of demand, on the cluster 95 % full; " + trace})
	return nil
}

// quality is one figure of the engine on a trace.
type quality struct {
	name, jobs string
	args       []string
	reach      float64 // percent
	least      bool    // the reach is the least, not the most
	figure     func(d *simulated) float64
}

// simulated is what is read of the command's document.
type simulated struct {
	Median struct {
		Allocated map[string]float64 `json:"allocated"`
		Rejected  map[string]float64 `json:"rejected"`
	} `json:"median"`
	Verdict struct {
		Violations int `json:"residency_violations"`
		Avoidable  int `json:"avoidable_rejections"`
		Impossible int `json:"impossible_rows"`
	} `json:"verdict"`
}

func (b *bench) placementQuality(ctx context.Context) error {
	filled := func(d *simulated) float64 { return 100 * d.Median.Allocated["1.00"] }
	rejected := func(d *simulated) float64 { return 100 * d.Median.Rejected["all"] }
	var failed []error
	for _, q := range []quality{
		{"default, allocated at 100 % demand", "default", nil, 95.3, true, filled},
		{"gpuspec33, allocated at 100 % demand", "gpuspec33", nil, 93.5, true, filled},
		{"default, churn at 93 % load, rejected", "default", []string{"--churn", "0.93"}, 3.5, false, rejected},
		{"gpuspec33, churn at 85 % load, rejected", "gpuspec33", []string{"--churn", "0.85"}, 4.5, false, rejected},
	} {
		failed = append(failed, b.quality(ctx, q))
	}
	return errors.Join(failed...)
}

func (b *bench) quality(ctx context.Context, q quality) error {
	dir, seeds := os.Getenv(tracesEnv), "42-51"
	if b.quick {
		seeds = "42-44"
	}
	d, err := b.simulate(ctx, append([]string{"--nodes", filepath.Join(dir, "openb_node_list_gpu_node.csv.gz"),
		"--jobs", filepath.Join(dir, "openb_pod_list_"+q.jobs+".csv.gz"), "--seeds", seeds}, q.args...))
	if err != nil {
		return err
	}
	got := q.figure(d)
	reached := got <= q.reach
	if q.least {
		reached = got >= q.reach
	}
	b.report.add(Row{Name: "openb " + q.name, Nomad: "-", Reach: fmt.Sprintf("%.1f %%", q.reach), Measured: fmt.Sprintf("%.2f %%", got), Reached: reached,
		Figures: map[string]float64{"percent": got},
		Note:    fmt.Sprintf("sovmesh simulate, median of seeds %s; residency violations %d, avoidable rejections %d", seeds, d.Verdict.Violations, d.Verdict.Avoidable)})
	return nil
}

func (b *bench) simulate(ctx context.Context, args []string) (*simulated, error) {
	cmd := exec.CommandContext(ctx, b.program, append([]string{"simulate", "--json"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sovmesh simulate: %w", err)
	}
	var d simulated
	if err := json.Unmarshal(out, &d); err != nil {
		return nil, fmt.Errorf("read what sovmesh simulate said: %w", err)
	}
	return &d, nil
}
