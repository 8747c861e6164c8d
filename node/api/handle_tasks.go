package api

import (
	"cmp"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// listTasks lists the live tasks of the region, of every tenant.
func listTasks(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	all := make([]*placement.Task, 0, v.LiveTasks())
	for _, n := range v.Nodes() {
		if o.Node == "" || o.Node == n.ID {
			all = append(all, v.TasksOn(n.ID)...)
		}
	}
	slices.SortFunc(all, func(a, b *placement.Task) int { return cmp.Compare(a.ID, b.ID) })
	return answerPage(c, o, v, all, func(t *placement.Task) string { return string(t.ID) })
}
