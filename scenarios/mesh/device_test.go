package mesh

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// device is a device of ber-1 as the region knows it.
func (m *Mesh) device(name placement.NodeID, i int) placement.Device {
	n := m.host("ber-1", m.Leader("ber-1")).node.View().Node(name)
	uuid := fmt.Sprintf("sim-ber-1-%s-%d", name, i)
	j := slices.IndexFunc(n.Inventory.Devices, func(d placement.Device) bool { return d.UUID == uuid })
	if j < 0 {
		return placement.Device{}
	}
	return n.Inventory.Devices[j]
}

// healthy gives a condition on a device's health and the codes of its causes.
func (m *Mesh) health(name placement.NodeID, i int, want string) func() bool {
	return func() bool {
		d := m.device(name, i)
		got := string(d.Health)
		for _, c := range d.Causes {
			got += " " + c.Code
		}
		return got == want
	}
}

// tasks are the job's tasks as its region has them.
func (m *Mesh) tasks(j *Job) []*placement.Task {
	return m.host("ber-1", m.Leader("ber-1")).node.View().TasksOf(j.ID)
}

// inGermany has three nodes of two devices in ber-1, and regions beside it.
func inGermany(t *testing.T) *Mesh {
	de := Region("ber-1", "DE", 3)
	de.GPUs = []placement.Device{h200, h200}
	us := Region("iad-1", "US", 1)
	us.GPUs = []placement.Device{h200, h200}
	return New(t, de, us)
}

func TestAJobWhoseDeviceFallsOffTheBusGoesOnElsewhereInItsTag(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := inGermany(t)
		job := m.At("ber-1").Submit(`{"kind":"fake","type":"service","residency":"DE","command":["sleep"],"resources":{"gpus":1},"restart":{"policy":"on-failure","attempts":3}}`)
		m.Within(10*time.Second, "it runs", job.Is(placement.JobRunning))
		first := m.tasks(job)[0]
		var device int
		if _, err := fmt.Sscanf(first.Devices[0], "sim-ber-1-"+string(first.Node)+"-%d", &device); err != nil {
			t.Fatal(err)
		}
		told := time.Now()
		m.XID("ber-1", first.Node, device, 79)
		m.Within(3*time.Second, "the region knows within seconds", m.health(first.Node, device, "lost xid-79"))
		t.Logf("a fault is in the ledger %s after it happened", time.Since(told))
		m.Within(3*time.Second, "its neighbour is closed too", m.health(first.Node, 1-device, "cordoned node-xid-79"))
		m.Within(20*time.Second, "the job runs on another node", func() bool {
			now := m.tasks(job)
			last := now[len(now)-1]
			return last.Status == placement.TaskRunning && last.Node != first.Node
		})
		if old := m.tasks(job)[0]; old.Status != placement.TaskFailed || !strings.Contains(old.Reason, "XID 79") {
			t.Errorf("the first task is %s: %s", old.Status, old.Reason)
		}
		if now := job.Now(); now.Region != "" && now.Region != "ber-1" {
			t.Errorf("it went to %s", now.Region)
		}
		m.CheckInvariants()
	})
}

func TestAClearHoldsUntilSomethingNewHappens(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := inGermany(t)
		m.XID("ber-1", "n2", 1, 95)
		m.Within(5*time.Second, "the device is cordoned", m.health("n2", 1, "cordoned xid-95"))
		m.Kill("ber-1", "n2")
		m.Restart("ber-1", "n2")
		m.host("ber-1", "n2").waitReady()
		m.Within(5*time.Second, "its health survives its agent", m.health("n2", 1, "cordoned xid-95"))

		page, err := m.AtNode("ber-1", "n1").ClearGPU(t.Context(), "n2", "sim-ber-1-n2-1", api.ClearDeviceRequest{Reason: "reset by hand"})
		m.must(err)
		if len(page.Items) != 1 || page.Items[0].Cleared == nil || page.Items[0].Cleared.Reason != "reset by hand" {
			t.Errorf("answer %+v", page.Items)
		}
		m.Within(5*time.Second, "the node heeds it", m.health("n2", 1, "ok"))
		m.Kill("ber-1", "n2")
		m.Restart("ber-1", "n2")
		m.host("ber-1", "n2").waitReady()
		time.Sleep(5 * time.Second)
		if !m.health("n2", 1, "ok")() {
			t.Errorf("after a restart it is %+v", m.device("n2", 1))
		}
		m.XID("ber-1", "n2", 1, 95)
		m.Within(5*time.Second, "a new fault counts", m.health("n2", 1, "cordoned xid-95"))
		m.CheckInvariants()
	})
}

