package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func TestAClearKeepsWhatTheOperatorSaw(t *testing.T) {
	f := newFixture(t)
	seen := f.now.Add(-time.Hour).UTC()
	inv := f.s.Node("n1").Inventory
	inv.Version++
	inv.Devices = gpus("n1", 8)
	inv.Devices[3].Health = placement.DeviceCordoned
	inv.Devices[3].Causes = []placement.Cause{{Code: "xid-95", Health: placement.DeviceCordoned, Action: placement.ActionResetGPU, First: seen, Last: seen, Count: 2}}
	f.ok(ReportInventory{Node: "n1", Inventory: inv})
	f.refused("device.unknown", ClearDevice{Node: "n1", Device: "n2-gpu0"})
	f.refused("node.unknown", ClearDevice{Node: "n9", Device: "n1-gpu3"})
	f.refused("device.reason", ClearDevice{Node: "n1", Device: "n1-gpu3", Reason: string(make([]byte, 1025))})

	for range 3 {
		f.now = f.now.Add(time.Minute)
		f.ok(ClearDevice{Node: "n1", Device: "n1-gpu3", Reason: "reset"})
	}
	n := f.s.Node("n1")
	if len(n.Cleared) != 1 || n.Cleared[0].UUID != "n1-gpu3" || !n.Cleared[0].At.Equal(f.s.Clock) || n.Cleared[0].Reason != "reset" {
		t.Fatalf("kept is %+v", n.Cleared)
	}
	if c := n.Cleared[0].Causes; len(c) != 1 || c[0].Code != "xid-95" || !c[0].Last.Equal(seen) {
		t.Errorf("the operator saw %+v", c)
	}
	if n.Inventory.Devices[3].Health != placement.DeviceCordoned {
		t.Error("the clear itself changed the health: only the node's word may")
	}
	// A later report of the node does not undo the operator's word.
	inv.Version++
	f.ok(ReportInventory{Node: "n1", Inventory: inv})
	if len(f.s.Node("n1").Cleared) != 1 {
		t.Error("a report took the clear away")
	}
}

func TestReportsOfDevicesThatCannotBeAreRefused(t *testing.T) {
	f := newFixture(t)
	for name, change := range map[string]func(*placement.Device){
		"an escape sequence": func(d *placement.Device) { d.Island = "a\x1b[2J" },
		"an endless text":    func(d *placement.Device) { d.Fabric = fmt.Sprintf("%200d", 1) },
		"too many causes":    func(d *placement.Device) { d.Causes = make([]placement.Cause, placement.MaxDeviceCause+1) },
		"its own parent":     func(d *placement.Device) { d.Parent = d.UUID },
	} {
		inv := f.s.Node("n1").Inventory
		inv.Version++
		inv.Devices = gpus("n1", 8)
		change(&inv.Devices[0])
		if r := f.apply(ReportInventory{Node: "n1", Inventory: inv}); r.Refused == nil || r.Refused.Code != "node.inventory" {
			t.Errorf("%s: %+v", name, r.Refused)
		}
	}
}

func TestAGPUThatIsCutIsNotGivenAwayWhole(t *testing.T) {
	f := newFixture(t)
	inv := f.s.Node("n1").Inventory
	inv.Version++
	inv.Devices = gpus("n1", 1)
	inv.Devices[0].Partitioned = true
	f.ok(ReportInventory{Node: "n1", Inventory: inv})
	id := f.submit(1, "EU", func(j *placement.Job) { j.Spec.Resources.GPUs = 1 })
	a := f.assignment(id, "n1")
	a.Devices = []string{"n1-gpu0"}
	f.refused("capacity.devices", Assign{Assignments: []placement.Assignment{a}})
}
