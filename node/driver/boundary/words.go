//go:build linux

package boundary

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Words says in words what holds the task's network, as it is now.
func (b *Boundary) Words(task placement.TaskID) ([]runner.Boundary, error) {
	s, err := load(b.statePath(task))
	if errors.Is(err, fs.ErrNotExist) {
		return []runner.Boundary{{What: "network", How: "it has no network of its own"}}, nil
	}
	if err != nil {
		return nil, err
	}
	denied, err := b.Denied(task)
	if err != nil {
		return nil, err
	}
	var packets uint64
	for _, d := range denied {
		packets += d.Packets
	}
	refused := fmt.Sprintf("; %d packets to %d destinations were refused", packets, len(denied))
	w := runner.Boundary{What: "network", Holds: !s.Over && mounted(s.Path)}
	switch {
	case s.Over:
		w.How = "its network was removed when it ended" + refused
	case !w.Holds:
		w.How = "its network namespace is not there any more"
	case s.Policy.Empty():
		w.How = "a network namespace of its own, with no device but its loopback: it can reach nothing" + refused
	case !s.Policy.leads():
		w.How = "a network namespace of its own, with no device but its loopback: it can reach " + b.servicesOf(s) + " and nothing else" + refused
	default:
		held, err := b.ruled(s.Veth)
		if err != nil {
			return nil, err
		}
		w.Holds = held
		w.How = "a network namespace of its own, by one device under the node's rules: it can reach " + list(s.Policy) + b.besides(s) + " and nothing else" + refused
		if !held {
			w.How = "a network namespace of its own, but the node's rules for " + s.Veth + " were taken away"
		}
	}
	return []runner.Boundary{w}, nil
}

func list(p Policy) string {
	var all []string
	for _, d := range p.destinations() {
		all = append(all, d.String())
	}
	if len(all) == 0 {
		return "nothing yet, for what its list names has no address so far,"
	}
	return strings.Join(all, ", ")
}

// besides are the services after the rest of the list.
func (b *Boundary) besides(s state) string {
	if len(s.Policy.Services) == 0 {
		return ""
	}
	return ", " + b.servicesOf(s)
}

// servicesOf says which services the task reaches, and whether somebody answers.
func (b *Boundary) servicesOf(s state) string {
	var all []string
	for _, one := range s.Policy.Services {
		all = append(all, "the service "+one.Name+" ("+one.Host()+", "+one.Addr.String()+")")
	}
	text := strings.Join(all, ", ") + " by way of the node, which carries each connection to where the service runs and the tags of both jobs allow,"
	if !b.answers(s.Task) {
		text += " though nobody answers on the node at this moment,"
	}
	return text
}

// ruled reports whether the node has the rules of a device.
func (b *Boundary) ruled(veth string) (bool, error) {
	held := false
	err := inside(b.host, func() error {
		all, err := ruledDevices()
		for _, v := range all {
			held = held || v == veth
		}
		return err
	})
	return held, err
}

// Probe says what this machine can, by trying it. Without an error tasks get
// networks of their own.
func (b *Boundary) Probe() (map[string]string, error) {
	facts := map[string]string{}
	ns, err := b.fresh()
	if err != nil {
		facts["network"] = "the node's own: " + err.Error()
		if unix.Geteuid() != 0 {
			facts["network"] = "the node's own: this user makes no network namespaces"
		}
		return facts, err
	}
	_ = ns.Close()
	facts["network"] = "a namespace for each task, deny by default, counted by nftables, held on the node's side too"
	facts["network_beyond"] = b.Beyond()
	return facts, nil
}

// Beyond says in words whether lists lead farther than the node, as far as the
// policies of its chains tell now.
func (b *Boundary) Beyond() string {
	words := "nothing that is looked at drops what is forwarded, so that tasks with a list reach what is beyond the node; rules within accepting chains (firewalld, ufw) and of the old iptables are not read"
	err := inside(b.host, func() error {
		v4, v6, err := dropsForwarded()
		switch {
		case v4 != "":
			words = "a list leads no farther than the node: its own rules drop what is forwarded (chain " + v4 + "); a task whose list does is not started"
		case v6 != "":
			words = "a list leads no farther than the node by IPv6: its own rules drop what is forwarded (chain " + v6 + "); a task whose list does is not started"
		}
		return err
	})
	if err != nil {
		return "not known: " + err.Error()
	}
	return words
}
