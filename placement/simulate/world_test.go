package simulate

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

var aDay = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func factsOf(country string) placement.RegionFacts {
	return placement.RegionFacts{Country: country, Operator: placement.Operator{Home: country, Parent: "none"}}
}

// aWorld is a region in London with two nodes of four GPUs, and a peer in Paris.
func aWorld(t testing.TB, jobs ...*placement.Job) *World {
	t.Helper()
	w := World{
		SavedAt: aDay, Region: "lon-1",
		Regions: []*placement.Region{{ID: "lon-1", Facts: factsOf("GB")}, {ID: "par-1", Facts: factsOf("FR")}},
		Jobs:    jobs,
	}
	for _, id := range []placement.NodeID{"n2", "n1"} {
		n := &placement.Node{ID: id, Region: "lon-1", State: placement.NodeReady, Contact: placement.ContactAlive, Inventory: placement.Inventory{
			CPU: 8000, Memory: 32 * placement.GiB, Drivers: []string{"process"},
		}}
		for i := range 4 {
			n.Inventory.Devices = append(n.Inventory.Devices, placement.Device{UUID: fmt.Sprintf("%s-%d", id, i), Model: "NVIDIA H100 80GB HBM3", Memory: 80 * placement.GiB, Health: placement.DeviceOK})
		}
		w.Nodes = append(w.Nodes, n)
	}
	for _, j := range jobs {
		if j.Status != placement.JobRunning {
			continue
		}
		n := w.Nodes[slices.IndexFunc(w.Nodes, func(n *placement.Node) bool { return n.ID == j.Node })]
		task := &placement.Task{ID: j.ID.Task(0, 1), Job: j.ID, Node: j.Node, Tenant: j.Tenant, Kind: j.Kind, Resources: j.Spec.Resources, Status: placement.TaskRunning}
		for i := range j.Spec.Resources.GPUs {
			task.Devices = append(task.Devices, n.Inventory.Devices[len(n.Used.Devices)+i].UUID)
		}
		n.Used = n.Used.With(task.Resources, task.Devices, 1)
		n.Used.Tasks++
		w.Tasks = append(w.Tasks, task)
	}
	out, err := NewWorld(w, residency.Embedded())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// aJob waits, or runs on the node that is named.
func aJob(n int, tag string, gpus int, on placement.NodeID) *placement.Job {
	j := &placement.Job{
		ID: placement.JobID(fmt.Sprintf("lon-1.%026d", n)), Name: fmt.Sprint("job", n), Kind: placement.KindProcess, Tenant: "acme", Residency: tag, Node: on,
		Policy: []placement.Layer{{Origin: residency.OriginJob, Tag: tag}}, Status: placement.JobPending,
		Spec: placement.JobSpec{
			Kind: placement.KindProcess, Type: placement.TypeBatch, Command: []string{"secret"}, Env: map[string]string{"KEY": "secret"},
			Resources: placement.Resources{CPU: 100, GPUs: gpus},
		},
	}
	if on != "" {
		j.Status, j.Attempts = placement.JobRunning, 1
	}
	return j
}

func TestAWorldIsSavedAndReadWithoutWhatJobsCarry(t *testing.T) {
	w := aWorld(t, aJob(1, "GB", 4, "n1"), aJob(2, "GB", 2, ""))
	var b bytes.Buffer
	if err := w.Write(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "secret") {
		t.Errorf("a job's command or environment is in it: %s", b.String())
	}
	again, err := ReadWorld(&b, "w.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Nodes) != 2 || again.Nodes[0].ID != "n1" || len(again.Jobs) != 2 || len(again.Tasks) != 1 || again.Pack() == nil {
		t.Errorf("%+v", again)
	}
}

func TestAFileThatIsNoWorldIsRefusedWithItsPlace(t *testing.T) {
	good := func(change func(*World)) string {
		w := aWorld(t, aJob(1, "GB", 4, "n1"))
		var b bytes.Buffer
		change(w)
		if err := w.Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for name, tt := range map[string]struct{ text, words string }{
		"cut":                {"{\n \"format\": ", "line 2"},
		"a list":             {"[]", "line 1"},
		"another format":     {`{"format":"x"}`, "the format is"},
		"an unknown field":   {`{"format":"sovmesh-world/1","nodez":[]}`, "nodez"},
		"a null":             {`{"format":"sovmesh-world/1","nodes":[null]}`, "null"},
		"no such region":     {good(func(w *World) { w.Region = "x" }), "not among the regions"},
		"a node twice":       {good(func(w *World) { w.Nodes[1] = w.Nodes[0] }), "stands twice"},
		"a GPU twice":        {good(func(w *World) { w.Nodes[0].Inventory.Devices[1].UUID = w.Nodes[0].Inventory.Devices[0].UUID }), "stands twice"},
		"negative memory":    {good(func(w *World) { w.Nodes[0].Inventory.Memory = -1 }), "memory"},
		"too many devices":   {good(func(w *World) { w.Nodes[0].Inventory.Devices = make([]placement.Device, 1025) }), "not plausible"},
		"a job of no tag":    {good(func(w *World) { w.Jobs[0].Policy = nil }), "no policy"},
		"0.3 of two GPUs":    {good(func(w *World) { w.Jobs[0].Spec.Resources = placement.Resources{GPUs: 2, GPUShare: 300} }), "300m of 2 GPUs"},
		"another law":        {good(func(w *World) { w.LawPack = "sha256:" + strings.Repeat("0", 64) }), "law pack"},
		"a job stands twice": {good(func(w *World) { w.Jobs = append(w.Jobs, w.Jobs[0]) }), "stands twice"},
	} {
		_, err := ReadWorld(strings.NewReader(tt.text), "w.json")
		var bad *FormatError
		if !errors.As(err, &bad) || bad.Hint() == "" || bad.Line < 1 || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: %v, want %q", name, err, tt.words)
		}
	}
}

func FuzzReadWorld(f *testing.F) {
	var b bytes.Buffer
	if err := aWorld(f, aJob(1, "GB", 4, "n1"), aJob(2, "EU", 2, "")).Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"format":"sovmesh-world/1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := ReadWorld(bytes.NewReader(data), "w.json")
		if err != nil {
			return
		}
		w.Drill(w.Pack(), residency.DateOf(aDay), aDay)
		if _, err := w.Change(aDay, nil, []Addition{{Nodes: 1, GPUs: 1, Model: "H100"}}, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAdditions(t *testing.T) {
	for text, want := range map[string]Addition{
		"4x8xH100":   {Nodes: 4, GPUs: 8, Model: "H100"},
		"2x0":        {Nodes: 2},
		"3xfra-1-n1": {Nodes: 3, Like: "fra-1-n1"},
	} {
		if got, err := ParseAddition(text); err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "4", "4x", "0x8xH100", "-1x8xH100", "4x8", "4x0xH100", "4x8x", "4xN1", "99999x8xH100", "4x9999xH100"} {
		if got, err := ParseAddition(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func TestNodesMoreOrFewerChangeWhatFits(t *testing.T) {
	w := aWorld(t, aJob(1, "GB", 4, "n1"), aJob(2, "GB", 4, ""), aJob(3, "GB", 4, ""), aJob(4, "GB", 8, ""), aJob(5, "FR", 1, ""))
	out, err := w.Change(aDay, nil, nil, nil)
	if err != nil || out.Then != nil || out.Now.Waits != 4 || out.Now.Placed != 1 || out.Now.GPUs != 8 || out.Now.Room.Free != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	codes := map[string]int{}
	for _, r := range out.Now.Refused {
		codes[r.Code] = r.Jobs
	}
	if codes["gpu.free"] != 1 || codes["gpu.count"] != 1 || codes["residency.refused"] != 1 {
		t.Errorf("refused %+v", out.Now.Refused)
	}
	out, err = w.Change(aDay, nil, []Addition{{Nodes: 2, GPUs: 8, Model: "H100"}}, []placement.NodeID{"n1"})
	if err != nil || out.Displaced != 1 || len(out.Homeless) != 0 || out.Then.Placed != 4 || out.Then.Waits != 5 || out.Then.Nodes != 3 || out.Now.Placed != 1 {
		t.Fatalf("%+v %+v %v", out, out.Then, err)
	}
	out, err = w.Change(aDay, nil, nil, []placement.NodeID{"n1", "n2"})
	if err != nil || len(out.Homeless) != 1 || out.Then.Placed != 0 {
		t.Errorf("nothing left: %+v %v", out, err)
	}
	more := aJob(9, "GB", 2, "")
	if out, err = w.Change(aDay, []*placement.Job{more}, []Addition{{Nodes: 1, Like: "n1"}}, nil); err != nil || out.Now.Waits != 5 || out.Then.Nodes != 3 {
		t.Errorf("with one more: %+v %v", out, err)
	}
	for _, bad := range []struct {
		add    []Addition
		remove []placement.NodeID
	}{{nil, []placement.NodeID{"n9"}}, {[]Addition{{Nodes: 1, Like: "n9"}}, nil}} {
		if _, err := w.Change(aDay, nil, bad.add, bad.remove); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if w.Nodes[0].Used.CPU != 100 || w.Nodes[1].Used.CPU != 0 {
		t.Error("asking changed the world")
	}
}

// The adequacy decision for the United Kingdom ends with 2031-12-27.
func TestADrillTellsWhoStaysMovesLeavesAndIsStranded(t *testing.T) {
	w := aWorld(t,
		aJob(1, "GB", 1, "n1"),                  // whatever becomes of adequacy
		aJob(2, "adequate(EU)", 1, "n1"),        // lawful in London as long as the decision holds
		aJob(3, "EU,adequate(EU)", 1, "n2"),     // then in Paris
		aJob(4, "adequate(EU)", 1, ""),          // waits
		aJob(5, "EU", 1, ""),                    // waits for Paris
		aJob(6, "FR-IDF,adequate(EU)", 1, "n2"), // Paris may lie there: nobody said
	)
	now := w.Drill(w.Pack(), residency.DateOf(aDay), aDay)
	if now.Counts[FateStays] != 4 || now.Counts[FateWaits] != 1 || now.Counts[FateLeaves] != 1 || now.ExitCode() != 0 || now.Words() == "" {
		t.Errorf("today: %+v", now)
	}
	on, err := residency.ParseDate("2032-01-01")
	if err != nil {
		t.Fatal(err)
	}
	then := w.Drill(w.Pack(), on, aDay)
	want := map[placement.JobID]Fate{w.Jobs[1].ID: FateStranded, w.Jobs[2].ID: FateLeaves, w.Jobs[3].ID: FateStranded, w.Jobs[4].ID: FateLeaves, w.Jobs[5].ID: FateUnknown}
	if len(then.Jobs) != len(want) || then.Counts[FateStays] != 1 || then.ExitCode() != 20 {
		t.Fatalf("after the decision: %+v", then)
	}
	for _, f := range then.Jobs {
		if f.Fate != want[f.Job] || f.Rule == "" || f.Reason == "" || f.Fate == FateLeaves && !slices.Equal(f.Regions, []placement.RegionID{"par-1"}) {
			t.Errorf("%+v, want %s", f, want[f.Job])
		}
	}
	if then.Jobs[0].Fate != FateStranded {
		t.Errorf("the worst does not come first: %+v", then.Jobs)
	}
}

// A site that the law no longer permits is left for one that it does, as long as
// there is room, and the room that is left behind counts.
func TestADrillMovesWithinTheRegion(t *testing.T) {
	sited := func(jobs ...*placement.Job) *World {
		w := aWorld(t, jobs...)
		w.Nodes[0].Site, w.Nodes[1].Site = "north", "south"
		return w
	}
	// Running where their tag does not let them be stands for a law that changed.
	w := sited(aJob(1, "site:south", 2, "n1"), aJob(2, "site:north", 2, "n2"))
	d := w.Drill(w.Pack(), residency.DateOf(aDay), aDay)
	if d.Counts[FateMoves] != 2 || d.ExitCode() != 0 || d.Jobs[0].To == d.Jobs[0].At {
		t.Errorf("%+v", d)
	}
	w = sited(aJob(1, "site:south", 2, "n1"), aJob(2, "GB", 4, "n2"))
	if d = w.Drill(w.Pack(), residency.DateOf(aDay), aDay); d.Counts[FateNoRoom] != 1 || d.ExitCode() != 10 {
		t.Errorf("full: %+v", d)
	}
}

// Every member of a gang has to be where the law lets it be, whichever of them is
// looked at first.
func TestADrillJudgesEveryMemberOfAGang(t *testing.T) {
	for first, other := range map[placement.NodeID]placement.NodeID{"n1": "n2", "n2": "n1"} {
		j := aJob(1, "site:south", 1, first)
		j.Spec.Members = 2
		w := aWorld(t, j)
		w.Nodes[0].Site, w.Nodes[1].Site = "north", "south"
		second := *w.Tasks[0]
		second.ID, second.Node, second.Devices = j.ID.Task(1, 1), other, []string{string(other) + "-0"}
		w.Tasks = append(w.Tasks, &second)
		for _, n := range w.Nodes {
			if n.ID == other {
				n.Used = n.Used.With(second.Resources, second.Devices, 1)
				n.Used.Tasks++
			}
		}
		d := w.Drill(w.Pack(), residency.DateOf(aDay), aDay)
		if d.Counts[FateStays] != 0 || d.Counts[FateMoves] != 1 || d.Jobs[0].At != "n1" || d.Jobs[0].To != "n2" {
			t.Errorf("the first member at %s: %+v", first, d)
		}
	}
}

// twoOf lets a gang of two run on n1 and n2, with so many devices each.
func twoOf(t *testing.T, tag string, devices int, more ...*placement.Job) *World {
	j := aJob(1, tag, devices, "n1")
	j.Spec.Members = 2
	w := aWorld(t, append(more, j)...)
	second := *w.Tasks[slices.IndexFunc(w.Tasks, func(t *placement.Task) bool { return t.Job == j.ID })]
	second.ID, second.Node, second.Devices = j.ID.Task(1, 1), "n2", nil
	n := w.Nodes[slices.IndexFunc(w.Nodes, func(n *placement.Node) bool { return n.ID == "n2" })]
	for i := range devices {
		second.Devices = append(second.Devices, n.Inventory.Devices[len(n.Used.Devices)+i].UUID)
	}
	n.Used = n.Used.With(second.Resources, second.Devices, 1)
	n.Used.Tasks++
	w.Tasks = append(w.Tasks, &second)
	return w
}

// A gang that loses one member's node starts again as a whole: the others hold no
// room against it.
func TestADisplacedGangLeavesAllItsRoom(t *testing.T) {
	w := twoOf(t, "GB", 2)
	out, err := w.Change(aDay, nil, nil, []placement.NodeID{"n1"})
	if err != nil || out.Displaced != 1 || len(out.Homeless) != 0 || out.Then.Placed != 1 || out.Then.Room.Free != 0 {
		t.Errorf("%+v %+v %v", out, out.Then, err)
	}
	if len(w.Tasks) != 2 || len(w.Nodes[1].Used.Devices) != 2 {
		t.Error("asking changed the world")
	}
}

// A gang goes to no other region, whatever the law there: no drill says so.
func TestADrillLetsNoGangLeave(t *testing.T) {
	w := twoOf(t, "FR", 1)
	d := w.Drill(w.Pack(), residency.DateOf(aDay), aDay)
	if d.Counts[FateLeaves] != 0 || d.Counts[FateStranded] != 1 || len(d.Jobs) != 1 || len(d.Jobs[0].Regions) != 0 || d.ExitCode() != 20 {
		t.Errorf("%+v", d)
	}
	w = aWorld(t, aJob(1, "FR", 1, "n1"))
	if d = w.Drill(w.Pack(), residency.DateOf(aDay), aDay); d.Counts[FateLeaves] != 1 {
		t.Errorf("a single task: %+v", d)
	}
}
