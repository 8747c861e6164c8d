package state

import (
	"fmt"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

// Whoever leads, jobs that avoid each other share no node, in either order; and
// what was counted is given back, and restored.
func TestNobodyStandsBesideWhomItAvoids(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	named := func(name string, avoids ...string) func(*placement.Job) {
		return func(j *placement.Job) { j.Name, j.Spec.Name, j.Spec.Avoid = name, name, avoids }
	}
	db, web := f.submit(1, "EU", named("db")), f.submit(2, "EU", named("web", "db"))
	task := f.assign(db, "n1")
	at := func(id placement.JobID, node string) Assign {
		return Assign{Assignments: []placement.Assignment{f.assignment(id, node)}}
	}
	f.refused("job.avoid", at(web, "n1"))
	f.ok(at(f.submit(3, "EU", named("web", "other")), "n1"))
	f.ok(at(f.submit(4, "EU", of("bank"), named("web", "db")), "n1")) // another tenant's
	f.ok(at(web, "n2"))
	late := f.submit(5, "EU", named("db"))
	f.refused("job.avoid", at(late, "n2"))
	for _, s := range []*State{f.s, reopened(t, f.s)} {
		if got := fmt.Sprint(s.apart(s.Job(late))); got != "[n2]" {
			t.Errorf("a db must not stand at %s", got)
		}
		if got := fmt.Sprint(s.apart(s.Job(web))); got != "[n1]" {
			t.Errorf("web must not stand at %s", got)
		}
		if s.avoiding != 3 {
			t.Errorf("%d avoid", s.avoiding)
		}
	}
	f.report(task, placement.TaskComplete)
	if got := f.s.apart(f.s.Job(web)); len(got) != 0 {
		t.Errorf("web must not stand at %s, where no db is left", got)
	}
}
