package state

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// The kinds of what auditors and data subjects ask for.
const (
	KindEraseOpenings Kind = "audit.erase"
	KindRecordRead    Kind = "audit.read"
)

// EraseOpenings erases what leaves about one job commit to, on every replica:
// names, commands, environments, reasons. The leaves stay, and so does every
// proof of them. Of a job that is known, the record loses the same.
type EraseOpenings struct {
	Job placement.JobID `json:"job"`
	// Leaves are positions in the log, rising.
	Leaves []uint64 `json:"leaves"`
}

// RecordRead records that an auditor read what only auditors may.
type RecordRead struct {
	What  string `json:"what"`  // export, entries or receipts
	Count int    `json:"count"` // such reads since the last record of them
}

// Kind names the command.
func (EraseOpenings) Kind() Kind { return KindEraseOpenings }
func (RecordRead) Kind() Kind    { return KindRecordRead }

// Erasure is a set of leaves whose openings no replica may hold any more. It is
// kept for ever, so that a replica that was away, or restores a backup, erases
// them when it is back.
type Erasure struct {
	Seq uint64          `json:"seq"`
	Job placement.JobID `json:"job"` // whose output its nodes erase
	// Log is which of the region's logs the leaves are of: 0, and one more after
	// each recovery.
	Log    int      `json:"log,omitempty"`
	Leaves []uint64 `json:"leaves,omitempty"`
	// Index is raft's, of the command: what raft keeps up to it may hold what was
	// erased.
	Index uint64 `json:"index,omitempty"`
}

// MaxErase is how many leaves one command erases.
const MaxErase = 512

// Erasures are those after a sequence number, oldest first. They count from 1.
func (v *View) Erasures(after uint64) (out []Erasure) {
	v.erasures.ascend(seqKey(after+1), func(_ string, e *Erasure) bool {
		out = append(out, *e)
		return true
	})
	return out
}

func auditReader(k Kind) func([]byte) (Command, error) {
	switch k {
	case KindEraseOpenings:
		return read[EraseOpenings]
	case KindRecordRead:
		return read[RecordRead]
	}
	return noteReader(k)
}

func (s *State) eraseOpenings(c *call, k EraseOpenings) *Refused {
	c.subject = opaqueJob(k.Job)
	old, known := s.jobs.get(string(k.Job))
	rising := slices.IsSorted(k.Leaves) && len(slices.Compact(slices.Clone(k.Leaves))) == len(k.Leaves)
	switch {
	case !k.Job.Valid():
		return refuse("job.unknown", "give the whole id", "%q is no job id", clip(string(k.Job)))
	case known && !old.Status.Terminal():
		return refuse("job.alive", "stop it first: sovmesh job stop "+string(k.Job), "job %s is not over: what it runs with is still needed", k.Job)
	case len(k.Leaves) == 0 || len(k.Leaves) > MaxErase || !rising:
		return refuse("audit.leaves", "name 1 to 512 leaves, rising", "%d leaves cannot be erased at once", len(k.Leaves))
	case k.Leaves[len(k.Leaves)-1] >= s.tree.Size():
		return refuse("audit.leaves", "name leaves of this log", "leaf %d is none of the log", k.Leaves[len(k.Leaves)-1])
	}
	seq := uint64(s.erasures.len()) + 1
	s.erasures.put(seqKey(seq), &Erasure{Seq: seq, Job: k.Job, Log: s.Restarts, Leaves: k.Leaves, Index: c.index})
	c.show(ledger.ShownErased, leavesText(k.Leaves))
	c.id = string(k.Job)
	if known {
		s.forgetJob(c, old)
	}
	return nil
}

// forgetJob takes from the records of a job and its tasks what people typed and
// what programs said.
func (s *State) forgetJob(c *call, old *jobRecord) {
	for _, t := range s.TasksOf(old.ID) {
		if was, ok := s.tasks.get(string(t.ID)); ok {
			next := *was
			next.Reason, next.StopReason, next.Notes = "", "", nil
			s.tasks.put(string(t.ID), &next)
		}
	}
	r := *old
	r.Name, r.Reason, r.StopReason = "", "", ""
	r.Spec = placement.JobSpec{Kind: old.Spec.Kind, Type: old.Spec.Type, Resources: old.Spec.Resources, Priority: old.Spec.Priority, Evidence: old.Spec.Evidence,
		Preemptible: old.Spec.Preemptible, Members: old.Spec.Members, Spread: old.Spec.Spread, MaxRuntime: old.Spec.MaxRuntime}
	if f := old.Forward; f != nil {
		next := *f
		next.Refusals = nil
		r.Forward = &next
	}
	s.putJob(c, &r)
}

// leavesText is "12 15 19".
func leavesText(leaves []uint64) string {
	words := make([]string, len(leaves))
	for i, l := range leaves {
		words[i] = strconv.FormatUint(l, 10)
	}
	return strings.Join(words, " ")
}

func (s *State) recordRead(c *call, k RecordRead) *Refused {
	if !slices.Contains([]string{"export", "entries", "receipts"}, k.What) || k.Count < 1 {
		return refuse("audit.read", "say export, entries or receipts, and how many", "%q is nothing that auditors read", clip(k.What))
	}
	c.subject = string(s.self.ID)
	c.show(ledger.ShownRead, k.What)
	c.show(ledger.ShownCount, strconv.Itoa(k.Count))
	return nil
}
