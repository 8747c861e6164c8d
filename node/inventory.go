package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// takeInventory asks the machine what it has. A driver that cannot work here is
// left out. Its devices are for [devices].
func takeInventory(ctx context.Context, cfg Config, deps Deps, version uint64) placement.Inventory {
	inv := placement.Inventory{
		Version: version, CPU: cfg.CPU, Memory: cfg.Memory, Program: cfg.Program, Labels: cfg.Labels,
		States: uint32(state.MaxVersion), Reported: deps.now().UTC(),
	}
	if inv.Memory == 0 {
		inv.Memory = machineMemory()
	}
	for name, driver := range deps.Drivers {
		f, err := driver.Fingerprint(ctx)
		switch {
		case err != nil:
			deps.Log.Warn("driver cannot be asked", "driver", name, "err", err)
		case !f.Healthy:
			deps.Log.Info("driver cannot work here", "driver", name, "err", f.Reason)
		default:
			inv.Drivers = append(inv.Drivers, name)
		}
	}
	slices.Sort(inv.Drivers)
	return inv
}

// machineMemory is the machine's memory as Linux tells it, zero elsewhere.
func machineMemory() placement.Bytes {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0] != "MemTotal:" {
		return 0
	}
	n, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return placement.Bytes(n) * placement.KiB
}

// reportInventory tells the region what the node has, once after every start.
// It is repeated until it is committed; the region may have no leader yet.
func (n *Node) reportInventory(ctx context.Context) error {
	for ctx.Err() == nil {
		inv := n.devices.Inventory()
		res, err := n.ledger.Propose(ctx, n.inventoryCommand(inv), n.actor())
		if err == nil {
			if res.Refused != nil && res.Refused.Code == "node.stale" {
				n.devices.next(max(inv.Version, n.reportedVersion()))
				pause(ctx, retryEvery)
				continue
			}
			if res.Refused != nil {
				return fmt.Errorf("the region refused this node's inventory: %w", res.Refused)
			}
			return nil
		}
		if errors.Is(err, context.Canceled) {
			break
		}
		pause(ctx, retryEvery)
	}
	return nil
}
