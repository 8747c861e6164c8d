package scheduler

import (
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// Flying is an assignment that was proposed and that no snapshot shows yet: it is
// being committed, or is about to be refused.
type Flying struct {
	placement.Assignment
	Spec *placement.Job // what it was planned from
	// Kept: its room was held for it before (placement.Snapshot.Held), so that its
	// node counts it as used already.
	Kept bool
}

// Assume is the snapshot with what is in flight counted as if it were true: its
// jobs want nothing more, and the room, the tenants' bounds and the neighbours
// are what they will be. A plan made from it gives nothing away twice and waits
// for no commit; what is refused in the end is left out of the next one, and its
// room is free again. Only first starts and restarts of jobs may be in flight: the
// plan's other decisions are waited for.
func Assume(s placement.Snapshot, flying []Flying) placement.Snapshot {
	if len(flying) == 0 {
		return s
	}
	given := make(map[placement.JobID]bool, len(flying))
	s.Nodes = slices.Clone(s.Nodes)
	fresh := make(map[int]bool, len(flying))
	for i := range flying {
		f := &flying[i]
		given[f.Job] = true
		at, found := nodeAt(s.Nodes, f.Node)
		if !found {
			continue // its node is gone: it is about to be refused
		}
		if !fresh[at] {
			fresh[at] = true
			s.Nodes[at] = new(*s.Nodes[at])
		}
		n := s.Nodes[at]
		if !f.Kept {
			n.Used = n.Used.With(f.Spec.Spec.Resources, f.Devices, 1)
		}
		n.Used.Tasks++
	}
	s.Wanted = slices.DeleteFunc(slices.Clone(s.Wanted), func(j *placement.Job) bool { return given[j.ID] })
	s.Share = shareWith(s, flying)
	s.Apart = apartFrom(s, flying)
	return s
}

// nodeAt finds a node in a list that is sorted by name.
func nodeAt(nodes []*placement.Node, id placement.NodeID) (int, bool) {
	return slices.BinarySearchFunc(nodes, id, func(n *placement.Node, id placement.NodeID) int { return strings.Compare(string(n.ID), string(id)) })
}

// shareWith counts what is in flight as held by its tenant.
func shareWith(s placement.Snapshot, flying []Flying) func(placement.TenantID) placement.TenantShare {
	held := s.Share
	if held == nil {
		held = func(placement.TenantID) placement.TenantShare { return placement.TenantShare{Weight: 1} }
	}
	return func(id placement.TenantID) placement.TenantShare {
		share := held(id)
		share.Bounds = slices.Clone(share.Bounds)
		for i := range flying {
			f := &flying[i]
			at, found := nodeAt(s.Nodes, f.Node)
			if !found {
				continue
			}
			if f.Spec.Tenant == id {
				share.GPUs += int64(f.Spec.Spec.Resources.Weight()) * int64(len(f.Devices))
				share.CPU += f.Spec.Spec.Resources.CPU
				share.Memory += f.Spec.Spec.Resources.Memory
			}
			for b := range share.Bounds {
				if b := &share.Bounds[b]; b.Binds(f.Spec.Tenant) {
					b.Held += takes(b, f, s.Nodes[at])
				}
			}
		}
		return share
	}
}

// takes is what an assignment takes of a bound's class, in thousandths.
func takes(b *placement.Bound, f *Flying, n *placement.Node) (sum int64) {
	if b.Class == placement.ClassCPUs {
		return int64(f.Spec.Spec.Resources.CPU)
	}
	for _, id := range f.Devices {
		if b.Of(modelOf(n, id)) {
			sum += int64(f.Spec.Spec.Resources.PerDevice())
		}
	}
	return sum
}

// apartFrom adds the nodes that what is in flight closes to those that avoid it,
// or that it avoids.
func apartFrom(s placement.Snapshot, flying []Flying) func(*placement.Job) []placement.NodeID {
	shown := s.Apart
	if shown == nil && !slices.ContainsFunc(flying, func(f Flying) bool { return len(f.Spec.Spec.Avoid) > 0 }) {
		return nil
	}
	return func(j *placement.Job) (out []placement.NodeID) {
		if shown != nil {
			out = slices.Clone(shown(j))
		}
		for i := range flying {
			if f := &flying[i]; avoids(j, f.Spec) || avoids(f.Spec, j) {
				out = append(out, f.Node)
			}
		}
		return out
	}
}

// avoids reports whether a job must not stand beside another of its tenant.
func avoids(j, other *placement.Job) bool {
	return j.Tenant == other.Tenant && j.ID != other.ID && other.Name != "" && slices.Contains(j.Spec.Avoid, other.Name)
}
