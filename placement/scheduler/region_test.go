package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func TestSummarise(t *testing.T) {
	nodes := []*placement.Node{
		node("n1", gpus(8, h100, 80*placement.GiB), gpus(2, "NVIDIA L4", 24*placement.GiB)),
		node("n2", gpus(8, h100, 80*placement.GiB), used(2500, 0, "n2-gpu-0")),
		node("n3", gpus(8, h100, 80*placement.GiB), func(n *placement.Node) { n.State = placement.NodeCordoned }),
	}
	got := Summarise(nodes, SummaryFacts{Region: "fra-1", Epoch: 7, Now: noon, TTL: time.Minute, LawPack: "x", Models: []string{"b", "a", "b"}})
	want := []placement.ClassSummary{
		{Class: "NVIDIA H100 80GB HBM3", Free: 4, Largest: 4}, // 15, 8
		{Class: "NVIDIA L4", Withheld: true},                  // one node
		{Class: "cpu", Free: 4, Largest: 4},                   // 13, 8
	}
	if !slices.Equal(got.Classes, want) || got.Draining || !got.Expires.Equal(noon.Add(time.Minute)) || !slices.Equal(got.Models, []string{"a", "b"}) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, n := range nodes {
		n.State = placement.NodeDrained
	}
	if got := Summarise(nodes, SummaryFacts{Now: noon}); !got.Draining || got.Classes[0].Free != 0 {
		t.Errorf("with every node drained: %+v", got)
	}
}

