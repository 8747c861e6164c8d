package controller

import "github.com/sovmesh/sovmesh/placement"

// units are the assignments of a plan that belong together: all members of a
// gang, which stand beside each other, or one task. What is proposed together
// becomes true together or not at all.
func units(all []placement.Assignment) [][]placement.Assignment {
	var out [][]placement.Assignment
	for i, a := range all {
		member, _, _ := a.Task.Member()
		if last := len(out) - 1; i > 0 && member > 0 && all[i-1].Job == a.Job {
			out[last] = append(out[last], a)
			continue
		}
		out = append(out, []placement.Assignment{a})
	}
	return out
}
