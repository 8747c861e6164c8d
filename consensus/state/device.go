package state

import (
	"slices"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// maxCleared bounds the clears that are kept of one node.
const maxCleared = 256

// clearDevice records an operator's clear. The device's health does not change
// by it: its node answers with a new inventory, so that there is one voice on
// how a device is. What the operator could see is kept with its times, all by
// the node's own clock: what the node saw later counts again.
func (s *State) clearDevice(c *call, k ClearDevice) *Refused {
	n, refused := s.node(c, k.Node)
	if refused != nil {
		return refused
	}
	if len(k.Reason) > 1024 {
		return refuse("device.reason", "shorten it", "the reason for clearing the device is too long")
	}
	i := slices.IndexFunc(n.Inventory.Devices, func(d placement.Device) bool { return d.UUID == k.Device })
	if i < 0 {
		return refuse("device.unknown", "list them: sovmesh gpu list", "node %s has no device %q", n.ID, clip(k.Device))
	}
	word := placement.DeviceClear{UUID: k.Device, At: s.Clock, Reason: k.Reason}
	for _, cause := range n.Inventory.Devices[i].Causes {
		word.Causes = append(word.Causes, placement.ClearedCause{Code: cause.Code, Last: cause.Last})
	}
	cleared := slices.DeleteFunc(slices.Clone(n.Cleared), func(old placement.DeviceClear) bool { return old.UUID == k.Device })
	n.Cleared = append(cleared, word)
	if len(n.Cleared) > maxCleared {
		n.Cleared = n.Cleared[len(n.Cleared)-maxCleared:]
	}
	c.show(ledger.ShownState, "cleared")
	s.putNode(n)
	return nil
}
