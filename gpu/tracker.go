package gpu

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// How long things must last to count.
const (
	// throttleAfter is how long an alarming clock reason must hold before the
	// device counts as degraded, throttleUntil how long it must be away again: a
	// power brake of a second is no news for the ledger.
	throttleAfter = 30 * time.Second
	throttleUntil = 5 * time.Minute
	// suspectFor is within which time faults of different jobs are put together.
	suspectFor = 24 * time.Hour
	// suspectJobs is from how many different jobs on the device is looked at, and
	// suspectTenants from how many different tenants it is at fault.
	suspectJobs, suspectTenants = 2, 2
	// missingReadings is how many readings in a row must lack a device.
	missingReadings = 2
)

// The codes of causes that are no XID.
const (
	CodeLost         = "lost"          // it answers that it is lost
	CodeMissing      = "missing"       // the driver does not list it any more
	CodeDriver       = "driver"        // the driver cannot be asked
	CodeUnreadable   = "unreadable"    // a call that every device answers failed
	CodeRemapPending = "remap-pending" // rows wait for a reset
	CodeRemapFailed  = "remap-failed"  // no spare row is left
	CodeThrottle     = "throttle"      // its clocks are held down by an alarm
	CodeSuspect      = "suspect"       // different jobs met the same fault here
	CodeRecovery     = "recovery"      // the driver asks for one
	codeNode         = "node-"         // begins what another device of the node caused
)

// Holder is who held a device when it told of a fault.
type Holder struct {
	Job    placement.JobID    `json:"job"`
	Tenant placement.TenantID `json:"tenant,omitempty"`
}

// Memory is what a [Tracker] keeps across restarts of the agent.
type Memory struct {
	Devices []Remembered `json:"devices"`
}

// Remembered is one device of a [Memory].
type Remembered struct {
	placement.Device
	// Accepted are conditions that an operator cleared and that still hold.
	Accepted []string  `json:"accepted,omitempty"`
	Cleared  time.Time `json:"cleared,omitzero"` // when the last clear that was heeded was given
	Marks    []Mark    `json:"marks,omitempty"`
	Source   int       `json:"source,omitempty"` // of several joined, which sees it
}

// Mark is one application fault of one job, see [CodeSuspect].
type Mark struct {
	Holder
	At time.Time `json:"at"`
}

// Tracker is the health of one node's devices: readings, faults and operators'
// clears go in, devices with causes come out. It is pure: time is handed in,
// nothing is asked. One goroutine owns it.
//
// A fault stands until an operator clears it. A condition (a pending remap, a
// lost device, a silent driver) stands as long as it is seen; one that was
// cleared stays cleared until it went away and came again.
type Tracker struct {
	records map[string]*record
}

// NewTracker goes on from what an earlier one kept.
func NewTracker(m Memory) *Tracker {
	t := &Tracker{records: map[string]*record{}}
	for _, d := range m.Devices {
		r := &record{Remembered: d, causes: map[string]*placement.Cause{}}
		for _, c := range d.Causes {
			r.causes[c.Code] = &c
		}
		r.Device.Causes = nil
		t.records[d.UUID] = r
	}
	return t
}

// stamp is a time as it is written down: comparable after a round trip.
func stamp(at time.Time) time.Time { return at.UTC().Truncate(time.Millisecond) }

// Read takes what was seen. Devices must have been through [Sift].
func (t *Tracker) Read(r Reading, at time.Time) {
	at = stamp(at)
	seen := make(map[string]*Observed, len(r.Devices))
	for i := range r.Devices {
		o := &r.Devices[i]
		seen[o.UUID] = o
		rec := t.records[o.UUID]
		if rec == nil {
			rec = &record{causes: map[string]*placement.Cause{}}
			t.records[o.UUID] = rec
		}
		rec.see(o, at)
	}
	for id, rec := range t.records {
		if r.Source != 0 && rec.Source != 0 && r.Source != rec.Source {
			continue // its own source said nothing new
		}
		away := seen[id] == nil && r.silent(rec.Source)
		rec.condition(CodeDriver, away, placement.Cause{
			Reason: "its driver is not there any more", Health: placement.DeviceLost, Action: placement.ActionReboot}, at)
		if seen[id] != nil || away {
			continue
		}
		whole := seen[rec.Parent] // nil also for a device without a parent
		if whole != nil && (whole.Facts.Lost || whole.Facts.Unreadable != "") {
			rec.follow(&whole.Facts, at)
			continue
		}
		rec.unseen++
		switch {
		case whole != nil && (!whole.Partitioned || rec.unseen >= missingReadings):
			delete(t.records, id) // the GPU was cut anew
		case rec.unseen >= missingReadings:
			rec.condition(CodeMissing, true, placement.Cause{
				Reason: "the driver does not list it any more", Health: placement.DeviceLost, Action: placement.ActionReboot}, at)
		}
	}
}

