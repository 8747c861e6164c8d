package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// standsFor is [runner.Resolver] for this node's tasks.
func (n *Node) standsFor(name string) ([]netip.AddrPort, error) {
	return standsFor(n.ledger.View(), name)
}

// standsFor tells what a name in a job's list means: a region's front doors, as
// the ledger has them now, where its API and its models are. Whether the job may
// reach that region is judged when its placement is.
func standsFor(v *state.View, name string) ([]netip.AddrPort, error) {
	entry, err := placement.ParseReach(name)
	switch {
	case err != nil:
		return nil, err
	case entry.Region == "":
		return nil, errors.New("a service has no address but in the workload's own network")
	}
	r := v.Region(entry.Region)
	if r == nil {
		return nil, fmt.Errorf("region %s is not known here", entry.Region)
	}
	var doors []string
	switch {
	case r.Self:
		for _, n := range v.Nodes() {
			if n.Role != placement.RoleWorker {
				doors = append(doors, n.API)
			}
		}
	case r.State == placement.PeerActive:
		for _, d := range r.FrontDoors {
			doors = append(doors, d.API)
		}
	}
	var out []netip.AddrPort
	for _, d := range doors {
		// A door by a host's name means what whoever answers says: it is left out.
		if at, err := netip.ParseAddrPort(strings.TrimPrefix(d, "https://")); err == nil && !at.Addr().IsLoopback() {
			out = append(out, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out), nil
}
