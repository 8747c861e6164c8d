package placement

import (
	"slices"
	"time"
)

// TaskNote is something about a task that its region keeps for its owner and
// for auditors, beside where it stands: a difference between what was declared
// and what runs, traffic that was refused, a person who reached in.
type TaskNote struct {
	Task TaskID   `json:"task"`
	What NoteKind `json:"what"`
	// Subject is a word of the kind's own list, see [NoteKind.Subjects]; it is in
	// clear in the ledger, all else under a commitment.
	Subject string `json:"subject"`
	// Text says it in words, at most [MaxNoteText] bytes.
	Text string `json:"text,omitempty"`
	// Count is of what: packets refused, packages that differ.
	Count uint64 `json:"count,omitempty"`
	// Digest is the hex SHA-256 of what was taken: the list of a snapshot's parts, or
	// of a task's outputs.
	Digest string    `json:"digest,omitempty"`
	At     time.Time `json:"at"`
}

// NoteKind is what a note is about.
type NoteKind string

// The kinds. A node notes what it sees of its own tasks; access is noted in the
// name of the person.
const (
	NoteDrift    NoteKind = "drift"    // it differs from what was declared
	NoteResolved NoteKind = "resolved" // it differs no longer
	NoteDenied   NoteKind = "denied"   // it tried to reach what its job does not allow
	NoteSnapshot NoteKind = "snapshot" // its state was copied
	NoteAccess   NoteKind = "access"   // somebody reached into it
	NoteOutputs  NoteKind = "outputs"  // it ended and left files
)

// Bounds of notes: bytes of one text, notes that a task keeps (the newest), and
// notes in one command.
const (
	MaxNoteText  = 512
	MaxTaskNotes = 32
	MaxNotes     = 64
)

// Subjects are the words that a kind of note may be about; none for a kind that
// is not known.
func (k NoteKind) Subjects() []string {
	switch k {
	case NoteDrift, NoteResolved:
		return []string{"image", "devices", "cpu", "memory", "pids", "networks", "mounts", "disks", "packages", "services"}
	case NoteDenied:
		return []string{"network"}
	case NoteSnapshot:
		return []string{"forensic"}
	case NoteOutputs:
		return []string{"files"}
	case NoteAccess:
		return []string{"exec", "console", "connect", "pause", "resume", "snapshot"}
	}
	return nil
}

// WithNote adds a note to those of a task. One about the same thing replaces the
// earlier, and the oldest of its kind goes beyond [MaxTaskNotes]. The given slice stays as it is.
func WithNote(notes []TaskNote, n TaskNote) []TaskNote {
	out := make([]TaskNote, 0, min(len(notes)+1, MaxTaskNotes+1))
	for _, old := range notes {
		if !old.replacedBy(n) {
			out = append(out, old)
		}
	}
	out = append(out, n)
	if len(out) <= MaxTaskNotes {
		return out
	}
	// The oldest of its own kind goes: a workload that knocks at every door does not
	// push out who reached into it.
	same := func(old TaskNote) bool { return old.What == n.What }
	oldest := slices.IndexFunc(out, same)
	if oldest == len(out)-1 {
		oldest = 0 // it is the only one of its kind
	}
	return slices.Delete(out, oldest, oldest+1)
}

// replacedBy reports whether the newer note says all of the older: drift of a
// subject is as it was seen last, refusals count up, and each access is its own.
func (n TaskNote) replacedBy(newer TaskNote) bool {
	drift := func(k NoteKind) bool { return k == NoteDrift || k == NoteResolved }
	switch {
	case drift(n.What):
		return drift(newer.What) && n.Subject == newer.Subject
	case n.What == NoteDenied:
		return newer.What == NoteDenied && n.Text == newer.Text
	}
	return false
}
