package runner

import (
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// FailDevices ends the tasks that hold a device on which nothing can have gone
// on. broken says why, by UUID; it may be given again and again. The tasks have
// failed, not been stopped: whether their jobs start anew is for the jobs'
// restart policy, where is for the region.
func (r *Runner) FailDevices(broken map[string]string) {
	if len(broken) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tasks {
		if t.over() || t.stop != "" {
			continue
		}
		i := slices.IndexFunc(t.rec.Devices, func(uuid string) bool { return broken[uuid] != "" })
		if i < 0 {
			continue
		}
		t.order(broken[t.rec.Devices[i]], 0, false)
		t.broken = true
		r.log.Error("a task has lost its device", "task", t.rec.Task, "job", t.rec.Job, "device", t.rec.Devices[i])
	}
	r.notify()
	r.poke()
}

// NoteDevice keeps what a device told of with the tasks that hold it: it is
// shown with them on this node, and with their failure if they fail.
func (r *Runner) NoteDevice(uuid, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tasks {
		if !t.over() && slices.Contains(t.rec.Devices, uuid) {
			t.note = text
			if t.rec.Status == placement.TaskRunning {
				t.rec.Reason = text
			}
			r.notify()
		}
	}
}

// noted adds what the task's device told of to the reason of its failure.
func (r *Runner) noted(t *task, reason string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.note == "" {
		return reason
	}
	return reason + "; " + t.note
}

// stopStatus is how a task ends that was told to.
func (r *Runner) stopStatus(t *task) (placement.TaskStatus, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.broken {
		return placement.TaskFailed, t.stop
	}
	return placement.TaskStopped, t.stop
}
