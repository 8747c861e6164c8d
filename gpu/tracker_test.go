package gpu

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// world is a tracker with a clock of its own.
type world struct {
	t       *testing.T
	tracker *Tracker
	now     time.Time
	reading Reading
	holders map[string][]Holder
}

func newWorld(t *testing.T, spec string) *world {
	t.Helper()
	devices, err := Parse(spec, "n1")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, tracker: NewTracker(Memory{}), now: time.Unix(1_800_000_000, 0), holders: map[string][]Holder{}}
	for _, d := range devices {
		w.reading.Devices = append(w.reading.Devices, Observed{Device: d})
	}
	w.read()
	return w
}

func (w *world) read() { w.tracker.Read(w.reading, w.now) }

func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

func (w *world) xid(uuid string, xid uint64) []string {
	_, concerned := w.tracker.Fault(Event{UUID: uuid, XID: xid}, w.holders, w.now)
	return concerned
}

// restart gives the tracker's place to one that knows what it kept.
func (w *world) restart() {
	w.t.Helper()
	data, err := json.Marshal(w.tracker.Memory())
	if err != nil {
		w.t.Fatal(err)
	}
	var m Memory
	if err := json.Unmarshal(data, &m); err != nil {
		w.t.Fatal(err)
	}
	w.tracker = NewTracker(m)
}

func (w *world) device(uuid string) placement.Device {
	w.t.Helper()
	for _, d := range w.tracker.Devices() {
		if d.UUID == uuid {
			return d
		}
	}
	w.t.Fatalf("no device %s", uuid)
	return placement.Device{}
}

// want asks for "health code,code" of a device.
func (w *world) want(uuid, want string) {
	w.t.Helper()
	d := w.device(uuid)
	var codes []string
	for _, c := range d.Causes {
		codes = append(codes, c.Code)
	}
	if got := strings.TrimSpace(string(d.Health) + " " + strings.Join(codes, ",")); got != want {
		w.t.Errorf("%s is %q, want %q", uuid, got, want)
	}
}

// clear says what an operator who sees the devices now would.
func (w *world) clear(uuid string) {
	c := placement.DeviceClear{UUID: uuid, At: w.now}
	for _, cause := range w.device(uuid).Causes {
		c.Causes = append(c.Causes, placement.ClearedCause{Code: cause.Code, Last: cause.Last})
	}
	w.tracker.Clear(c)
}

func TestXIDClasses(t *testing.T) {
	for xid, want := range map[uint64]string{
		79: "lost reboot fatal", 95: "cordoned reset-gpu fatal", 48: "cordoned reset-gpu fatal", 64: "cordoned rma fatal", 74: "cordoned reset-gpu fatal",
		119: "cordoned reboot fatal", 120: "cordoned reboot fatal", 62: "cordoned reset-gpu fatal", 140: "cordoned reset-gpu fatal", 143: "cordoned reset-gpu fatal", 154: "cordoned reset-gpu fatal",
		94: "cordoned reset-gpu contained", 46: "cordoned reset-gpu contained", 61: "cordoned reset-gpu contained",
		63: "degraded reset-gpu note", 92: "degraded none note",
		8: "ok restart-job application", 11: "ok restart-job application", 13: "ok restart-job application", 31: "ok restart-job application", 43: "ok restart-job application",
		45: "ok restart-job application", 68: "ok restart-job application", 69: "ok restart-job application", 109: "ok restart-job application",
		7777: "cordoned reset-gpu unknown", 0: "cordoned reset-gpu unknown",
	} {
		f := XID(xid)
		if got := fmt.Sprint(f.Health, " ", f.Action, " ", f.Class); got != want || f.Reason == "" || f.Code() != fmt.Sprint("xid-", xid) {
			t.Errorf("XID %d is %s (%s), want %s", xid, got, f.Reason, want)
		}
		if f.Node != (xid == 79 || xid == 119 || xid == 120) {
			t.Errorf("XID %d widens to the node: %v", xid, f.Node)
		}
	}
}

