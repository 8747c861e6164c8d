package simulate

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement/engine"
)

// tracesEnv names a directory with the openb files; without it the benchmark
// runs on our own small trace, repeated.
const tracesEnv = "SOVMESH_TRACES"

// big is a cluster of at least 10,917 nodes: nine times the 1,213 GPU nodes of
// openb, or our own repeated as often as it takes.
func big(b *testing.B) ([]Machine, []Job) {
	machines, jobs := small(b, 4)
	if dir := os.Getenv(tracesEnv); dir != "" {
		machines = readTrace(b, dir, "openb_node_list_gpu_node.csv.gz", ReadMachines)
		jobs = readTrace(b, dir, "openb_pod_list_default.csv.gz", func(r io.Reader, name string) ([]Job, error) { return ReadJobs(r, name, machines, false) })
	}
	var out []Machine
	for copies := 0; len(out) < 10_917; copies++ {
		for _, m := range machines {
			m.Name += "-" + string(rune('a'+copies%26)) + string(rune('a'+copies/26))
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(x, y Machine) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	})
	Place(out, jobs, 1)
	return out, jobs
}

func readTrace[T any](b *testing.B, dir, name string, read func(io.Reader, string) ([]T, error)) []T {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		b.Fatalf("%s: %v", tracesEnv, err)
	}
	defer f.Close()
	out, err := read(f, name)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// BenchmarkDecision fills a cluster of 10,917 nodes to 95 % and times every
// decision with its index's catching up; then it fills a fresh index for every
// kind of demand on the full cluster, as a new leader has to.
func BenchmarkDecision(b *testing.B) {
	machines, jobs := big(b)
	capacity := int64(0)
	for _, m := range machines {
		capacity += int64(m.GPUs) * 1000
	}
	for b.Loop() {
		p, err := newEngine(machines, jobs, engine.DefaultConfig(), true)
		if err != nil {
			b.Fatal(err)
		}
		for i := range jobs { // one index for each kind of demand, as in a leader that has run
			p.decide(&jobs[i])
		}
		var took []time.Duration
		for _, i := range workload(jobs, capacity, 0.95, 42) {
			began := time.Now()
			if at, ok := p.decide(&jobs[i]); ok {
				p.take(&jobs[i], at)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "median-us")
		b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-us")

		nodes := make([]engine.Node, p.cluster.Len())
		for i := range nodes {
			nodes[i] = *p.cluster.Node(i)
		}
		began := time.Now()
		fresh, err := engine.New(nodes, engine.DefaultConfig())
		if err == nil {
			err = fresh.SetMix(p.cluster.Mix())
		}
		if err != nil {
			b.Fatal(err)
		}
		asked := make(map[engine.Demand]bool)
		for i := range jobs {
			if d := p.demands[jobs[i].Name]; !asked[d] {
				asked[d] = true
				fresh.Decide(d)
			}
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "cold-ms")
		b.ReportMetric(float64(len(asked)), "classes")
	}
}
