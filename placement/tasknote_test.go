package placement

import (
	"fmt"
	"testing"
)

func TestNotesOfATaskAreBoundedAndSayTheNewest(t *testing.T) {
	var notes []TaskNote
	for i := range 3 * MaxTaskNotes {
		notes = WithNote(notes, TaskNote{What: NoteDenied, Subject: "network", Text: fmt.Sprint(i % (2 * MaxTaskNotes)), Count: uint64(i)})
	}
	if len(notes) != MaxTaskNotes || notes[MaxTaskNotes-1].Count != 3*MaxTaskNotes-1 {
		t.Errorf("%d notes, the newest %+v", len(notes), notes[len(notes)-1])
	}
	seen := []TaskNote{{What: NoteAccess, Subject: "exec"}}
	for i := range 2 * MaxTaskNotes {
		seen = WithNote(seen, TaskNote{What: NoteDenied, Subject: "network", Text: fmt.Sprint(i)})
	}
	if len(seen) != MaxTaskNotes || seen[0].What != NoteAccess {
		t.Errorf("a workload pushed out who reached into it: %+v", seen[0])
	}
	before := WithNote(nil, TaskNote{What: NoteDrift, Subject: "packages", Count: 1})
	after := WithNote(before, TaskNote{What: NoteResolved, Subject: "packages"})
	after = WithNote(after, TaskNote{What: NoteDrift, Subject: "image"})
	if len(before) != 1 || before[0].What != NoteDrift {
		t.Errorf("what others hold was changed: %+v", before)
	}
	if len(after) != 2 || after[0].What != NoteResolved || after[1].Subject != "image" {
		t.Errorf("drift that is over: %+v", after)
	}
	for range 2 {
		after = WithNote(after, TaskNote{What: NoteAccess, Subject: "exec", Text: "the same"})
	}
	if len(after) != 4 {
		t.Errorf("two accesses are kept as %d notes in all", len(after))
	}
}