func TestAFaultStandsUntilItIsCleared(t *testing.T) {
	w := newWorld(t, "sim:2xL4")
	w.xid("sim-n1-0", 95)
	w.want("sim-n1-0", "cordoned xid-95")
	w.want("sim-n1-1", "ok")
	w.pass(time.Hour)
	w.read()
	w.restart()
	w.read()
	w.want("sim-n1-0", "cordoned xid-95")
	if c := w.device("sim-n1-0").Causes[0]; c.Count != 1 || c.Action != placement.ActionResetGPU || !c.First.Equal(c.Last) || w.now.Sub(c.First) != time.Hour {
		t.Errorf("cause %+v", c)
	}
	if why := w.tracker.Broken()["sim-n1-0"]; !strings.Contains(why, "XID 95") {
		t.Errorf("the tasks end because of %q", why)
	}
	w.clear("sim-n1-0")
	w.want("sim-n1-0", "ok")
	w.restart()
	w.read()
	w.want("sim-n1-0", "ok")
	w.pass(time.Second)
	w.xid("sim-n1-0", 95)
	w.want("sim-n1-0", "cordoned xid-95")
}

func TestWhatTheOperatorDidNotSeeIsNotCleared(t *testing.T) {
	w := newWorld(t, "sim:1xL4")
	w.xid("sim-n1-0", 95)
	seen := placement.DeviceClear{UUID: "sim-n1-0", At: w.now.Add(time.Minute)}
	for _, c := range w.device("sim-n1-0").Causes {
		seen.Causes = append(seen.Causes, placement.ClearedCause{Code: c.Code, Last: c.Last})
	}
	w.pass(time.Second)
	w.xid("sim-n1-0", 95) // before the clear, by the region's clock, and after what it was given for
	w.xid("sim-n1-0", 94)
	w.tracker.Clear(seen)
	w.want("sim-n1-0", "cordoned xid-94,xid-95")
	if got := w.device("sim-n1-0").Causes[1].Count; got != 2 {
		t.Errorf("counted %d times", got)
	}
}

func TestAnOldClearIsHeededOnce(t *testing.T) {
	w := newWorld(t, "sim:1xL4")
	w.xid("sim-n1-0", 95)
	late := placement.DeviceClear{UUID: "sim-n1-0", At: w.now, Causes: []placement.ClearedCause{{Code: "xid-95", Last: w.now.Add(24 * time.Hour)}}}
	if !w.tracker.Clear(late) {
		t.Fatal("not heeded")
	}
	w.pass(time.Minute)
	w.xid("sim-n1-0", 95)
	w.restart()
	if w.tracker.Clear(late) {
		t.Error("heeded twice")
	}
	w.want("sim-n1-0", "cordoned xid-95")
}

func TestSomeFaultsWidenToTheNode(t *testing.T) {
	for _, xid := range []uint64{79, 119, 120} {
		w := newWorld(t, "sim:3xL4")
		w.xid("sim-n1-1", xid)
		w.want("sim-n1-0", fmt.Sprint("cordoned node-xid-", xid))
		w.want("sim-n1-2", fmt.Sprint("cordoned node-xid-", xid))
		if broken := w.tracker.Broken(); len(broken) != 1 || broken["sim-n1-1"] == "" {
			t.Errorf("XID %d: tasks end on %v, want on the device alone", xid, broken)
		}
		w.clear("sim-n1-0")
		w.want("sim-n1-0", "ok")
	}
}

func TestConditionsComeAndGo(t *testing.T) {
	w := newWorld(t, "sim:1xL4")
	facts := &w.reading.Devices[0].Facts
	facts.RemapPending = true
	w.read()
	w.want("sim-n1-0", "degraded remap-pending")
	w.clear("sim-n1-0")
	w.pass(time.Hour)
	w.read()
	w.restart()
	w.read()
	w.want("sim-n1-0", "ok")
	facts.RemapPending = false
	w.read()
	facts.RemapPending = true
	w.read()
	w.want("sim-n1-0", "degraded remap-pending")
	facts.RemapPending, facts.RemapFailed = false, true
	w.read()
	w.want("sim-n1-0", "cordoned remap-failed")
	if got := w.device("sim-n1-0").Causes[0].Action; got != placement.ActionRMA {
		t.Errorf("it wants %s", got)
	}
}

func TestThrottlingMustLast(t *testing.T) {
	w := newWorld(t, "sim:1xL4")
	facts := &w.reading.Devices[0].Facts
	facts.Throttle = 1 | 2 | 4 | 16 | 32 // no alarm among them
	for range 20 {
		w.pass(10 * time.Second)
		w.read()
	}
	w.want("sim-n1-0", "ok")
	facts.Throttle = throttleThermal
	w.read()
	w.pass(10 * time.Second)
	w.read()
	w.want("sim-n1-0", "ok")
	w.pass(20 * time.Second)
	w.read()
	w.want("sim-n1-0", "degraded throttle")
	facts.Throttle = 0
	w.pass(time.Minute)
	w.read()
	w.want("sim-n1-0", "degraded throttle")
	w.pass(5 * time.Minute)
	w.read()
	w.want("sim-n1-0", "ok")
}

