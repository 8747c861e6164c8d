package state

import (
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// besideKey counts the live tasks on a node of jobs of one name ('n'), or of
// jobs that avoid that name ('a').
func besideKey(what byte, t placement.TenantID, name string, node placement.NodeID) string {
	return string(t) + "\x00" + string(what) + name + "\x00" + string(node)
}

// standBeside counts a live task for those that must not share its node.
func (s *State) standBeside(t *taskRecord, sign int) {
	r, ok := s.jobs.get(string(t.Job))
	if !ok {
		return
	}
	if r.Spec.Preemptible {
		s.yielding += sign
	}
	if r.Spec.MaxRuntime > 0 {
		s.timed += sign
	}
	if r.Name != "" {
		s.besideRow(besideKey('n', r.Tenant, r.Name, t.Node), sign)
	}
	for _, name := range r.Spec.Avoid {
		s.besideRow(besideKey('a', r.Tenant, name, t.Node), sign)
		s.avoiding += sign
	}
}

func (s *State) besideRow(key string, sign int) {
	n, _ := s.beside.get(key)
	if n += sign; n == 0 {
		s.beside.delete(key)
	} else {
		s.beside.put(key, n)
	}
}

// mayStand refuses a node that holds a job which this one avoids, or that avoids it.
func (s *State) mayStand(r *jobRecord, node placement.NodeID) *Refused {
	for _, name := range r.Spec.Avoid {
		if s.beside.has(besideKey('n', r.Tenant, name, node)) {
			return refuse("job.avoid", "plan again", "node %s holds a job that job %s avoids", node, r.ID)
		}
	}
	if r.Name != "" && s.beside.has(besideKey('a', r.Tenant, r.Name, node)) {
		return refuse("job.avoid", "plan again", "node %s holds a job that avoids job %s", node, r.ID)
	}
	return nil
}

// apart are the nodes that [State.mayStand] would refuse.
func (v *View) apart(j *placement.Job) (out []placement.NodeID) {
	collect := func(what byte, name string) {
		from := besideKey(what, j.Tenant, name, "")
		v.beside.prefix(from, func(key string, _ int) bool {
			out = append(out, placement.NodeID(key[len(from):]))
			return true
		})
	}
	for _, name := range j.Spec.Avoid {
		collect('n', name)
	}
	if j.Name != "" && v.avoiding > 0 {
		collect('a', j.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
