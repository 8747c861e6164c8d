package state

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

// widest are devices that say as much as one device may, in what JSON writes the
// longest.
func widest(n int) []placement.Device {
	out := gpus("n1", n)
	for i := range out {
		for c := range placement.MaxDeviceCause {
			out[i].Causes = append(out[i].Causes, placement.Cause{Code: strings.Repeat("<", 60) + string(rune('a'+c)), Reason: strings.Repeat("<", 256)})
		}
	}
	return out
}

// A node speaks for itself alone, and so does a region. What they say must leave
// a state that can be written and read again, or one of them could stop them all.
func TestNobodysWordsMakeARowThatNoSnapshotHolds(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	inventory := func(change func(*placement.Inventory)) ReportInventory {
		inv := f.s.Node("n1").Inventory
		inv.Version++
		change(&inv)
		return ReportInventory{Node: "n1", Inventory: inv}
	}
	f.ok(inventory(func(i *placement.Inventory) { i.Devices = widest(20) })) // as much as a command carries
	id := f.submit(1, "EU")
	f.ok(SetForward{Job: id, Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardAsking}})
	said := placement.RegionAnswer{Region: "ber-1", Code: "capacity.none", Reason: strings.Repeat("<", 2048)}
	back := func(a placement.RegionAnswer) SetForward {
		return SetForward{Job: id, Forward: placement.Forward{Attempt: 1, Refusals: []placement.RegionAnswer{a}}}
	}
	f.refused("forward.refusals", back(placement.RegionAnswer{Region: "ber-1", Reason: strings.Repeat("<", 2049)}))
	f.refused("forward.refusals", back(placement.RegionAnswer{Region: "ber-1", Code: strings.Repeat("x", 200<<10)}))
	f.ok(back(said))
	for name, change := range map[string]func(*placement.Inventory){
		"a program": func(i *placement.Inventory) { i.Program = strings.Repeat("x", 200<<10) },
		"a driver":  func(i *placement.Inventory) { i.Drivers = []string{strings.Repeat("x", 200<<10)} },
		"a health": func(i *placement.Inventory) {
			i.Devices = gpus("n1", 1)
			i.Devices[0].Health = placement.DeviceHealth(strings.Repeat("x", 200<<10))
		},
		"a cause's state": func(i *placement.Inventory) {
			i.Devices = widest(1)
			i.Devices[0].Causes[0].Health = placement.DeviceHealth(strings.Repeat("x", 200<<10))
		},
		"an action": func(i *placement.Inventory) {
			i.Devices = widest(1)
			i.Devices[0].Causes[0].Action = placement.DeviceAction(strings.Repeat("x", 200<<10))
		},
		"a terminal": func(i *placement.Inventory) { i.Devices = gpus("n1", 1); i.Devices[0].Model = "H100\x1b[2J" },
	} {
		if r := f.apply(inventory(change)); r.Refused == nil || r.Refused.Code != "node.inventory" {
			t.Errorf("%s: %+v", name, r.Refused)
		}
	}
	var b bytes.Buffer
	if err := f.s.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(&b)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != f.s.Digest() {
		t.Error("what was restored is another state")
	}
}

// A snapshot that could not be read again is none: its writer hears of it.
func TestASnapshotThatNobodyCouldReadIsNotWritten(t *testing.T) {
	f := newFixture(t)
	n := *f.s.Node("n1")
	n.Inventory.Program = strings.Repeat("x", maxRecord)
	f.s.putNode(&n)
	if err := f.s.Write(&bytes.Buffer{}); err == nil {
		t.Error("it was written")
	}
}

// The first node of a region is judged as any other.
func TestTheFirstNodeIsJudgedToo(t *testing.T) {
	f := &fixture{t: t, s: New(), now: day}
	k := firstCommand()
	k.Node.Inventory.Devices = append(gpus("n1", 1), gpus("n1", 1)...)
	f.refused("node.inventory", k)
	k = firstCommand()
	k.Node.Inventory.Devices[0].Memory = -1
	if r := f.apply(k); r.Refused == nil {
		t.Error("a device of negative memory founded a region")
	}
}

// Members that must not stand beside each other could be planned on one node and
// would be refused for ever.
func TestAGangDoesNotAvoidItself(t *testing.T) {
	f := newFixture(t)
	j := aJob(1, "EU")
	j.Spec.Members, j.Spec.Avoid = 2, []string{"other", j.Name}
	f.refused("job.neighbours", SubmitJob{Job: j})
	j.Spec.Members = 0
	f.ok(SubmitJob{Job: j})
}