func TestUnknownDevicesAreNotGone(t *testing.T) {
	w := newWorld(t, "sim:2xL4")
	w.tracker.Down("the driver did not answer within 10s", 0, w.now)
	w.want("sim-n1-0", "lost driver")
	w.want("sim-n1-1", "lost driver")
	if broken := w.tracker.Broken(); len(broken) != 0 {
		t.Errorf("a driver that is silent ends the tasks on %v", broken)
	}
	w.clear("sim-n1-0")
	w.want("sim-n1-0", "lost driver")
	w.restart()
	w.want("sim-n1-0", "lost driver")
	w.read()
	w.want("sim-n1-0", "ok")

	all := w.reading.Devices
	w.reading.Devices = all[:1]
	w.read()
	w.want("sim-n1-1", "ok") // once may be chance
	w.read()
	w.want("sim-n1-1", "lost missing")
	w.restart()
	w.read()
	w.want("sim-n1-1", "lost missing")
	w.clear("sim-n1-1")
	if got := len(w.tracker.Devices()); got != 1 {
		t.Errorf("%d devices, want the missing one forgotten", got)
	}
	w.reading.Devices = all
	w.read()
	w.want("sim-n1-1", "ok")
}

func TestALostDeviceKeepsWhatWasKnown(t *testing.T) {
	w := newWorld(t, "sim:1xH100")
	w.reading.Devices[0] = Observed{Device: placement.Device{UUID: "sim-n1-0", Model: "NVIDIA", Health: placement.DeviceOK}, Facts: Facts{Lost: true}}
	w.read()
	w.want("sim-n1-0", "lost lost")
	if d := w.device("sim-n1-0"); d.Memory == 0 || d.Model != "NVIDIA H100 80GB HBM3" {
		t.Errorf("it is now %s of %s", d.Model, d.Memory)
	}
	w.clear("sim-n1-0")
	w.want("sim-n1-0", "lost lost")
}

func TestInstancesShareWhatEndsTheGPU(t *testing.T) {
	w := newWorld(t, "sim:1xH100/7x1g.10gb")
	if got := w.xid("sim-n1-0-mig-3", 94); len(got) != 1 {
		t.Errorf("a contained fault concerns %v", got)
	}
	if got := w.xid("sim-n1-0-mig-3", 95); len(got) != 8 {
		t.Errorf("an uncontained fault concerns %v", got)
	}
	// Cut anew: the instances are no loss.
	w.reading.Devices = w.reading.Devices[:1]
	w.read()
	if got := len(w.tracker.Devices()); got != 8 {
		t.Errorf("instances that are missing once leave %d devices", got)
	}
	w.read()
	if got := len(w.tracker.Devices()); got != 1 {
		t.Errorf("%d devices are left", got)
	}
}

// An instance that is missing once, or whose GPU cannot be read, is not gone: it
// keeps what was known and what stands against it.
func TestAnInstanceIsNotGoneWithOneReading(t *testing.T) {
	w := newWorld(t, "sim:1xH100/7x1g.10gb")
	w.xid("sim-n1-0-mig-3", 94)
	all := w.reading.Devices
	w.reading.Devices = all[:1]
	w.read()
	w.want("sim-n1-0-mig-3", "cordoned xid-94")
	w.want("sim-n1-0-mig-4", "ok")
	w.reading.Devices = all
	w.read()
	w.want("sim-n1-0-mig-3", "cordoned xid-94")

	sick := all[0]
	sick.Device = placement.Device{UUID: sick.UUID, Model: "NVIDIA", Health: placement.DeviceOK}
	sick.Facts.Unreadable = "its MIG mode: Unknown Error"
	w.reading.Devices = []Observed{sick}
	w.read()
	w.want("sim-n1-0-mig-4", "degraded unreadable")
	w.want("sim-n1-0", "degraded unreadable")
	if d := w.device("sim-n1-0"); !d.Partitioned || d.Offered() {
		t.Errorf("a GPU whose MIG mode cannot be read for once is offered whole: %+v", d)
	}
	for range 3 {
		w.read()
	}
	w.want("sim-n1-0-mig-4", "cordoned unreadable")
	w.want("sim-n1-0-mig-3", "cordoned unreadable,xid-94")
	w.reading.Devices = all
	w.read()
	w.want("sim-n1-0-mig-4", "ok")
	w.want("sim-n1-0", "ok")

	sick.Facts = Facts{Lost: true}
	w.reading.Devices = []Observed{sick}
	w.read()
	w.want("sim-n1-0-mig-4", "lost lost")
	if _, broken := w.tracker.Broken()["sim-n1-0-mig-4"]; !broken {
		t.Error("an instance of a lost GPU goes on")
	}
	// A GPU whose mode is off has no instances.
	w.reading.Devices = all[:1:1]
	w.reading.Devices[0].Partitioned = false
	w.read()
	if got := len(w.tracker.Devices()); got != 1 {
		t.Errorf("%d devices are left", got)
	}
}

