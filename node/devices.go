package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// How the inventory travels again.
const (
	// gather is how long changes are put together before they are reported: a
	// device that falls off the bus is told of by several calls at once.
	gather = 300 * time.Millisecond
	// reportApart is the least time between two reports, countsApart between two
	// that only say how often something was seen.
	reportApart = 2 * time.Second
	countsApart = 5 * time.Minute
	// lookAgain is how often operators' clears are looked for.
	lookAgain = 500 * time.Millisecond
	// firstLook bounds how long a driver may hold up the start of the node.
	firstLook = 15 * time.Second
)

// devices keeps the node's inventory true while the node runs: it follows what
// the machine says of its devices, judges it, reports what changed to the
// region, and ends the tasks of devices that are broken.
type devices struct {
	n      *Node
	source gpu.Source
	log    *slog.Logger

	mu        sync.Mutex
	tracker   *gpu.Tracker          // guarded by mu
	inventory placement.Inventory   // guarded by mu: what is, or is to be, reported
	samples   map[string]gpu.Sample // guarded by mu: the newest of each device
	xids      map[xidKey]uint64     // guarded by mu: told of since the node started
	faults    map[gpu.Class]uint64  // guarded by mu: the same by what each was judged to be
	last      map[string]uint64     // guarded by mu: the last of each device
	reading   gpu.Reading           // guarded by mu: the newest
	downs     map[int]string        // guarded by mu: why the devices of a source (0: all) cannot be seen
	down      string                // guarded by mu: why of one of them
	counted   bool                  // guarded by mu: counts wait to be reported
	refused   *state.Refused        // guarded by mu: what the region said of the last report, nil if it took it
	again     time.Duration         // guarded by mu: the pause before a refused report is repeated
	changed   chan struct{}         // has one when something waits to be reported
}

type xidKey struct {
	uuid string
	xid  uint64
}

func newDevices(n *Node) *devices {
	return &devices{
		n: n, source: n.deps.GPUs, log: n.logOf("devices"), tracker: gpu.NewTracker(gpu.Memory{}),
		samples: map[string]gpu.Sample{}, xids: map[xidKey]uint64{}, faults: map[gpu.Class]uint64{}, last: map[string]uint64{}, downs: map[int]string{}, changed: make(chan struct{}, 1),
	}
}

// begin goes on from what the node remembers and takes a first look. Devices
// that cannot be read keep nobody from starting: they are remembered as lost, or
// not known yet.
func (d *devices) begin(ctx context.Context, inv placement.Inventory) error {
	var m gpu.Memory
	if err := d.n.dir.readJSON(fileDevices, &m); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Error("the health of the devices before this start is not known: its file cannot be read, and is written anew", "err", err)
	}
	reading, err := d.look(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inventory = inv
	if d.source == nil {
		return nil
	}
	d.tracker = gpu.NewTracker(remembered(m, reading))
	if err != nil {
		d.log.Error("the devices of this machine cannot be seen; the node starts without", "err", err)
		d.down = err.Error()
		d.downs[0] = d.down
		d.tracker.Down(d.down, 0, d.n.deps.now())
	} else {
		d.take(gpu.Update{Reading: &reading}, nil)
	}
	d.heed()
	d.inventory.Devices = d.tracker.Devices()
	d.describe()
	return nil
}

// remembered leaves out devices that are pretended and are not any more, and
// real ones where devices are pretended now: those are no loss.
func remembered(m gpu.Memory, now gpu.Reading) gpu.Memory {
	simulated := slices.ContainsFunc(now.Devices, func(o gpu.Observed) bool { return o.Simulated })
	m.Devices = slices.DeleteFunc(m.Devices, func(r gpu.Remembered) bool {
		listed := slices.ContainsFunc(now.Devices, func(o gpu.Observed) bool { return o.UUID == r.UUID })
		return (r.Simulated || simulated) && !listed
	})
	return m
}