// Fault takes an XID. holders are who holds the devices at present, by UUID.
// It returns what the XID means and which devices it concerns themselves.
func (t *Tracker) Fault(e Event, holders map[string][]Holder, at time.Time) (Fault, []string) {
	at = stamp(at)
	f := XID(e.XID).asking(e.Recovery)
	var concerned []string
	for _, id := range t.ids() {
		rec := t.records[id]
		switch {
		case t.concerns(rec, e.UUID, f):
			concerned = append(concerned, id)
			rec.add(f.Code(), placement.Cause{Reason: fmt.Sprintf("XID %d: %s", f.XID, f.Reason), Health: f.Health, Action: f.Action}, at)
			if f.Suspect && e.UUID == id {
				rec.mark(holders[id], at)
			}
		case f.Node:
			rec.add(codeNode+f.Code(), placement.Cause{
				Reason: clip(fmt.Sprintf("XID %d of %s: %s", f.XID, e.UUID, f.Reason)), Health: placement.DeviceCordoned, Action: f.Action}, at)
		}
	}
	if f.Suspect {
		t.suspect(at)
	}
	return f, concerned
}

// concerns reports whether a fault of a device is one of the record's. A GPU
// and its instances share what ends the GPU; a fault of one instance that the
// GPU survives stays there.
func (t *Tracker) concerns(r *record, uuid string, f Fault) bool {
	if uuid == "" || r.UUID == uuid || r.Parent == uuid {
		return true
	}
	of := t.records[uuid]
	if of == nil || of.Parent == "" || f.Class != ClassFatal {
		return false
	}
	return r.UUID == of.Parent || r.Parent == of.Parent
}

// mark notes an application fault of a job, once per job. Of a device that
// several tenants share nobody knows whose program it was: nothing is noted, or
// one tenant could make another's name stand against the device beside its own.
func (r *record) mark(holders []Holder, at time.Time) {
	if len(holders) == 0 || slices.ContainsFunc(holders, func(h Holder) bool { return h.Job == "" || h.Tenant != holders[0].Tenant }) {
		return
	}
	h := holders[0]
	r.Marks = slices.DeleteFunc(r.Marks, func(m Mark) bool { return at.Sub(m.At) > suspectFor || m.Job == h.Job })
	if r.Marks = append(r.Marks, Mark{h, at}); len(r.Marks) > 16 {
		r.Marks = r.Marks[1:]
	}
}

// suspect cordons devices on which jobs of different tenants met application
// faults; if they were jobs of one tenant the device is degraded, as no tenant can
// close a device by itself. A fault that follows a tenant from device to device is
// that of its program: its marks count on no device.
func (t *Tracker) suspect(at time.Time) {
	places := map[placement.TenantID]map[string]bool{}
	for _, rec := range t.records {
		for _, m := range rec.Marks {
			if places[m.Tenant] == nil {
				places[m.Tenant] = map[string]bool{}
			}
			places[m.Tenant][cmp.Or(rec.Parent, rec.UUID)] = true
		}
	}
	for _, id := range t.ids() {
		rec := t.records[id]
		jobs, tenants := 0, map[placement.TenantID]bool{}
		for _, m := range rec.Marks {
			if at.Sub(m.At) <= suspectFor && len(places[m.Tenant]) == 1 {
				jobs++
				tenants[m.Tenant] = true
			}
		}
		c := placement.Cause{
			Reason: fmt.Sprintf("%d different jobs met faults on it that programs cause elsewhere one at a time", jobs),
			Health: placement.DeviceDegraded, Action: placement.ActionNone}
		if len(tenants) >= suspectTenants {
			c.Health, c.Action = placement.DeviceCordoned, placement.ActionResetGPU
		}
		if known := rec.causes[CodeSuspect]; jobs >= suspectJobs && (known == nil || known.Health != placement.DeviceCordoned && known.Health != c.Health) {
			rec.add(CodeSuspect, c, at)
		}
	}
}