// A region full of MIG instances, or of devices in confidential-computing mode,
// does not pass for one with whole or open devices, nor the other way round.
func TestSummariesTellDevicesApart(t *testing.T) {
	var nodes []*placement.Node
	for _, id := range []string{"n1", "n2", "n3"} {
		n := node(id, gpus(5, h100, 80*placement.GiB))
		d := n.Inventory.Devices
		d[1].Profile, d[2].Profile, d[3].Confidential, d[4].Partitioned = "1g.10gb", "1g.10gb", true, true
		nodes = append(nodes, n)
	}
	s := Summarise(nodes, SummaryFacts{Region: "ber-1", Now: noon, TTL: time.Minute})
	want := []placement.ClassSummary{
		{Class: h100, Free: 1, Largest: 1}, {Class: h100, Confidential: true, Free: 1, Largest: 1}, // three of each
		{Class: h100, Profile: "1g.10gb", Free: 4, Largest: 1}, // six
		{Class: "cpu", Free: 16, Largest: 4},
	}
	if !slices.Equal(s.Classes, want) {
		t.Fatalf("%+v, want %+v", s.Classes, want)
	}
	for _, tt := range []struct {
		name string
		r    placement.Resources
		want Prospect
	}{
		{"whole", placement.Resources{GPUs: 1}, ProspectLikely},
		{"too many whole", placement.Resources{GPUs: 32}, ProspectFull},
		{"instances", placement.Resources{GPUs: 2, GPUProfile: "1g.10gb"}, ProspectLikely},
		{"another profile is not told", placement.Resources{GPUs: 1, GPUProfile: "3g.40gb"}, ProspectAsk},
		{"confidential", placement.Resources{GPUs: 1, Confidential: true}, ProspectLikely},
		{"too many confidential", placement.Resources{GPUs: 8, Confidential: true}, ProspectFull},
	} {
		got, _ := prospect(&placement.Job{Spec: placement.JobSpec{Resources: tt.r}}, &s, noon)
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	s.Classes[0].Free, s.Classes[1].Free = 0, 0
	if got, _ := prospect(&placement.Job{Spec: placement.JobSpec{Resources: placement.Resources{GPUs: 1, GPUShare: 300}}}, &s, noon); got != ProspectAsk {
		t.Errorf("no device is wholly free: a share may still fit, and the region is %s", got)
	}
}

func TestSummaryBucketsHoldStill(t *testing.T) {
	tests := []struct {
		n    int
		old  placement.Bucket
		want placement.Bucket
	}{
		{4, 1, 1}, {5, 1, 4}, {3, 4, 4}, {2, 4, 1}, {16, 4, 4}, {20, 4, 16}, {12, 16, 16}, {11, 16, 4},
		{0, 1, 0}, {1, 0, 1}, {1000, 256, 256}, {192, 256, 256}, {191, 256, 64}, {300, 4, 256},
	}
	for _, tt := range tests {
		if got := sticky(tt.n, tt.old); got != tt.want {
			t.Errorf("%d after bucket %d: %d, want %d", tt.n, tt.old, got, tt.want)
		}
	}
	nodes := []*placement.Node{node("n1"), node("n2", used(8000, 0)), node("n3", used(4000, 0))} // 12 cores
	previous := placement.RegionSummary{Classes: []placement.ClassSummary{{Class: "cpu", Free: 16, Largest: 4}}}
	if got := Summarise(nodes, SummaryFacts{Now: noon, Previous: &previous}); got.Classes[0].Free != 16 {
		t.Errorf("one job flipped the bucket: %+v", got.Classes)
	}
}

// regions are three places that a job may be sent to.
func regions() []*placement.Region {
	region := func(name, country string) *placement.Region {
		return &placement.Region{
			ID: placement.RegionID(name), LawPack: residency.Embedded().Hash(),
			Facts: placement.RegionFacts{Country: country, Operator: placement.Operator{Home: country, Parent: country}},
		}
	}
	return []*placement.Region{region("ber-1", "DE"), region("iad-1", "US"), region("mil-1", "IT"), region("xxx-1", "")}
}

func rank(j *placement.Job, summaries ...placement.RegionSummary) []Candidate {
	home := &placement.Region{ID: "fra-1", Self: true}
	var asked []Foreign
	for _, to := range regions() {
		f := Foreign{Crossing: placement.Crossing{Layers: j.Policy, From: home, To: to, Law: placement.Law{Pack: residency.Embedded(), On: residency.DateOf(noon)}}}
		for i := range summaries {
			if summaries[i].Region == to.ID {
				f.Summary = &summaries[i]
			}
		}
		asked = append(asked, f)
	}
	return Rank(j, asked, noon)
}

func told(region string, free, largest placement.Bucket, age time.Duration, change ...func(*placement.RegionSummary)) placement.RegionSummary {
	s := placement.RegionSummary{
		Region: placement.RegionID(region), Generated: noon.Add(-age), Expires: noon.Add(-age).Add(time.Minute),
		Classes: []placement.ClassSummary{{Class: h100, Free: free, Largest: largest}, {Class: "cpu", Free: 64, Largest: 64}},
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func names(list []Candidate) []string {
	var out []string
	for _, c := range list {
		out = append(out, fmt.Sprintf("%s %s", c.Region, c.Prospect))
	}
	slices.Sort(out)
	return out
}

func TestRankNamesLawfulRegionsOnly(t *testing.T) {
	gpu := asks(placement.Resources{GPUs: 1, GPUModel: "H100"})
	eight := asks(placement.Resources{GPUs: 8, GPUModel: "H100"})
	withheld := func(s *placement.RegionSummary) { s.Classes[0] = placement.ClassSummary{Class: h100, Withheld: true} }
	tests := []struct {
		name      string
		job       *placement.Job
		summaries []placement.RegionSummary
		want      []string
	}{
		{"neither refused nor unknown places", job("a"), []placement.RegionSummary{told("ber-1", 4, 4, 0), told("iad-1", 64, 8, 0), told("xxx-1", 64, 8, 0), told("mil-1", 4, 4, 0)}, []string{"ber-1 likely", "mil-1 likely"}},
		{"nothing lawful", job("a", tagged("FR")), nil, nil},
		{"every layer counts", job("a", tagged("EU", "DE")), nil, []string{"ber-1 unknown"}},
		{"withheld means ask", job("a", gpu), []placement.RegionSummary{told("ber-1", 0, 0, 0, withheld), told("mil-1", 0, 0, 0)}, []string{"ber-1 ask", "mil-1 full"}},
		{"a class not told means ask", job("a", asks(placement.Resources{GPUs: 1, GPUModel: "B200"})), []placement.RegionSummary{told("ber-1", 4, 4, 0)}, []string{"ber-1 ask", "mil-1 unknown"}},
		{"expired means unknown", job("a", gpu), []placement.RegionSummary{told("ber-1", 64, 8, time.Minute), told("mil-1", 1, 1, 59*time.Second)}, []string{"ber-1 unknown", "mil-1 likely"}},
		{"draining", job("a"), []placement.RegionSummary{told("ber-1", 4, 4, 0, func(s *placement.RegionSummary) { s.Draining = true })}, []string{"ber-1 full", "mil-1 unknown"}},
		{"no hole of that size", job("a", eight), []placement.RegionSummary{told("ber-1", 256, 1, 0), told("mil-1", 16, 4, 0)}, []string{"ber-1 full", "mil-1 likely"}},
	}
	for _, tt := range tests {
		if got := names(rank(tt.job, tt.summaries...)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestRankOrder(t *testing.T) {
	gpu := asks(placement.Resources{GPUs: 1, GPUModel: "H100"})
	fresh, stale := told("ber-1", 1, 1, 0), told("mil-1", 1, 1, 55*time.Second)
	for i := range 20 {
		j := job(fmt.Sprintf("j%d", i), gpu)
		if got := rank(j, fresh, stale); got[0].Region != "ber-1" || got[0].Chance <= got[1].Chance {
			t.Fatalf("an old summary beats a new one: %+v", got)
		}
		if got := rank(j, told("mil-1", 0, 0, 0)); got[1].Region != "mil-1" {
			t.Fatalf("a full region is not last: %+v", got)
		}
		prefers := job(fmt.Sprintf("p%d", i), gpu, tagged(wire(t, `{"residency":{"allow":["EU"],"prefer":["IT"]}}`)))
		if got := rank(prefers, fresh, told("mil-1", 1, 1, 0)); got[0].Region != "mil-1" {
			t.Fatalf("preference ignored: %+v", got)
		}
	}
}

func TestEqualRegionsAreNotAllSentTheSame(t *testing.T) {
	first := make(map[placement.RegionID]int)
	for i := range 200 {
		j := job(fmt.Sprintf("j%d", i))
		got := rank(j, told("ber-1", 4, 4, 0), told("mil-1", 4, 4, 0))
		if again := rank(j, told("ber-1", 4, 4, 0), told("mil-1", 4, 4, 0)); !slices.Equal(got, again) {
			t.Fatalf("%v then %v", got, again)
		}
		first[got[0].Region]++
	}
	if first["ber-1"] < 50 || first["mil-1"] < 50 {
		t.Errorf("%v: everybody runs to one region", first)
	}
}