func (d *devices) look(ctx context.Context) (gpu.Reading, error) {
	if d.source == nil {
		return gpu.Reading{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	r, err := d.source.Read(ctx)
	if err != nil {
		return r, err
	}
	kept, lies := gpu.Sift(r.Devices)
	for _, err := range lies {
		d.log.Error("a device is not offered: what is said of it cannot be", "err", err)
	}
	r.Devices = kept
	return r, nil
}

// run follows the devices until ctx ends.
func (d *devices) run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts.Go(func() { d.report(ctx) })
	if d.source == nil {
		<-ctx.Done()
		return nil
	}
	parts.Go(func() { d.followClears(ctx) })
	return d.source.Watch(ctx, func(u gpu.Update) {
		if u.Reading != nil {
			r := *u.Reading
			var lies []error
			r.Devices, lies = gpu.Sift(r.Devices)
			for _, err := range lies {
				d.log.Debug("a device is not offered: what is said of it cannot be", "err", err)
			}
			u.Reading = &r
		}
		holders := d.holders()
		d.mu.Lock()
		d.take(u, holders)
		d.settle()
		d.mu.Unlock()
		d.tell(u.Event)
	})
}

// take judges one update. The caller holds mu.
func (d *devices) take(u gpu.Update, holders map[string][]gpu.Holder) {
	now := d.n.deps.now()
	switch {
	case u.Reading != nil:
		d.seen(u.Reading.Source)
		d.reading = *u.Reading
		d.tracker.Read(*u.Reading, now)
	case u.Event != nil:
		fault, concerned := d.tracker.Fault(*u.Event, holders, now)
		key := xidKey{u.Event.UUID, u.Event.XID}
		if d.xids[key] == 0 && len(d.xids) >= 4096 {
			break
		}
		d.xids[key]++
		d.faults[fault.Class]++
		d.last[u.Event.UUID] = u.Event.XID
		// A program that faults in a loop does so thousands of times a minute: the
		// first, second, fourth, eighth... of a kind is a line.
		if n := d.xids[key]; n&(n-1) == 0 {
			d.log.Warn("a device told of a fault", "device", u.Event.UUID, "xid", u.Event.XID, "times", n, "class", string(fault.Class), "reason", fault.Reason, "concerns", len(concerned))
		}
	case u.Down != "":
		if d.down == "" {
			d.log.Error("the devices cannot be seen; they count as lost until they can", "err", u.Down)
		}
		d.down, d.downs[u.Source] = u.Down, u.Down
		d.tracker.Down(u.Down, u.Source, now)
	}
	for _, s := range u.Samples {
		if _, known := d.samples[s.UUID]; known || len(d.samples) < 2*gpu.MaxDevices {
			d.samples[s.UUID] = s
		}
	}
}

// seen notes that a source, of several or alone (0), can be read again. The caller
// holds mu.
func (d *devices) seen(source int) {
	if delete(d.downs, source); source == 0 {
		clear(d.downs)
	}
	delete(d.downs, 0) // some first look failed; every source speaks for itself since
	was := d.down
	d.down = ""
	for _, k := range slices.Sorted(maps.Keys(d.downs)) {
		d.down = d.downs[k]
	}
	if was != "" && d.down == "" {
		d.log.Info("the devices can be seen again")
	}
}

// settle makes what is known the inventory that is to be reported. The caller
// holds mu.
func (d *devices) settle() {
	fresh := d.tracker.Devices()
	change := gpu.Compare(d.inventory.Devices, fresh)
	if d.describe() {
		change = gpu.Different
	}
	if change == gpu.Same {
		return
	}
	d.inventory.Devices = fresh
	if err := d.n.dir.writeJSON(fileDevices, d.tracker.Memory()); err != nil {
		d.log.Error("the health of the devices is not kept for the next start", "err", err)
	}
	if change == gpu.Different {
		d.counted = false
		d.poke()
	} else {
		d.counted = true
	}
}

// describe notes the driver's versions; true if they changed. The caller holds mu.
func (d *devices) describe() bool {
	if d.reading.DriverVersion == "" && d.reading.CUDA == "" {
		return false // not known now is no change
	}
	same := d.inventory.DriverVersion == d.reading.DriverVersion && d.inventory.CUDA == d.reading.CUDA
	d.inventory.DriverVersion, d.inventory.CUDA = d.reading.DriverVersion, d.reading.CUDA
	return !same
}

func (d *devices) poke() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Inventory is what the node has, as it shall be known.
func (d *devices) Inventory() placement.Inventory {
	d.mu.Lock()
	defer d.mu.Unlock()
	inv := d.inventory
	inv.Devices = slices.Clone(inv.Devices)
	return inv
}

// next is the inventory under a new version. least is a version that the
// region has already.
func (d *devices) next(least uint64) placement.Inventory {
	d.mu.Lock()
	now := d.n.deps.now().UTC()
	d.inventory.Version = max(uint64(now.Unix()), d.inventory.Version+1, least+1)
	d.inventory.Reported, d.counted = now, false
	d.mu.Unlock()
	return d.Inventory()
}

// broken are the devices on which no task can have gone on, and why.
func (d *devices) broken() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tracker.Broken()
}

