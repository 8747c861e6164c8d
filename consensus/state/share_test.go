package state

import (
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

// A leader that plans badly cannot give away more of a device than there is, nor
// a part of one that is held whole, nor the whole of one that is held in part.
func TestSharesOfADevice(t *testing.T) {
	f := newFixture(t)
	share := func(n int, m placement.MilliGPU) placement.JobID {
		return f.submit(n, "EU", func(j *placement.Job) { j.Spec.Resources.GPUs, j.Spec.Resources.GPUShare = 1, m })
	}
	on := func(id placement.JobID, device string) Assign {
		a := f.assignment(id, "n1")
		a.Devices = []string{device}
		return Assign{Assignments: []placement.Assignment{a}}
	}
	big, small, whole := share(1, 600), share(2, 400), f.submit(3, "EU", func(j *placement.Job) { j.Spec.Resources.GPUs = 1 })
	f.ok(on(big, "n1-gpu0"))
	f.refused("capacity.devices", on(share(4, 500), "n1-gpu0"))
	f.refused("capacity.devices", on(whole, "n1-gpu0"))
	f.ok(on(small, "n1-gpu0"))
	f.refused("capacity.devices", on(share(5, 1), "n1-gpu0"))
	f.ok(on(whole, "n1-gpu1"))
	f.refused("capacity.devices", on(share(6, 1), "n1-gpu1"))

	used := f.s.Node("n1").Used
	if used.Idle("n1-gpu0") != 0 || used.Idle("n1-gpu1") != 0 || len(f.s.Node("n1").FreeDevices()) != 6 {
		t.Errorf("used %+v", used)
	}
	f.report(big.Task(0, 1), placement.TaskComplete)
	used = f.s.Node("n1").Used
	if used.Idle("n1-gpu0") != 600 {
		t.Errorf("the share of the ended task is not free again: %+v", used)
	}
	f.report(small.Task(0, 1), placement.TaskComplete)
	if used := f.s.Node("n1").Used; used.Shares != nil || used.Idle("n1-gpu0") != placement.WholeGPU {
		t.Errorf("the device is not idle again: %+v", used)
	}
}

func TestImpossibleSharesAreRefused(t *testing.T) {
	f := newFixture(t)
	for _, r := range []placement.Resources{{GPUs: 2, GPUShare: 300}, {GPUs: 1, GPUShare: 1000}, {GPUShare: 300}, {GPUs: 1, GPUShare: 300, GPUProfile: "1g.10gb"}} {
		j := aJob(1, "EU")
		j.Spec.Resources = r
		f.refused("job.resources", SubmitJob{Job: j})
	}
}
