package state

import (
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

func TestWhatIsNotedOfATaskIsALeafWithoutItsWords(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU")
	task := f.assign(id, "n1")
	drift := placement.TaskNote{Task: task, What: placement.NoteDrift, Subject: "packages", Text: "cowsay 3.03 was not declared", Count: 1, At: f.now}
	leaf := f.applyAs("node:n1", NoteTasks{Node: "n1", Notes: []placement.TaskNote{drift}})
	if got, want := leaf.Get(ledger.ShownNote), string(id)+" drift packages 1"; got != want {
		t.Errorf("the leaf notes %q, want %q", got, want)
	}
	entry, err := leaf.Encode()
	if err != nil || strings.Contains(string(entry), "cowsay") {
		t.Errorf("the leaf holds the words of a note: %s, %v", entry, err)
	}
	if notes := f.s.Task(task).Notes; len(notes) != 1 || notes[0].Text != drift.Text {
		t.Errorf("the task keeps %+v", notes)
	}
	access := placement.TaskNote{Task: task, What: placement.NoteAccess, Subject: "exec"}
	f.ok(NoteTasks{Notes: []placement.TaskNote{access}})
	if at := f.s.NoteLeaves(id); len(at) != 2 {
		t.Errorf("the job has notes at the leaves %v", at)
	}
}

func TestNotesSayOnlyWhatTheirActorMay(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	task := f.assign(f.submit(1, "EU"), "n1")
	one := func(n placement.TaskNote) []placement.TaskNote {
		n.Task = task
		return []placement.TaskNote{n}
	}
	denied := placement.TaskNote{What: placement.NoteDenied, Subject: "network"}
	access := placement.TaskNote{What: placement.NoteAccess, Subject: "exec"}
	f.refused("task.foreign", NoteTasks{Node: "n2", Notes: one(denied)})
	f.refused("task.note", NoteTasks{Node: "n1", Notes: one(access)})
	f.refused("task.note", NoteTasks{Notes: one(denied)})
	f.refused("task.note", NoteTasks{Node: "n1", Notes: one(placement.TaskNote{What: placement.NoteDenied, Subject: "a name"})})
	f.refused("task.note", NoteTasks{Node: "n1", Notes: one(placement.TaskNote{What: "gossip", Subject: "network"})})
	f.refused("task.note", NoteTasks{Node: "n1", Notes: one(placement.TaskNote{What: placement.NoteDenied, Subject: "network", Digest: "xyz"})})
	f.refused("task.note", NoteTasks{Node: "n1", Notes: one(placement.TaskNote{What: placement.NoteDenied, Subject: "network", Text: strings.Repeat("x", placement.MaxNoteText+1)})})
	f.refused("task.notes", NoteTasks{Node: "n1"})
	f.refused("task.notes", NoteTasks{Node: "n1", Notes: make([]placement.TaskNote, placement.MaxNotes+1)})
	if notes := f.s.Task(task).Notes; len(notes) != 0 {
		t.Errorf("kept of refused notes: %+v", notes)
	}
}

// A workload that knocks at every door makes leaves without end; where it was
// placed stays found.
func TestNotesPushNoOtherLeafOut(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU")
	task := f.assign(id, "n1")
	before := len(f.s.JobLeaves(id))
	for range 2 * MaxJobLeaves {
		f.ok(NoteTasks{Node: "n1", Notes: []placement.TaskNote{{Task: task, What: placement.NoteDenied, Subject: "network", Text: "192.0.2.1:443/tcp"}}})
	}
	if got := len(f.s.JobLeaves(id)); got != before {
		t.Errorf("%d leaves of its placement, were %d", got, before)
	}
	if got := len(f.s.NoteLeaves(id)); got != MaxJobLeaves {
		t.Errorf("%d leaves of notes are remembered", got)
	}
}

func TestAnErasureTakesTheNotes(t *testing.T) {
	f := newFixture(t)
	id := f.submit(1, "EU")
	task := f.assign(id, "n1")
	f.ok(NoteTasks{Node: "n1", Notes: []placement.TaskNote{{Task: task, What: placement.NoteDrift, Subject: "packages", Text: "a person's name"}}})
	f.report(task, placement.TaskRunning)
	f.report(task, placement.TaskComplete)
	f.ok(EraseOpenings{Job: id, Leaves: f.s.NoteLeaves(id)})
	if notes := f.s.Task(task).Notes; len(notes) != 0 {
		t.Errorf("after the erasure the task has %+v", notes)
	}
}
