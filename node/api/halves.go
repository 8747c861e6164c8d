package api

import (
	"errors"
	"net/http"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// A crossing is recorded twice: home's ledger and that of the region that took
// the job each have a leaf, and each leaf quotes the other's position and hash.
// Neither region can later deny or change its half without the other's leaf
// saying so.

// leafRef names a leaf of this region by its hash, read from the store; it is
// zero where that cannot be read, and a crossing is never held up by it.
func (s *Server) leafRef(index uint64) state.LeafRef {
	files, err := s.ledgerFiles()
	if err != nil {
		return state.LeafRef{}
	}
	entry, err := files.Entry(index)
	if err != nil {
		return state.LeafRef{}
	}
	return state.LeafRef{Index: index, Hash: ledger.HashLeaf(entry)}
}

// leafOf names the leaf of a command. That of a repeated one is in the store.
func (s *Server) leafOf(res state.Result) state.LeafRef {
	if res.LeafHash != (ledger.Hash{}) {
		return state.LeafRef{Index: res.Leaf, Hash: res.LeafHash}
	}
	if res.Index == 0 {
		return state.LeafRef{}
	}
	return s.leafRef(res.Leaf)
}

// jobLeaf names the newest leaf about a job.
func (s *Server) jobLeaf(v *state.View, job placement.JobID) state.LeafRef {
	leaves := v.JobLeaves(job)
	if len(leaves) == 0 {
		return state.LeafRef{}
	}
	return s.leafRef(leaves[len(leaves)-1])
}

// outcomeAbroad is the scheduler's answer in words of a closed list: how many
// nodes this region has, what they are called and what they lack does not cross
// the border.
func outcomeAbroad(here placement.RegionID, outcome scheduler.Outcome) (reason, hint string) {
	region := "region " + string(here)
	switch outcome {
	case scheduler.Fits:
		return "", ""
	case scheduler.Full:
		return "no room now", "wait, or ask for less"
	case scheduler.Impossible:
		return "no node of " + region + " could ever hold it, even empty", "ask for less, or widen the tag"
	case scheduler.Refused:
		return "no place in " + region + " satisfies its policy", "widen the tag, if that is lawful"
	}
	return region + " cannot decide it: a fact that the policy asks for is not known there", "widen the tag, if that is lawful"
}

// refusalAbroad is a refusal by the ledger in such words. Its code crosses as it is.
func refusalAbroad(here placement.RegionID, code string) (reason, hint string) {
	region := "region " + string(here)
	switch kind, _, _ := strings.Cut(code, "."); kind {
	case "capacity":
		return outcomeAbroad(here, scheduler.Full)
	case "residency", "tag":
		return outcomeAbroad(here, scheduler.Refused)
	case "law":
		return region + " does not hold the law pack that home decides by", "an administrator there imports it: sovmesh law import FILE"
	case "quota":
		return region + " holds as much for its peer as it may", "wait, or ask another region"
	case "queue":
		return "the queue of " + region + " is full", "wait, or ask another region"
	case "peer":
		return region + " does not know this region as an active peer", "federate again"
	}
	return region + " refused it (" + code + ")", "ask again, or another region"
}

// problem is what a caller is told of an error. Another region's node gets what
// the ledger, raft and this node's own parts said in words of the closed list:
// theirs may name nodes, tenants and people.
func (c *call) problem(err error) *Problem {
	p := problemOf(err)
	if c.caller == nil || c.caller.Kind != CallerForeign {
		return p
	}
	var own *Problem
	var refused *state.Refused
	var decision *residency.Refusal
	switch {
	case errors.As(err, &own), errors.As(err, &decision): // our words, and those of the law
	case errors.As(err, &refused):
		p.Detail, p.Advice = refusalAbroad(c.s.cfg.Region, refused.Code)
	case p.Status >= http.StatusInternalServerError:
		p.Detail, p.Advice = "region "+string(c.s.cfg.Region)+" cannot do it now", "ask again"
	}
	return p
}
