package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/simulate"
)

const (
	traceNodes = "sn,cpu_milli,memory_mib,gpu,model\nn1,32000,131072,4,L4\nn2,32000,131072,4,L4\nn3,96000,786432,8,H100\n"
	traceJobs  = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
)

// A trace with holes or bad columns is refused with the file, the line and what
// to do; nothing of it is replayed.
func TestTracesWithFaults(t *testing.T) {
	tests := []struct {
		name, nodes, jobs string
		says              string // after the file's name
	}{
		{"a hole in a line", traceNodes + "n4,,1,0,\n", "", "nodes.csv: line 5, column 4: cpu_milli is missing"},
		{"a line cut short", traceNodes + "n4,32000\n", "", "nodes.csv: line 5, column 1: wrong number of fields"},
		{"a column is missing", "sn,cpu_milli,gpu,model\nn1,1,0,\n", "", `nodes.csv: line 1: there is no column "memory_mib"`},
		{"a column twice", "sn,sn,cpu_milli,memory_mib,gpu,model\n", "", `nodes.csv: line 1, column 4: there are two columns named "sn"`},
		{"a name twice", traceNodes + "n1,1,1,0,\n", "", `nodes.csv: line 5, column 1: sn "n1" stands on line 2 already`},
		{"a negative amount", traceNodes + "n4,-1,1,0,\n", "", "nodes.csv: line 5, column 4: cpu_milli is -1"},
		{"no nodes", "sn,cpu_milli,memory_mib,gpu,model\n", "", "nodes.csv: the file lists no nodes"},
		{"an empty file", "", "", "nodes.csv: the file is empty"},
		{"damaged gzip", "\x1f\x8b\x08", "", "nodes.csv: the gzip file is damaged"},
		{"a share of two GPUs", traceNodes, traceJobs + "a,1000,1,1,500,\nb,1000,1,2,300,\n", "jobs.csv: line 3, column 12: gpu_milli is 300 for 2 GPUs"},
		{"a model that no node has", traceNodes, traceJobs + "a,1000,1,1,1000,L4|H900\n", `jobs.csv: line 2, column 17: no node has the model "H900"`},
		{"a word for a number", traceNodes, traceJobs + "a,many,1,1,1000,\n", `jobs.csv: line 2, column 3: cpu_milli is "many", which is no whole number`},
		{"an open quote", traceNodes, traceJobs + "\"a,1,1,0,0,\n", "jobs.csv: line 2"},
		{"the head of another file", traceNodes, traceNodes, `jobs.csv: line 1: there is no column "name"`},
	}
	for _, test := range tests {
		b := newBench(t)
		nodes, jobs := b.file("nodes.csv", test.nodes), b.file("jobs.csv", test.jobs)
		log := filepath.Join(t.TempDir(), "log.csv")
		r := b.run("simulate", "--nodes", nodes, "--jobs", jobs, "--log", log)
		if r.exit != api.ExitUsage || r.out != "" || !strings.Contains(r.err, test.says) || !strings.Contains(r.err, "what to do: ") {
			t.Errorf("%s: exit %d\n%s%s", test.name, r.exit, r.out, r.err)
		}
		if _, err := os.Stat(log); err == nil {
			t.Errorf("%s: a log was written all the same", test.name)
		}
	}
}

// A list without the column of models is one of jobs that take any.
func TestATraceWithoutModels(t *testing.T) {
	b := newBench(t)
	nodes := b.file("nodes.csv", traceNodes)
	jobs := b.file("jobs.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1000,1024,1,500\nb,64000,1024,8,1000\nc,1000,1024,0,0\n")
	log := filepath.Join(t.TempDir(), "log.csv")
	r := b.run("simulate", "--nodes", nodes, "--jobs", jobs, "--demand", "0.5", "--json", "--log", log)
	var doc simulateDocument
	if err := json.Unmarshal([]byte(r.out), &doc); r.exit != 0 || err != nil || doc.Jobs != 3 || doc.GPUs != 16 || doc.Verdict.Impossible > 0 {
		t.Fatalf("exit %d, %v\n%s%s", r.exit, err, r.out, r.err)
	}
	if data, err := os.ReadFile(log); err != nil || !strings.HasPrefix(string(data), simulate.LogHead+"\n") {
		t.Errorf("%v: %s", err, data)
	}
}

// A churn that never holds its load has other figures than that load's, and says so.
func TestAChurnThatNeverHoldsItsLoad(t *testing.T) {
	b := newBench(t)
	nodes := b.file("nodes.csv", traceNodes)
	jobs := b.file("jobs.csv", traceJobs+"a,1000,1024,1,100,\n")
	churn := func(load, arrivals string) string {
		t.Helper()
		r := b.run("simulate", "--nodes", nodes, "--jobs", jobs, "--churn", load, "--arrivals", arrivals)
		if r.exit != 0 {
			t.Fatalf("exit %d\n%s%s", r.exit, r.out, r.err)
		}
		return r.out
	}
	if out := churn("0.93", "30"); !strings.Contains(out, "never held 93.00 % of the GPUs: 1 of 1 replays") {
		t.Errorf("30 tenths of a GPU are not 93 %% of 16:\n%s", out)
	}
	if out := churn("0.5", "100"); !strings.Contains(out, "only after a third of the jobs: 1 of 1") {
		t.Errorf("80 of 100 arrivals only fill:\n%s", out)
	}
	if out := churn("0.5", "1000"); strings.Contains(out, "held 50.00") {
		t.Errorf("it holds its load:\n%s", out)
	}
}