// A device that cannot be read keeps what was known: it is taken last at first,
// and not at all when that lasts. One that nothing is known of is not offered.
func TestADeviceThatCannotBeReadKeepsWhatWasKnown(t *testing.T) {
	w := newWorld(t, "sim:2xH100")
	sound := w.reading.Devices[0]
	sick := Observed{Device: placement.Device{UUID: sound.UUID, Model: "NVIDIA", Health: placement.DeviceOK}, Facts: Facts{Unreadable: "its handle: Unknown Error"}}
	w.reading.Devices[0] = sick
	w.read()
	w.want("sim-n1-0", "degraded unreadable")
	if d := w.device("sim-n1-0"); d.Memory != sound.Memory || d.Model != sound.Model || d.Island != sound.Island || d.NUMA != sound.NUMA || !strings.Contains(d.Causes[0].Reason, "its handle") {
		t.Errorf("it is now %+v", d)
	}
	w.read()
	w.want("sim-n1-0", "cordoned unreadable")
	w.reading.Devices[0] = sound
	w.read()
	w.want("sim-n1-0", "ok")
	sick.UUID = "new"
	w.reading.Devices = append(w.reading.Devices, sick)
	w.read()
	w.want("new", "cordoned unreadable")
}

func TestLinksAreNotGoneWithOneReading(t *testing.T) {
	w := newWorld(t, "sim:2xH100")
	w.reading.Devices[0].Fabric = "c/1"
	w.read()
	island := w.device("sim-n1-0").Island
	w.reading.Devices[0].Island, w.reading.Devices[0].Fabric = "", ""
	w.read()
	if d := w.device("sim-n1-0"); d.Island != island || d.Fabric != "c/1" {
		t.Errorf("after one reading without links: %q %q", d.Island, d.Fabric)
	}
	w.read()
	if d := w.device("sim-n1-0"); d.Island != "" || d.Fabric != "" {
		t.Errorf("after two: %q %q", d.Island, d.Fabric)
	}
}

// XID 154 says that what the driver asks for changed: that is anything from
// nothing to a reboot of the node.
func TestWhatTheDriverAsksForIsDone(t *testing.T) {
	for asked, want := range map[Recovery]struct {
		health, other string
		ends          bool
	}{
		"":              {"cordoned xid-154", "ok", true}, // it does not say
		"what is this":  {"cordoned xid-154", "ok", true},
		RecoverNone:     {"ok xid-154-none", "ok", false},
		RecoverReset:    {"cordoned xid-154-reset-gpu", "ok", true},
		RecoverReboot:   {"cordoned xid-154-reboot", "cordoned node-xid-154-reboot", true},
		RecoverDrainP2P: {"cordoned xid-154-drain-p2p", "ok", false},
		RecoverDrain:    {"cordoned xid-154-drain-and-reset", "ok", false},
		RecoverFabric:   {"cordoned xid-154-recover-fabric", "ok", false},
	} {
		w := newWorld(t, "sim:2xH100")
		w.tracker.Fault(Event{UUID: "sim-n1-0", XID: 154, Recovery: asked}, nil, w.now)
		w.want("sim-n1-0", want.health)
		w.want("sim-n1-1", want.other)
		w.restart()
		if broken := w.tracker.Broken(); len(broken) > 0 != want.ends {
			t.Errorf("asked for %q: broken are %v", asked, broken)
		}
	}
	w := newWorld(t, "sim:2xH100")
	w.reading.Devices[1].Facts.Recovery = RecoverDrain
	w.read()
	w.want("sim-n1-1", "cordoned recovery")
	if broken := w.tracker.Broken(); len(broken) != 0 {
		t.Errorf("a drain ends the tasks on %v", broken)
	}
	w.reading.Devices[1].Facts.Recovery = RecoverNone
	w.read()
	w.want("sim-n1-1", "ok")
	// The word is for XID 154 alone.
	w.tracker.Fault(Event{UUID: "sim-n1-0", XID: 95, Recovery: RecoverNone}, nil, w.now)
	w.want("sim-n1-0", "cordoned xid-95")
}