// followClears heeds what operators clear.
func (d *devices) followClears(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, lookAgain)
		d.mu.Lock()
		if d.heed() {
			d.settle()
		}
		d.mu.Unlock()
	}
}

// heed passes the clears of the node's record on; true if any was new. The
// caller holds mu.
func (d *devices) heed() bool {
	view := d.n.ledger.View()
	if view == nil || view.Self() == nil {
		return false
	}
	self := view.Node(d.n.who.Node)
	if self == nil {
		return false
	}
	heeded := false
	for _, c := range self.Cleared {
		if d.tracker.Clear(c) {
			d.log.Info("an operator cleared a device", "device", c.UUID)
			heeded = true
		}
	}
	return heeded
}

// holders says which jobs have which device, or a share of it, now.
func (d *devices) holders() map[string][]gpu.Holder {
	out := map[string][]gpu.Holder{}
	for _, t := range d.n.runner.Tasks() {
		if t.Status.Live() {
			for _, uuid := range t.Devices {
				out[uuid] = append(out[uuid], gpu.Holder{Job: t.Job, Tenant: t.Tenant})
			}
		}
	}
	return out
}

// tell lets the owners of tasks know of a fault that their program may have caused.
func (d *devices) tell(e *gpu.Event) {
	if e == nil {
		return
	}
	if f := gpu.XID(e.XID); f.Class == gpu.ClassApplication {
		d.n.runner.NoteDevice(e.UUID, "device "+e.UUID+" told of "+f.Code()+": "+f.Reason)
	}
}

// sound refuses a task that was assigned to a device which is broken since.
func (d *devices) sound(t placement.Task, _ placement.Job) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	broken := d.tracker.Broken()
	for _, uuid := range t.Devices {
		if why, ok := broken[uuid]; ok {
			return errors.New(why)
		}
	}
	return nil
}

// deviceState is what a node itself knows of its devices beyond the inventory.
type deviceState struct {
	Devices []placement.Device
	Samples map[string]gpu.Sample
	XIDs    map[xidKey]uint64
	Faults  map[gpu.Class]uint64 // as they were judged
	LastXID map[string]uint64
	Down    string
	Refused *state.Refused // the region did not take the last report

	DriverVersion string
}

func (d *devices) state() deviceState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return deviceState{
		Devices: slices.Clone(d.inventory.Devices), Samples: maps.Clone(d.samples), XIDs: maps.Clone(d.xids), Faults: maps.Clone(d.faults), LastXID: maps.Clone(d.last),
		Down: d.down, Refused: d.refused, DriverVersion: d.inventory.DriverVersion,
	}
}

// Samples are what the devices do now, by UUID, and why they cannot be seen.
func (d *devices) Samples() (map[string]gpu.Sample, string) {
	s := d.state()
	return s.Samples, s.Down
}

// Refused is what the region has against the node's last report, empty if it
// took it.
func (d *devices) Refused() string {
	if r := d.state().Refused; r != nil {
		return r.Message
	}
	return ""
}

// inventoryCommand reports what the node has, and where it is.
func (n *Node) inventoryCommand(inv placement.Inventory) state.ReportInventory {
	return state.ReportInventory{Node: n.cfg.Node, Inventory: inv, QUIC: n.cfg.QUIC, API: n.cfg.API, Site: n.cfg.Site}
}

// reportedVersion is the inventory of this node that the region has.
func (n *Node) reportedVersion() uint64 {
	if self := n.ledger.View().Node(n.who.Node); self != nil {
		return self.Inventory.Version
	}
	return 0
}

// announce gossips the inventory. What the gossip cannot carry is no reason to
// keep it from the ledger.
func (n *Node) announce() {
	if err := n.publish(); err != nil {
		n.deps.Log.Error("the inventory is not gossiped", "err", err)
	}
}

// firstDevices are what a node that joins sees. What cannot be seen yet it
// reports when it can.
func firstDevices(ctx context.Context, deps Deps) []placement.Device {
	if deps.GPUs == nil {
		return nil
	}
	d := &devices{source: deps.GPUs, log: deps.Log}
	r, err := d.look(ctx)
	if err != nil {
		deps.Log.Error("the devices of this machine cannot be seen; the node joins without", "err", err)
		return nil
	}
	tracker := gpu.NewTracker(gpu.Memory{})
	tracker.Read(r, deps.now())
	return tracker.Devices()
}
