package simulate

import (
	"bytes"
	"context"
	"os"
	"slices"
	"testing"
)

// small is the small trace of our own, with regions.
func small(t testing.TB, regions int) ([]Machine, []Job) {
	t.Helper()
	machines, err := ReadMachines(open(t, "testdata/nodes.csv"), "nodes.csv")
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := ReadJobs(open(t, "testdata/jobs.csv"), "jobs.csv", machines, false)
	if err != nil {
		t.Fatal(err)
	}
	Place(machines, jobs, regions)
	return machines, jobs
}

func open(t testing.TB, path string) *bytes.Reader {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(data)
}

// Whatever the policy: nothing outside its regions, nothing turned away that
// fits, and a log that adds up.
func TestEveryPolicyHolds(t *testing.T) {
	for _, regions := range []int{1, 4} {
		machines, jobs := small(t, regions)
		for _, policy := range Policies() {
			for _, o := range []Options{{Policy: policy, Seed: 42, Demand: 1.3}, {Policy: policy, Seed: 43, Churn: 0.9, Arrivals: 1500}, {Policy: policy, Seed: 44, Demand: 1.3, Warm: true}} {
				r, err := Run(context.Background(), machines, jobs, o)
				if err != nil {
					t.Fatal(err)
				}
				if v := r.Verdict; v.Violations+v.Avoidable+v.Impossible > 0 || v.Rows < r.Arrived {
					t.Errorf("%s, %d regions, churn %v: %+v of %d arrivals", policy, regions, o.Churn, v, r.Arrived)
				}
				if r.Arrived != r.Placed+r.Rejected || r.Placed == 0 || r.Rejected == 0 && o.Churn == 0 {
					t.Errorf("%s, %d regions: %+v", policy, regions, r)
				}
			}
		}
	}
}

func TestTheSameSeedGivesTheSameLog(t *testing.T) {
	machines, jobs := small(t, 4)
	o := Options{Policy: PolicySovmesh, Seed: 7, Demand: 1.3}
	one, err := Run(context.Background(), machines, jobs, o)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Run(context.Background(), machines, jobs, o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Log, two.Log) {
		t.Error("two replays of one seed differ")
	}
	o.Seed = 8
	if three, err := Run(context.Background(), machines, jobs, o); err != nil || bytes.Equal(one.Log, three.Log) {
		t.Errorf("another seed gives the same arrivals: %v", err)
	}
}

// The checker must see what a wrong policy would do.
func TestTheCheckerSeesWhatIsWrong(t *testing.T) {
	machines, jobs := small(t, 4)
	var gpu, eu *Job
	for i := range jobs {
		if j := &jobs[i]; j.GPUs == 1 && j.Milli == 1000 && len(j.Models) == 0 && j.Tag == BoundNowhere {
			gpu = j
		} else if j.GPUs == 0 && j.Tag == BoundEU {
			eu = j
		}
	}
	at := slices.IndexFunc(machines, func(m Machine) bool { return m.GPUs == 8 && m.Region == 3 })
	n, far := machines[at].Name, RegionName(3)
	tests := []struct {
		name string
		rows string
		want Verdict
	}{
		{"all is well", "1," + gpu.Name + "," + n + ",0,place," + far + ",\n2," + gpu.Name + "," + n + ",0,release," + far + ",\n", Verdict{Rows: 2}},
		{"a job of the EU elsewhere", "1," + eu.Name + "," + n + ",,place," + far + ",\n", Verdict{Rows: 1, Violations: 1}},
		{"a region that is not the node's", "1," + gpu.Name + "," + n + ",0,place,region-0,\n", Verdict{Rows: 1, Violations: 1}},
		{"a rejection in an empty cluster", "1," + gpu.Name + ",,,place,,capacity\n", Verdict{Rows: 1, Avoidable: 1}},
		{"a GPU given twice", "1," + gpu.Name + "," + n + ",0,place," + far + ",\n2," + gpu.Name + "," + n + ",0,place," + far + ",\n", Verdict{Rows: 2, Impossible: 1}},
		{"a GPU that is not there", "1," + gpu.Name + "," + n + ",8,place," + far + ",\n", Verdict{Rows: 1, Impossible: 1}},
		{"no GPU", "1," + gpu.Name + "," + n + ",,place," + far + ",\n", Verdict{Rows: 1, Impossible: 1}},
		{"a release of nothing", "1," + gpu.Name + "," + n + ",0,release," + far + ",\n", Verdict{Rows: 1, Impossible: 1}},
		{"an unknown job", "1,nobody," + n + ",0,place," + far + ",\n", Verdict{Rows: 1, Impossible: 1}},
	}
	for _, test := range tests {
		got, err := Check([]byte(LogHead+"\n"+test.rows), machines, jobs)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
}

func TestRegionsFollowTheRule(t *testing.T) {
	machines, jobs := small(t, 4)
	count := make(map[int]int)
	for _, m := range machines {
		if m.Model == "L40" {
			count[m.Region]++
		}
	}
	if count[0] != 3 || count[1] != 3 || count[2] != 2 || count[3] != 2 {
		t.Errorf("ten equal nodes are dealt out as %v", count)
	}
	tags := make(map[string]int)
	for _, j := range jobs {
		tags[j.Tag]++
		if want := map[string]uint64{BoundNowhere: 15, BoundEU: 3}[j.Tag]; want != 0 && j.Regions != want {
			t.Errorf("%s: %+v", j.Name, j.Bound)
		}
	}
	if tags[BoundEU] < 40 || tags[BoundNowhere] < 80 {
		t.Errorf("tags: %v", tags)
	}
	// The rule is public: another program gets the same, here FNV-1a of "a",
	// which is 0xaf63dc4c8601ec8c.
	if got, h := boundOf("a", 4), uint64(0xaf63dc4c8601ec8c); (h%100 < 45) != (got.Tag == BoundEU) || got.Tenant != "tenant-"+string(rune('0'+h/10000%8)) {
		t.Errorf("%+v", got)
	}
}

func TestAFillAsksForWhatItWasToldTo(t *testing.T) {
	machines, jobs := small(t, 1)
	capacity := int64(0)
	for _, m := range machines {
		capacity += int64(m.GPUs) * 1000
	}
	for _, demand := range []float64{0.2, 1.3, 3} {
		asked := int64(0)
		order := workload(jobs, capacity, demand, 42)
		for _, i := range order[:len(order)-1] {
			asked += jobs[i].amount()
		}
		want := int64(demand * float64(capacity))
		if last := jobs[order[len(order)-1]].amount(); asked >= want || asked+last < want {
			t.Errorf("%v of %d: %d and %d arrived", demand, capacity, asked, last)
		}
	}
}