func TestTheSameFaultOfDifferentJobsIsTheDevices(t *testing.T) {
	w := newWorld(t, "sim:2xL4")
	by := func(uuid, job, tenant string) {
		w.pass(time.Minute)
		w.holders = map[string][]Holder{uuid: {{placement.JobID(job), placement.TenantID(tenant)}}}
		w.xid(uuid, 31)
	}
	by("sim-n1-0", "j1", "a")
	by("sim-n1-0", "j1", "a")
	w.want("sim-n1-0", "ok xid-31")
	by("sim-n1-0", "j2", "b")
	w.want("sim-n1-0", "cordoned suspect,xid-31")
	w.clear("sim-n1-0")
	w.want("sim-n1-0", "ok")
	by("sim-n1-0", "j3", "c")
	w.want("sim-n1-0", "ok xid-31")
	w.pass(25 * time.Hour)
	by("sim-n1-0", "j4", "d")
	w.want("sim-n1-0", "ok xid-31")

	// A tenant's program that fails wherever it runs closes nothing.
	w = newWorld(t, "sim:2xL4")
	by("sim-n1-1", "j0", "evil")
	for i := range 5 {
		by("sim-n1-0", fmt.Sprint("j", i), "evil")
	}
	w.want("sim-n1-0", "ok xid-31")
}

// The device is the operator's: no tenant closes one by what its own programs do,
// in however many jobs, on a device of its own, beside another on a shared one or
// in the next instance. Every XID that a program can cause is tried.
func TestNoTenantClosesADevice(t *testing.T) {
	for _, xid := range []uint64{8, 11, 13, 31, 43, 45, 68, 69, 109} {
		evil := func(i int) Holder { return Holder{placement.JobID(fmt.Sprint("evil-", i)), "evil"} }
		w := newWorld(t, "sim:1xH100")
		for i := range 20 {
			w.pass(time.Minute)
			w.holders = map[string][]Holder{"sim-n1-0": {evil(i)}}
			w.xid("sim-n1-0", xid)
		}
		if d := w.device("sim-n1-0"); !d.Offered() {
			t.Errorf("XID %d: one tenant's jobs make its device %s: %+v", xid, d.Health, d.Causes)
		}
		w = newWorld(t, "sim:1xH100")
		for i, victim := range []Holder{{"v1", "acme"}, {"v2", "beta"}, {"v3", "gamma"}} {
			w.pass(time.Minute)
			w.holders = map[string][]Holder{"sim-n1-0": {evil(i), victim}}
			if i == 1 {
				w.holders["sim-n1-0"] = []Holder{victim, evil(i)}
			}
			w.xid("sim-n1-0", xid)
		}
		w.want("sim-n1-0", fmt.Sprint("ok xid-", xid))
		w = newWorld(t, "sim:1xH100/2x1g.10gb")
		for i, victim := range []Holder{{"v1", "acme"}, {"v2", "beta"}} {
			w.pass(time.Minute)
			w.holders = map[string][]Holder{"sim-n1-0-mig-0": {evil(i)}, "sim-n1-0-mig-1": {victim}}
			w.xid("sim-n1-0", xid) // the driver does not say in which instance
			w.xid("", xid)         // nor on which device
		}
		w.want("sim-n1-0-mig-1", fmt.Sprint("ok xid-", xid))
	}
	w := newWorld(t, "sim:1xH100")
	for i, tenant := range []placement.TenantID{"a", "a", "b"} {
		w.holders = map[string][]Holder{"sim-n1-0": {{placement.JobID(fmt.Sprint(i)), tenant}}}
		w.xid("sim-n1-0", 31)
		w.want("sim-n1-0", []string{"ok xid-31", "degraded suspect,xid-31", "cordoned suspect,xid-31"}[i])
	}
}