func TestFaultsOfProgramsAreToldToTheirOwners(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := inGermany(t)
		job := m.At("ber-1").Submit(`{"kind":"fake","residency":"DE","command":["run","8s","3"],"resources":{"gpus":1}}`)
		m.Within(10*time.Second, "it runs", job.Is(placement.JobRunning))
		task := m.tasks(job)[0]
		device := int(task.Devices[0][len(task.Devices[0])-1] - '0')
		m.XID("ber-1", task.Node, device, 31)
		m.Within(5*time.Second, "the device stays open", m.health(task.Node, device, "ok xid-31"))
		m.Within(30*time.Second, "the job ends", func() bool { return job.Now().Status.Terminal() })
		if reason := m.tasks(job)[0].Reason; !strings.Contains(reason, "xid-31") {
			t.Errorf("its owner reads %q", reason)
		}
		m.CheckInvariants()
	})
}

func TestDevicesThatCannotBeSeenAreUnknownNotGone(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := inGermany(t)
		job := m.At("ber-1").Submit(`{"kind":"fake","type":"service","residency":"DE","command":["sleep"],"resources":{"gpus":1}}`)
		m.Within(10*time.Second, "it runs", job.Is(placement.JobRunning))
		task := m.tasks(job)[0]
		g := m.host("ber-1", task.Node).gpus()
		g.told <- gpu.Update{Down: "the GPU driver did not answer within 10s"}
		m.Within(5*time.Second, "the region knows", m.health(task.Node, 0, "lost driver"))
		time.Sleep(10 * time.Second)
		if now := m.tasks(job); len(now) != 1 || now[0].Status != placement.TaskRunning {
			t.Errorf("the driver's silence ended the task: %+v", now)
		}
		version := m.host("ber-1", "n1").node.View().Node(task.Node).Inventory.Version
		r, err := g.Read(t.Context())
		m.must(err)
		for range 20 { // a reading that says nothing new is no news for the ledger
			g.told <- gpu.Update{Reading: &r}
			time.Sleep(time.Second)
		}
		if !m.health(task.Node, 0, "ok")() {
			t.Errorf("seen again it is %+v", m.device(task.Node, 0))
		}
		if now := m.host("ber-1", "n1").node.View().Node(task.Node).Inventory.Version; now <= version || now > version+60 {
			t.Errorf("version %d after %d", now, version)
		}
		m.CheckInvariants()
	})
}

func TestADeviceThatLiesIsDroppedAndTheNodeGoesOn(t *testing.T) {
	Run(t, func(t *testing.T) {
		de := Region("ber-1", "DE", 1)
		liar := h200
		liar.Memory = -5
		de.GPUs = []placement.Device{h200, liar, h200}
		m := New(t, de)
		if got := len(m.host("ber-1", "n1").node.View().Node("n1").Inventory.Devices); got != 2 {
			t.Errorf("%d devices, want the two that do not lie", got)
		}
		job := m.At("ber-1").Submit(`{"kind":"fake","residency":"DE","command":["run","1s"],"resources":{"gpus":2}}`)
		m.Within(10*time.Second, "it runs on the others", job.Exited(0))
	})
}

// What a node has may be more than a gossip record holds: that is no reason to
// keep the node from starting, or its devices from the ledger.
func TestANodeOfManyDevicesStarts(t *testing.T) {
	Run(t, func(t *testing.T) {
		de := Region("ber-1", "DE", 1)
		de.GPUs = slices.Repeat([]placement.Device{h200}, gpu.MaxDevices)
		m := New(t, de)
		node := m.Leader("ber-1")
		m.Within(20*time.Second, "the region knows all of them", func() bool {
			return len(m.host("ber-1", node).node.View().Node(node).Inventory.Devices) == gpu.MaxDevices
		})
		job := m.At("ber-1").Submit(`{"kind":"fake","residency":"DE","command":["sleep"],"resources":{"gpus":9}}`)
		m.Within(20*time.Second, "it runs", job.Is(placement.JobRunning))
		m.CheckInvariants()
	})
}
