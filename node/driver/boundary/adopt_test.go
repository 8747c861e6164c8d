//go:build linux

package boundary

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sovmesh/sovmesh/placement"
)

func TestANamespaceOfSomebodyElsesIsHeldToTheList(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	for name, allow := range map[placement.TaskID][]string{"a.none/0.1": nil, "a.some/0.1": {farther + ":80"}} {
		ns := namespace(t, func() error { return nil })
		p, err := Parse(&placement.Network{Allow: allow}, nil)
		if err != nil {
			t.Fatal(err)
		}
		n, err := w.b.Adopt(t.Context(), name, ns, p)
		if err != nil {
			t.Fatal(err)
		}
		if allow != nil {
			w.reaches(n, "tcp", farther+":80", "far")
		} else {
			w.refused(n, "tcp", farther+":80")
		}
		w.refused(n, "tcp", farther+":81")
		if err := w.b.Down(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		w.denied(n, farther+":81/tcp")
		w.do(ns, func() error { // it lives on, for whoever made it, and leads nowhere
			if _, err := netlink.LinkByName("eth0"); err == nil {
				return errors.New("its device is still there")
			}
			return nil
		})
	}
}

// TestAStartThatWasCutOffIsMadeAnew: an agent is killed between the instant at
// which a network has its name and that at which it has its device.
func TestAStartThatWasCutOffIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	p, err := Parse(&placement.Network{Allow: []string{farther + ":80"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := state{Net: Net{Task: "a.b/0.1", Path: w.b.nsPath("a.b/0.1"), Policy: p}}
	ns, err := w.b.take()
	if err == nil {
		err = errors.Join(w.b.put(s), pin(ns, s.Path), ns.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := w.b.Up(t.Context(), "a.b/0.1", p)
	if err != nil {
		t.Fatal(err)
	}
	w.reaches(n, "tcp", farther+":80", "far")
}

func TestAListIsRenewedWhileTheTaskRuns(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{farther + ":80", neighbour + ":80"} {
		w.serve(w.outside, a, "far")
	}
	where := []Destination(nil)
	parse := func() Policy {
		p, err := Parse(&placement.Network{Allow: []string{"region:db"}}, func(string) ([]Destination, error) { return where, nil })
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	n, err := w.b.Up(t.Context(), "a.b/0.1", parse()) // the service is nowhere yet
	if err != nil {
		t.Fatal(err)
	}
	w.refused(n, "tcp", farther+":80")
	for i, at := range []string{farther, neighbour, farther} {
		one, err := parseDestination(at + ":80")
		if err != nil {
			t.Fatal(err)
		}
		where = []Destination{one}
		if err := w.b.Renew(t.Context(), n.Task, parse()); err != nil {
			t.Fatal(err)
		}
		w.reaches(n, "tcp", at+":80", "far")
		if i == 1 {
			w.refused(n, "tcp", farther+":80") // where it was before
		}
	}
	if d := w.denied(n, farther+":80/tcp"); d.Packets < 2 {
		t.Errorf("what was refused before the list was renewed is not counted any more: %+v", d)
	}
	// A renewal that was cut off: the state tells of a list whose rules were not set.
	one, err := parseDestination(neighbour + ":80")
	if err != nil {
		t.Fatal(err)
	}
	where = []Destination{one}
	cut, err := load(w.b.statePath(n.Task))
	if err != nil {
		t.Fatal(err)
	}
	cut.Policy, cut.Renewing = parse(), true
	if err := w.b.put(cut); err != nil {
		t.Fatal(err)
	}
	w.reaches(n, "tcp", farther+":80", "far")
	if err := w.b.Renew(t.Context(), n.Task, parse()); err != nil {
		t.Fatal(err)
	}
	w.reaches(n, "tcp", neighbour+":80", "far")
	w.refused(n, "tcp", farther+":80")
	if err := w.b.Renew(t.Context(), "of.nobody/0.1", parse()); err != nil {
		t.Error(err)
	}
}

// TestADeviceThatWentToAnotherTaskIsLeftAlone: with a boot of the node the devices
// go and what is written down of them stays, until its agent takes it down.
func TestADeviceThatWentToAnotherTaskIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	p, err := Parse(&placement.Network{Allow: []string{farther + ":80"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := w.b.Up(t.Context(), "a.new/0.1", p)
	if err != nil {
		t.Fatal(err)
	}
	old := state{Net: Net{Task: "a.old/0.1", Path: w.b.nsPath("a.old/0.1"), Policy: p, Veth: n.Veth}, Ready: true}
	if err := errors.Join(w.b.put(old), w.b.Down(t.Context(), "a.old/0.1")); err != nil {
		t.Fatal(err)
	}
	w.reaches(n, "tcp", farther+":80", "far")
	w.refused(n, "tcp", farther+":81")
	if held, err := w.b.ruled(n.Veth); err != nil || !held {
		t.Errorf("the rules of the task that has the device are there: %v, %v", held, err)
	}
	// Nor does what is left of one keep the device of one that ends.
	if err := errors.Join(w.b.put(old), w.b.Down(t.Context(), "a.new/0.1")); err != nil {
		t.Fatal(err)
	}
	w.do(w.b.host, func() error {
		if _, err := netlink.LinkByName(n.Veth); err == nil {
			return errors.New("its device is still there")
		}
		return nil
	})
}
