package scheduler

import (
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

func labelled(pairs ...string) func(*placement.Node) {
	return func(n *placement.Node) {
		n.Inventory.Labels = map[string]string{}
		for _, pair := range pairs {
			key, value, _ := strings.Cut(pair, "=")
			n.Inventory.Labels[key] = value
		}
	}
}
func near(places ...string) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Near = places }
}
func ranked(cost, carbon int) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Rank = placement.Rank{Cost: cost, Carbon: carbon} }
}

// Wishes order the lawful nodes, and nothing else: a node outside the tag is
// none, however near and cheap, and one that is far is better than none.
func TestWishesOrderLawfulNodesOnly(t *testing.T) {
	nodes := []*placement.Node{
		node("n1", at("north"), labelled("cost=100", "carbon=10")), node("n2", at("south"), labelled("cost=50", "carbon=400", "disk=ssd")), node("n3", at("south")),
	}
	for name, c := range map[string]struct {
		change []func(*placement.Job)
		want   placement.NodeID
	}{
		"near a site":                  {[]func(*placement.Job){near("south")}, "n2"},
		"near a label":                 {[]func(*placement.Job){near("disk=ssd")}, "n2"},
		"near nothing that is here":    {[]func(*placement.Job){near("moon")}, "n1"},
		"cheap":                        {[]func(*placement.Job){ranked(1, 0)}, "n2"},
		"clean":                        {[]func(*placement.Job){ranked(0, 1)}, "n1"},
		"mostly clean":                 {[]func(*placement.Job){ranked(1, 9)}, "n1"},
		"near before cheap":            {[]func(*placement.Job){near("north"), ranked(9, 0)}, "n1"},
		"cheap within the tag":         {[]func(*placement.Job){tagged("site:north"), ranked(1, 0)}, "n1"},
		"near and unlawful":            {[]func(*placement.Job){tagged("EU,!site:south"), near("south")}, "n1"},
		"who says nothing is dear too": {[]func(*placement.Job){near("south"), ranked(0, 1)}, "n2"},
	} {
		if a := only(t, Plan(world(nodes, job("a", c.change...)))); a.Node != c.want {
			t.Errorf("%s: %s, want %s", name, a.Node, c.want)
		}
	}
}

func TestJobsThatAvoidEachOtherShareNoNode(t *testing.T) {
	avoids := func(names ...string) func(*placement.Job) {
		return func(j *placement.Job) { j.Spec.Avoid = names }
	}
	two := []*placement.Node{node("n1"), node("n2")}
	for name, jobs := range map[string][]*placement.Job{
		"the second avoids the first": {job("db"), job("web", avoids("db"))},
		"the first avoids the second": {job("web", avoids("db")), job("db")},
	} {
		d := Plan(world(two, jobs...))
		if len(d.Assign) != 2 || d.Assign[0].Node == d.Assign[1].Node {
			t.Errorf("%s: %+v", name, d.Assign)
		}
	}
	if d := Plan(world(two, job("db", by("bank")), job("web", avoids("db")))); len(d.Assign) != 2 {
		t.Errorf("another tenant's job of that name: %+v", d)
	}
	s := world(two, job("web", avoids("db")))
	s.Apart = func(*placement.Job) []placement.NodeID { return []placement.NodeID{"n1", "n2"} }
	d := Plan(s)
	if len(d.Refused) != 1 || d.Refused[0].Explanation.Code != JobBeside || d.Refused[0].Explanation.Outcome != Full {
		t.Errorf("everywhere beside it: %+v", d)
	}
	changes := d.Refused[0].Explanation.Changes
	if !slices.ContainsFunc(changes, func(c Change) bool { return c.Constraint == JobBeside && c.Nodes == 2 }) {
		t.Errorf("what would help: %+v", changes)
	}
}
