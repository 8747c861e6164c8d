package simulate

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"
)

const (
	nodesHead = "sn,cpu_milli,memory_mib,gpu,model\n"
	jobsHead  = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n"
)

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text)) // a buffer takes everything
	_ = z.Close()
	return b.String()
}

func TestFaultsSayWhereTheyAre(t *testing.T) {
	one := nodesHead + "a,32000,1024,2,T4\n"
	tests := []struct {
		name, nodes, jobs string
		line, column      int
		says              string
	}{
		{"empty", "", "", 0, 0, "empty"},
		{"no rows", nodesHead, "", 0, 0, "no nodes"},
		{"a column is missing", "sn,cpu_milli\na,1\n", "", 1, 0, `no column "memory_mib"`},
		{"two columns of a name", "sn,sn\n", "", 1, 4, "two columns"},
		{"a hole", nodesHead + "a,32000,,2,T4\n", "", 2, 9, "memory_mib is missing"},
		{"a short line", nodesHead + "a,1\n", "", 2, 0, "wrong number of fields"},
		{"a negative number", nodesHead + "a,-1,1,2,T4\n", "", 2, 3, "between 0 and"},
		{"no number", nodesHead + "a,x,1,2,T4\n", "", 2, 3, "no whole number"},
		{"half a GPU", nodesHead + "a,1,1,0.5,T4\n", "", 2, 7, "no whole number"},
		{"too many GPUs", nodesHead + "a,1,1,33,T4\n", "", 2, 7, "between 0 and 32"},
		{"no model", nodesHead + "a,1,1,2,\n", "", 2, 9, "model is missing"},
		{"no name", nodesHead + ",1,1,2,T4\n", "", 2, 1, "sn is missing"},
		{"a name twice", one + "b,1,1,0,\na,1,1,0,\n", "", 4, 1, `"a" stands on line 2 already`},
		{"a quote left open", nodesHead + "\"a,1,1,2,T4\n", "", 2, 13, "quot"},
		{"gzip cut short", zipped(one)[:30], "", 1, 0, "damaged"},
		{"gzip of nothing", "\x1f\x8b\x08", "", 0, 0, "damaged"},
		{"a share of two GPUs", one, jobsHead + "j,1000,1,2,300,,LS\n", 2, 12, "a share is of one GPU"},
		{"nothing of a GPU", one, jobsHead + "j,1000,1,1,0,,LS\n", 2, 12, "between 1 and 1000"},
		{"more than a GPU", one, jobsHead + "j,1000,1,1,1001,,LS\n", 2, 12, "between 1 and 1000"},
		{"an unknown model", one, jobsHead + "j,1000,1,1,1000,T4|H900,LS\n", 2, 17, `no node has the model "H900"`},
		{"an empty model", one, jobsHead + "j,1000,1,1,1000,T4|,LS\n", 2, 17, "empty model"},
		{"a job twice", one, jobsHead + "j,1,1,0,0,,\nj,1,1,0,0,,\n", 3, 1, "already"},
		{"no jobs", one, jobsHead, 0, 0, "no jobs"},
	}
	for _, test := range tests {
		machines, err := ReadMachines(strings.NewReader(test.nodes), "f.csv")
		if err == nil {
			_, err = ReadJobs(strings.NewReader(test.jobs), "f.csv", machines, false)
		}
		var bad *FormatError
		if !errors.As(err, &bad) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.line > 0 && (bad.Line != test.line || test.column > 0 && bad.Column != test.column) || !strings.Contains(bad.Error(), test.says) || bad.Hint() == "" {
			t.Errorf("%s: %v (line %d, column %d), want %d:%d %q", test.name, bad, bad.Line, bad.Column, test.line, test.column, test.says)
		}
	}
}

func TestWhatIsReadOfATrace(t *testing.T) {
	machines, err := ReadMachines(strings.NewReader(zipped("model,sn,gpu,cpu_milli,memory_mib,extra\nT4,b,2,8000,1024,x\n,a,0,4000.0,1,\n")), "n")
	if err != nil || len(machines) != 2 || machines[0] != (Machine{Name: "a", CPU: 4000, MemoryMiB: 1}) || machines[1].Model != "T4" {
		t.Fatalf("%+v, %v", machines, err)
	}
	jobs, err := ReadJobs(strings.NewReader(jobsHead+"k,1,1,0,1000,,\nj,1,1,1,500,T4|T4,\n"), "j", machines, false)
	if err != nil || jobs[0].Name != "j" || len(jobs[0].Models) != 1 || jobs[1].amount() != 0 {
		t.Fatalf("%+v, %v", jobs, err)
	}
	if jobs, err = ReadJobs(strings.NewReader(jobsHead+"k,1,1,1,1000,H900,\n"), "j", machines, true); err != nil || len(jobs) != 1 {
		t.Fatalf("%+v, %v", jobs, err)
	}
}

// Whatever stands in the files: an error with its place, or lists within bounds.
func FuzzRead(f *testing.F) {
	f.Add([]byte(nodesHead+"a,32000,1024,2,T4\n"), []byte(jobsHead+"j,1000,1,1,300,T4,LS\n"))
	f.Add([]byte(zipped(nodesHead+"a,32000,1024,2,T4\n")), []byte("name\n\"\n"))
	f.Fuzz(func(t *testing.T, nodes, list []byte) {
		machines, err := ReadMachines(bytes.NewReader(nodes), "n")
		var jobs []Job
		if err == nil {
			jobs, err = ReadJobs(bytes.NewReader(list), "j", machines, len(list)%2 == 0)
		}
		var bad *FormatError
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("%T: %v", err, err)
		}
		for _, m := range machines {
			if m.Name == "" || m.CPU < 0 || m.MemoryMiB < 0 || m.GPUs < 0 || m.GPUs > gpusMax {
				t.Fatalf("%+v", m)
			}
		}
		for _, j := range jobs {
			if j.Name == "" || j.CPU < 0 || j.GPUs < 0 || j.GPUs > 1 && j.Milli != 1000 || j.Milli < 0 || j.Milli > 1000 {
				t.Fatalf("%+v", j)
			}
		}
	})
}
