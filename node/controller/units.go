package controller

import (
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// units are the assignments of a plan that belong together: all members of a
// gang, which stand beside each other, or one task. What is proposed together
// becomes true together or not at all.
func units(s placement.Snapshot, all []placement.Assignment) [][]scheduler.Flying {
	var out [][]scheduler.Flying
	for i, a := range all {
		hold, held := s.Held[a.Job]
		one := scheduler.Flying{Assignment: a, Spec: s.Jobs[a.Job], Kept: held && hold.Node == a.Node}
		member, _, _ := a.Task.Member()
		if last := len(out) - 1; i > 0 && member > 0 && all[i-1].Job == a.Job {
			out[last] = append(out[last], one)
			continue
		}
		out = append(out, []scheduler.Flying{one})
	}
	return out
}

// assign is the command that makes a unit true.
func assign(unit []scheduler.Flying) state.Assign {
	var cmd state.Assign
	for i := range unit {
		cmd.Assignments = append(cmd.Assignments, unit[i].Assignment)
	}
	return cmd
}
