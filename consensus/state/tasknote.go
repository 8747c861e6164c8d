package state

import (
	"slices"
	"strconv"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// KindNoteTasks is the kind of [NoteTasks].
const KindNoteTasks Kind = "task.note"

// NoteTasks keeps what was seen of tasks, or done to them, beside where they
// stand. Its leaf says in clear of which jobs, what kind and about what; the
// words are under the leaf's commitment, as people and programs wrote them.
type NoteTasks struct {
	// Node runs the tasks and tells; empty when a person's access is noted.
	Node  placement.NodeID     `json:"node,omitempty"`
	Notes []placement.TaskNote `json:"notes"`
}

// Kind names the command.
func (NoteTasks) Kind() Kind { return KindNoteTasks }

func noteReader(k Kind) func([]byte) (Command, error) {
	switch k {
	case KindNoteTasks:
		return read[NoteTasks]
	case KindMoveTask:
		return read[MoveTask]
	}
	return nil
}

// noteTasks keeps all of the notes or none.
func (s *State) noteTasks(c *call, k NoteTasks) *Refused {
	if k.Node != "" {
		c.subject = ledger.Opaque(c.head.Salt, string(k.Node))
	}
	if len(k.Notes) == 0 || len(k.Notes) > placement.MaxNotes {
		return refuse("task.notes", "send 1 to 64 at once", "%d notes in one command are not possible", len(k.Notes))
	}
	for i := range k.Notes {
		if refused := s.checkNote(k.Node, &k.Notes[i]); refused != nil {
			return refused
		}
	}
	for _, n := range k.Notes {
		old, ok := s.tasks.get(string(n.Task))
		if !ok {
			continue
		}
		n.At = stamp(n.At, c.now)
		next := *old
		next.Notes = placement.WithNote(old.Notes, n)
		s.tasks.put(string(n.Task), &next)
		s.noteNoted(old.Job)
		text := opaqueJob(old.Job) + " " + string(n.What) + " " + n.Subject
		if n.Count > 0 {
			text += " " + strconv.FormatUint(n.Count, 10)
		}
		c.show(ledger.ShownNote, text)
		if n.Digest != "" {
			c.show(ledger.ShownDigest, n.Digest)
		}
	}
	return nil
}

// checkNote judges one note. Of a task that is forgotten there is nothing to
// keep, and nobody to blame.
func (s *State) checkNote(node placement.NodeID, n *placement.TaskNote) *Refused {
	t, known := s.tasks.get(string(n.Task))
	switch {
	case !slices.Contains(n.What.Subjects(), n.Subject):
		return refuse("task.note", "use a word of the list", "%q about %q is no note of a task", clip(string(n.What)), clip(n.Subject))
	case len(n.Text) > placement.MaxNoteText:
		return refuse("task.note", "shorten it", "a note of task %s has more than %d bytes", clip(string(n.Task)), placement.MaxNoteText)
	case !validDigest(n.Digest):
		return refuse("task.note", "write 64 lower-case hexadecimal digits", "%q is no SHA-256", clip(n.Digest))
	case n.What == placement.NoteAccess != (node == ""):
		return refuse("task.note", "a node notes what it sees, a person's access is noted in the person's name", "%s is not for this actor to note", n.What)
	case known && node != "" && t.Node != node:
		return refuse("task.foreign", "a node speaks for its own tasks only", "node %s notes something of task %s, which is not its own", node, t.ID)
	}
	return nil
}
