package api

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Erasure is what was erased of a job. Every replica does it on its own disk, one
// that is away when it is back.
type Erasure struct {
	Job placement.JobID `json:"job"`
	// Leaves are those whose openings are gone; they and their proofs stay valid.
	Leaves []uint64 `json:"leaves"`
	// Remains says what this does not reach.
	Remains []string `json:"remains"`
}

// eraseOpenings erases what the leaves about a job commit to.
func eraseOpenings(s *Server, c *call) error {
	id := placement.JobID(c.r.URL.Query().Get("job"))
	if !id.Valid() {
		return &InputError{Code: CodeUsage, Message: quoteWord(string(id)) + " is no whole job id", Help: "name one: DELETE " + Prefix + "/audit/openings?job=ID"}
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	leaves, err := s.leavesAbout(v, id)
	if err != nil {
		return err
	}
	if len(leaves) == 0 {
		return newProblem(http.StatusNotFound, CodeNotFound, "the ledger has no leaf about job "+string(id), "list the jobs: sovmesh job list")
	}
	for part := range slices.Chunk(leaves, state.MaxErase) {
		if _, _, err := c.propose(state.EraseOpenings{Job: id, Leaves: part}, c.caller.Actor); err != nil {
			return err
		}
	}
	return c.writeJSON(http.StatusOK, Erasure{Job: id, Leaves: leaves, Remains: []string{
		"a node that is away: it erases what it has when it is back",
		"in a region that never pauses, the raft log's last file, until it is full and dropped",
		"what other regions hold of the job: each erases its own half",
		"receipts of inference requests, which hold no prompt and no answer, and what a log before a recovery of the region holds",
		"copies below or outside the store: backups, copy-on-write file systems, worn blocks of a disk",
	}})
}

// leavesAbout are all leaves about a job. Its record remembers the first and the
// newest; where some may be left out, or the record is gone, the log is read.
func (s *Server) leavesAbout(v *state.View, id placement.JobID) ([]uint64, error) {
	leaves, noted := v.JobLeaves(id), v.NoteLeaves(id)
	if len(leaves) > 0 && len(leaves) < state.MaxJobLeaves && len(noted) < state.MaxJobLeaves {
		all := slices.Concat(leaves, noted)
		slices.Sort(all)
		return slices.Compact(all), nil
	}
	files, err := s.ledgerFiles()
	if err != nil {
		return nil, err
	}
	from := uint64(0)
	if len(leaves) > 0 {
		from = leaves[0]
	}
	var out []uint64
	for index := from; index < v.LedgerSize(); index++ {
		entry, err := files.Entry(index)
		if err != nil {
			return nil, ledgerProblem(err)
		}
		leaf, err := ledger.Decode(entry)
		if err != nil {
			return nil, err
		}
		if leafIsAbout(leaf, string(id)) {
			out = append(out, index)
		}
	}
	return out, nil
}

func leafIsAbout(l *ledger.Leaf, id string) bool {
	if l.Subject == id || slices.ContainsFunc(l.Judged, func(j ledger.Judgement) bool { return j.Subject == id }) {
		return true
	}
	return slices.ContainsFunc(l.Shown, func(sh ledger.Shown) bool {
		return (sh.Name == ledger.ShownJob || sh.Name == ledger.ShownNote || sh.Name == ledger.ShownMove) && len(sh.Value) > len(id) && sh.Value[:len(id)+1] == id+" "
	})
}

// readsEvery is how often reads of one auditor are recorded: the first at once,
// those that follow together.
const readsEvery = time.Minute

// auditReads count what auditors read between two records of it.
type auditReads struct {
	mu   sync.Mutex
	last map[string]*readCount // by token and kind; guarded by mu
}

type readCount struct {
	at    time.Time
	count int
}

// due counts a read and gives how many are to be recorded now, 0 for none.
func (a *auditReads) due(key string, now time.Time) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil || len(a.last) > 4096 {
		a.last = map[string]*readCount{}
	}
	r := a.last[key]
	if r == nil {
		r = &readCount{}
		a.last[key] = r
	}
	r.count++
	if !r.at.IsZero() && now.Sub(r.at) < readsEvery && !now.Before(r.at) {
		return 0
	}
	n := r.count
	r.at, r.count = now, 0
	return n
}

// again takes a count back that could not be recorded.
func (a *auditReads) again(key string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.last[key]; r != nil {
		r.at, r.count = time.Time{}, r.count+n
	}
}

// recordRead records that an auditor reads what only auditors may, before it is
// given.
func (s *Server) recordRead(c *call, what string) error {
	key := c.caller.Actor + " " + what
	n := s.reads.due(key, s.now())
	if n == 0 {
		return nil
	}
	if _, _, err := c.propose(state.RecordRead{What: what, Count: n}, c.caller.Actor); err != nil {
		s.reads.again(key, n)
		return err
	}
	return nil
}
