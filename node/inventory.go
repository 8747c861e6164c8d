package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/runner"
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
			if key := moveKey(ctx, deps, name, driver); key != "" {
				if inv.Moves == nil {
					inv.Moves = map[string]string{}
				}
				inv.Moves[name] = key
			}
		}
	}
	slices.Sort(inv.Drivers)
	for _, a := range deps.Resolvers {
		inv.Resolvers = append(inv.Resolvers, placement.CanonicalResolver(a.String()))
	}
	slices.Sort(inv.Resolvers)
	inv.Resolvers = slices.Compact(inv.Resolvers)
	return inv
}

// moveKey is what another node must have alike for running tasks of the driver to
// be moved there; empty if they cannot.
func moveKey(ctx context.Context, deps Deps, name string, driver runner.Driver) string {
	m, ok := driver.(runner.Migrator)
	if !ok || driver.Name() != name {
		return ""
	}
	key, err := m.MoveKey(ctx)
	if err != nil {
		deps.Log.Warn("running tasks cannot be moved from or to this node", "driver", name, "err", err)
		return ""
	}
	return key
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

// How a report is given again.
const (
	// offerWithin bounds one try: a worker asks voter after voter until it ends.
	offerWithin = time.Minute
	// refusedFirst and refusedMost bound the pause before a report that the region
	// refused is repeated: what it has against it may go away there.
	refusedFirst = 5 * time.Second
	refusedMost  = 5 * time.Minute
	// troubleApart is how often it is said that no report comes through.
	troubleApart = time.Minute
)

// The refusals of a report that mean something of their own.
const (
	refusedStale = "node.stale" // the region has a newer version
	refusedSite  = "node.site"  // the node stands elsewhere than it joined
)

// offer hands an inventory to the region once. A refusal is an answer: whether
// it came as a result or, through a replica of this node's own, as an error.
func (n *Node) offer(ctx context.Context, inv placement.Inventory) (*state.Refused, error) {
	ctx, cancel := context.WithTimeout(ctx, offerWithin)
	defer cancel()
	res, err := n.ledger.Propose(ctx, n.inventoryCommand(inv), n.actor())
	var refused *state.Refused
	if errors.As(err, &refused) {
		return refused, nil
	}
	return res.Refused, err
}

// reportInventory tells the region what the node has, once after every start.
// It is repeated until the region answers; it may have no leader yet. A node
// whose report is refused goes on with what the region knew of it, and tries
// again; one that says it stands at another site than it joined at does not, as
// what may run on it hangs on that.
func (n *Node) reportInventory(ctx context.Context) error {
	trouble := n.trouble()
	for ctx.Err() == nil {
		inv := n.devices.Inventory()
		refused, err := n.offer(ctx, inv)
		switch {
		case err != nil:
			trouble(ctx, err)
		case refused == nil:
			return nil
		case refused.Code == refusedStale:
			n.devices.next(max(inv.Version, n.reportedVersion()))
		case refused.Code == refusedSite:
			return fmt.Errorf("the region refused this node's inventory: %w", refused)
		default:
			n.devices.answered(refused)
			return nil
		}
		pause(ctx, retryEvery)
	}
	return nil
}

// trouble says now and then why no report comes through; the first minute may
// be that of a region that starts.
func (n *Node) trouble() func(context.Context, error) {
	last := n.deps.now()
	return func(ctx context.Context, err error) {
		if now := n.deps.now(); ctx.Err() == nil && now.Sub(last) >= troubleApart {
			last = now
			n.logOf("devices").Warn("what this node has cannot be reported; it is tried on", "err", err)
		}
	}
}

// report tells the region and the gossip of changes: soon, and not often. Tasks
// on broken devices end after the region knows why: it shall not place them there
// again.
func (d *devices) report(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-d.n.ready: // the first report is the node's own business
	}
	counts := time.NewTicker(countsApart)
	defer counts.Stop()
	for {
		d.n.runner.FailDevices(d.broken())
		again, stop := d.refusedTimer()
		select {
		case <-ctx.Done():
			stop()
			return
		case <-d.changed:
		case <-again:
		case <-counts.C:
			d.mu.Lock()
			wanted := d.counted
			d.mu.Unlock()
			if !wanted {
				stop()
				continue
			}
		}
		stop()
		pause(ctx, gather)
		d.commit(ctx)
		d.n.runner.FailDevices(d.broken())
		pause(ctx, reportApart-gather)
	}
}

// refusedTimer fires when a report that the region refused is to be repeated;
// never if none was.
func (d *devices) refusedTimer() (<-chan time.Time, func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refused == nil {
		return nil, func() {}
	}
	t := time.NewTimer(d.again)
	return t.C, func() { t.Stop() }
}

// commit brings the inventory into the ledger; it tries until the region
// answers, with what is newest then.
func (d *devices) commit(ctx context.Context) {
	trouble := d.n.trouble()
	inv := d.next(d.n.reportedVersion())
	d.n.announce()
	for ctx.Err() == nil {
		refused, err := d.n.offer(ctx, inv)
		switch {
		case err != nil:
			trouble(ctx, err)
			pause(ctx, 10*retryEvery)
			select {
			case <-d.changed:
				inv = d.next(d.n.reportedVersion())
				d.n.announce()
			default:
			}
		case refused != nil && refused.Code == refusedStale:
			pause(ctx, 10*retryEvery)
			inv = d.next(max(inv.Version, d.n.reportedVersion()))
			d.n.announce()
		default:
			if d.answered(refused); refused == nil {
				d.log.Info("reported the devices anew", "version", inv.Version, "devices", len(inv.Devices))
			}
			return
		}
	}
}

// answered notes what the region says of a report. A refusal is told once, and
// stands in the node's status and metrics until a report is taken; the report is
// repeated with growing pauses, and at once when something changes.
func (d *devices) answered(refused *state.Refused) {
	d.mu.Lock()
	before := d.refused
	if d.refused = refused; refused == nil {
		d.again = 0
	} else {
		d.again = min(max(2*d.again, refusedFirst), refusedMost)
	}
	d.mu.Unlock()
	switch {
	case refused == nil && before != nil:
		d.log.Info("the region takes what this node says of itself again")
	case refused != nil && (before == nil || before.Error() != refused.Error()):
		d.log.Error("the region REFUSED what this node says of itself; it keeps what it knew, and is told again", "code", refused.Code, "err", refused, "hint", refused.Advice)
	}
}