func TestCompare(t *testing.T) {
	w := newWorld(t, "sim:1xL4")
	a := w.tracker.Devices()
	w.xid("sim-n1-0", 43)
	b := w.tracker.Devices()
	w.pass(time.Second)
	w.xid("sim-n1-0", 43)
	c := w.tracker.Devices()
	if Compare(a, a) != Same || Compare(a, b) != Different || Compare(b, c) != Counted {
		t.Errorf("%v %v %v", Compare(a, a), Compare(a, b), Compare(b, c))
	}
}

func TestSift(t *testing.T) {
	good := placement.Device{UUID: "GPU-1", Model: "m", Memory: 1, Health: placement.DeviceOK}
	as := func(change func(*placement.Device)) Observed {
		d := good
		d.UUID = "GPU-x"
		change(&d)
		return Observed{Device: d}
	}
	for word, bad := range map[string][]Observed{
		"twice":               {as(func(*placement.Device) {}), as(func(*placement.Device) {})},
		"memory is negative":  {as(func(d *placement.Device) { d.Memory = -5 })},
		"more than any":       {as(func(d *placement.Device) { d.Memory = 1 << 60 })},
		"cannot be shown":     {as(func(d *placement.Device) { d.Model = "a\x1b[2Jb" })},
		"parent":              {as(func(d *placement.Device) { d.Parent = "GPU-9" })},
		"too long":            {as(func(d *placement.Device) { d.Fabric = strings.Repeat("f", 200) })},
		"control":             {as(func(d *placement.Device) { d.Island = "a\nb" })},
		"own parent":          {as(func(d *placement.Device) { d.Parent = d.UUID })},
		"is no state":         {as(func(d *placement.Device) { d.Health = "fine" })},
		"its parent cannot":   {as(func(d *placement.Device) { d.Memory = -1 }), as(func(d *placement.Device) { d.UUID, d.Parent = "MIG-1", "GPU-x" })},
		"index":               {as(func(d *placement.Device) { d.Index = -1 })},
		"one of its causes":   {as(func(d *placement.Device) { d.Causes = []placement.Cause{{Code: "a\tb"}} })},
		"too many causes":     {as(func(d *placement.Device) { d.Causes = make([]placement.Cause, 17) })},
		"must have 1 to 128 ": {as(func(d *placement.Device) { d.UUID = "" })},
	} {
		kept, lies := Sift(append([]Observed{{Device: good}}, bad...))
		var said []string
		for _, err := range lies {
			said = append(said, err.Error())
		}
		if len(kept) != 1 || kept[0].UUID != "GPU-1" || !strings.Contains(strings.Join(said, "\n"), word) {
			t.Errorf("%s: kept %d, said %q", word, len(kept), said)
		}
	}
}

func TestSimulatedTopology(t *testing.T) {
	devices, err := Parse("sim:8xH100,2xL4,4xV100,1xA100/1x3g.40gb+2x2g.20gb", "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(devices); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, d := range devices {
		if !d.Simulated || !strings.HasPrefix(d.UUID, "sim-n1-") {
			t.Errorf("%+v does not say that it is simulated", d)
		}
		lines = append(lines, fmt.Sprint(d.Index, " ", d.NUMA, " ", d.Island, " ", d.Profile, " ", d.Offered(), " ", d.Memory))
	}
	for i, want := range map[int]string{
		0: "0 0 nvlink-0  true 81559MiB", 7: "7 1 nvlink-0  true 81559MiB", 8: "8 2   true 23034MiB", 10: "10 2 nvlink-1  true 32GiB",
		14: "14 3   false 80GiB", 15: "14 3  3g.40gb true 40GiB", 17: "14 3  2g.20gb true 20GiB",
	} {
		if lines[i] != want {
			t.Errorf("device %d is %q, want %q", i, lines[i], want)
		}
	}
	for _, bad := range []string{"sim:1xL4/7x1g.3gb", "sim:1xH100/8x1g.10gb", "sim:1xH100/3x3g.40gb", "sim:1xH100/1x5g.10gb", "sim:1xH100/1x1g.999gb", "sim:1xH100/", "sim:64xH100/7x1g.10gb", "sim:99999999999xL4"} {
		if got, err := Parse(bad, "n1"); err == nil {
			t.Errorf("%s gives %d devices", bad, len(got))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"sim:8xH100", "sim:2xH100/7x1g.10gb", "sim:2xZ9@48GiB", "none", "sim:1xA100/1x3g.40gb+2x2g.20gb,1xT4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		devices, err := Parse(spec, "n1")
		if err != nil {
			return
		}
		if err := Check(devices); err != nil {
			t.Fatalf("%q: %v", spec, err)
		}
	})
}