// Down says that the devices of a source, or all if it is 0, cannot be seen: they
// are kept, and count as lost until its next reading.
func (t *Tracker) Down(reason string, source int, at time.Time) {
	for _, rec := range t.records {
		if source != 0 && rec.Source != 0 && rec.Source != source {
			continue
		}
		rec.condition(CodeDriver, true, placement.Cause{Reason: clip(reason), Health: placement.DeviceLost, Action: placement.ActionReboot}, stamp(at))
	}
}

// Clear heeds an operator's word once. What was seen after the causes that the
// operator saw counts again; that a device is lost, or that its driver does not
// answer, no word changes. A device that is missing is forgotten.
func (t *Tracker) Clear(c placement.DeviceClear) bool {
	rec := t.records[c.UUID]
	if rec == nil || !c.At.After(rec.Cleared) {
		return false
	}
	rec.Cleared = c.At
	for _, saw := range c.Causes {
		now := rec.causes[saw.Code]
		if now == nil || now.Last.After(saw.Last) {
			continue
		}
		switch saw.Code {
		case CodeMissing:
			delete(t.records, c.UUID)
			return true
		case CodeLost, CodeDriver:
			continue
		case CodeSuspect:
			rec.Marks = nil
		case CodeRemapFailed, CodeRemapPending, CodeThrottle, CodeUnreadable, CodeRecovery:
			rec.Accepted = append(rec.Accepted, saw.Code)
		}
		delete(rec.causes, saw.Code)
	}
	return true
}

func (t *Tracker) ids() []string {
	ids := make([]string, 0, len(t.records))
	for id := range t.records {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Devices are the devices with their health, in the driver's order.
func (t *Tracker) Devices() []placement.Device {
	out := make([]placement.Device, 0, len(t.records))
	for _, id := range t.ids() {
		out = append(out, t.records[id].device())
	}
	slices.SortStableFunc(out, func(a, b placement.Device) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Parent, b.Parent), cmp.Compare(a.UUID, b.UUID))
	})
	return out[:min(len(out), MaxDevices)]
}

// Broken are the devices on which no task can have gone on, and why.
func (t *Tracker) Broken() map[string]string {
	out := map[string]string{}
	for id, rec := range t.records {
		for _, c := range rec.device().Causes {
			var xid uint64
			_, err := fmt.Sscanf(c.Code, "xid-%d", &xid)
			if c.Code == CodeLost || c.Code == CodeMissing || err == nil && failsTasks(xid, c.Code) {
				out[id] = "device " + id + ": " + c.Reason
				break
			}
		}
	}
	return out
}

// failsTasks reports whether a cause by an XID has ended the tasks on its device.
func failsTasks(xid uint64, code string) bool {
	f := XID(xid)
	if word, is := strings.CutPrefix(code, f.Code()+"-"); is {
		f = f.asking(Recovery(word))
	}
	return f.FailsTasks() && f.Code() == code
}

// Memory is what the next tracker goes on from.
func (t *Tracker) Memory() Memory {
	var m Memory
	for _, id := range t.ids() {
		rec := t.records[id]
		d := rec.Remembered
		d.Device = rec.device()
		d.Accepted, d.Marks = slices.Clone(rec.Accepted), slices.Clone(rec.Marks)
		m.Devices = append(m.Devices, d)
	}
	return m
}

// clip bounds a reason in bytes.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == 0xfffd {
			return ' '
		}
		return r
	}, s)
	if len(s) > 250 {
		s = strings.ToValidUTF8(s[:247], "") + "..."
	}
	return s
}
