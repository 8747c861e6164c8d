package state

import (
	"encoding/hex"
	"slices"
	"strconv"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// LeafRef names one leaf of a region's log.
type LeafRef struct {
	Index uint64      `json:"index"`
	Hash  ledger.Hash `json:"hash"`
}

// IsZero reports whether it names none.
func (l LeafRef) IsZero() bool { return l == LeafRef{} }

// leafHash is RFC 6962's hash of a leaf.
func leafHash(entry []byte) ledger.Hash {
	return ledger.Hash(rfc6962.DefaultHasher.HashLeaf(entry))
}

// showPeerLeaf quotes the other half of a crossing.
func (c *call) showPeerLeaf(region placement.RegionID, l LeafRef) {
	if !l.IsZero() {
		c.show(ledger.ShownPeerLeaf, string(region)+" "+strconv.FormatUint(l.Index, 10)+" "+hex.EncodeToString(l.Hash[:]))
	}
}

// MaxJobLeaves is how many leaves a job remembers: its first, and the newest.
const MaxJobLeaves = 32

// noteLeaf remembers that the command under way, whose leaf is the next one, is
// about the job.
func (s *State) noteLeaf(r *jobRecord) {
	next := s.tree.Size()
	if n := len(r.Leaves); n > 0 && r.Leaves[n-1] == next {
		return
	}
	leaves := append(slices.Clone(r.Leaves), next)
	if len(leaves) > MaxJobLeaves {
		leaves = slices.Delete(leaves, 1, 2)
	}
	r.Leaves = leaves
}

// noteNoted remembers that the leaf of the command under way says something of a
// task of the job. Such leaves have a list of their own: a workload that knocks at
// every door shall not push out where it was placed.
func (s *State) noteNoted(id placement.JobID) {
	old, ok := s.jobs.get(string(id))
	if !ok {
		return
	}
	next := s.tree.Size()
	if n := len(old.Noted); n > 0 && old.Noted[n-1] == next {
		return
	}
	r := *old
	r.Noted = append(slices.Clone(old.Noted), next)
	r.Noted = r.Noted[max(0, len(r.Noted)-MaxJobLeaves):]
	s.jobs.put(string(id), &r)
}

// NoteLeaves are the positions of the leaves that say what was noted of a job's
// tasks, oldest first: the newest [MaxJobLeaves].
func (v *View) NoteLeaves(id placement.JobID) []uint64 {
	if r, ok := v.jobs.get(string(id)); ok {
		return r.Noted
	}
	return nil
}

// JobLeaves are the positions in the log of the leaves about a job, oldest
// first; the middle ones are left out of a long list.
func (v *View) JobLeaves(id placement.JobID) []uint64 {
	if r, ok := v.jobs.get(string(id)); ok {
		return r.Leaves
	}
	return nil
}

// forgetLeaves is for a log begun anew, in which no job has a leaf yet, and no
// grant that was consumed.
func (s *State) forgetLeaves() {
	for _, old := range s.jobs.values() {
		if len(old.Leaves)+len(old.Noted) > 0 {
			r := *old
			r.Leaves, r.Noted = nil, nil
			s.jobs.put(string(r.ID), &r)
		}
	}
	var used []string
	s.grants.ascend("", func(key string, g *Grant) bool {
		if g.Leaf > 0 {
			used = append(used, key)
		}
		return true
	})
	for _, key := range used {
		old, _ := s.grants.get(key)
		g := *old
		g.Leaf = 0
		s.grants.put(key, &g)
	}
}
