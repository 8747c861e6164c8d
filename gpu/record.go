package gpu

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// record is one device as a [Tracker] knows it.
type record struct {
	Remembered
	causes   map[string]*placement.Cause
	unseen   int       // readings in a row without it
	unread   int       // readings in a row in which it could not be read
	unlinked int       // readings in a row in which it had no links, after it had some
	throttle time.Time // since when an alarm holds its clocks down
	cooled   time.Time // when such an alarm was last seen
}

// see takes what one device shows.
func (r *record) see(o *Observed, at time.Time) {
	kept := r.Device
	r.Device, r.Source, r.unseen = o.Device, o.Source, 0
	if kept.UUID != "" && (o.Facts.Lost || o.Facts.Unreadable != "") {
		r.Device, r.Index = kept, o.Index // what it cannot say now it said before
	}
	r.keepLinks(&kept)
	r.Health, r.Causes = "", nil
	r.condition(CodeMissing, false, placement.Cause{}, at)
	if kept.UUID == "" {
		r.unread = missingReadings // nothing is known of it that could be gone by
	}
	r.follow(&o.Facts, at)
	asked, is := o.Facts.Recovery.asks()
	r.condition(CodeRecovery, is, asked, at)
	r.condition(CodeRemapFailed, o.Facts.RemapFailed, placement.Cause{
		Reason: "a broken memory row could not be remapped", Health: placement.DeviceCordoned, Action: placement.ActionRMA}, at)
	r.condition(CodeRemapPending, o.Facts.RemapPending, placement.Cause{
		Reason: "a broken memory row is remapped at the next reset", Health: placement.DeviceDegraded, Action: placement.ActionResetGPU}, at)
	r.condition(CodeThrottle, r.throttled(o.Facts.Throttle, at), placement.Cause{
		Reason: throttleText(o.Facts.Throttle), Health: placement.DeviceDegraded, Action: placement.ActionNone}, at)
}

// follow takes whether the device, or the GPU that it is part of, is lost or
// cannot be read. Once may be chance: it is taken after sound ones, and from the
// second time in a row on not at all.
func (r *record) follow(f *Facts, at time.Time) {
	r.condition(CodeLost, f.Lost, placement.Cause{
		Reason: "it answers that it is lost", Health: placement.DeviceLost, Action: placement.ActionReboot}, at)
	unread := f.Unreadable != "" && !f.Lost
	if !unread {
		r.unread = 0
	} else {
		r.unread++
	}
	c := placement.Cause{Reason: clip("it cannot be read: " + f.Unreadable), Health: placement.DeviceDegraded, Action: placement.ActionNone}
	if r.unread >= missingReadings {
		c.Health, c.Action = placement.DeviceCordoned, placement.ActionResetGPU
	}
	r.condition(CodeUnreadable, unread, c, at)
	if now := r.causes[CodeUnreadable]; now != nil && now.Health != c.Health {
		now.Reason, now.Health, now.Action = c.Reason, c.Health, c.Action
	}
}

// keepLinks keeps by what it hangs together with others if that is missing once.
func (r *record) keepLinks(kept *placement.Device) {
	missing := kept.Island != "" && r.Island == "" || kept.Fabric != "" && r.Fabric == ""
	if !missing || r.Partitioned != kept.Partitioned {
		r.unlinked = 0
		return
	}
	if r.unlinked++; r.unlinked < missingReadings {
		r.Island, r.Fabric = cmp.Or(r.Island, kept.Island), cmp.Or(r.Fabric, kept.Fabric)
	}
}

// throttled waits in both directions, see throttleAfter.
func (r *record) throttled(bits uint64, at time.Time) bool {
	_, was := r.causes[CodeThrottle]
	if was && r.cooled.IsZero() {
		r.cooled = at // a record of an earlier agent
	}
	if bits&(throttleHardware|throttleThermal|throttlePowerBrake) == 0 {
		r.throttle = time.Time{}
		return was && at.Sub(r.cooled) < throttleUntil
	}
	r.cooled = at
	if r.throttle.IsZero() {
		r.throttle = at
	}
	return was || at.Sub(r.throttle) >= throttleAfter
}

func throttleText(bits uint64) string {
	var why []string
	for _, b := range []struct {
		bit  uint64
		text string
	}{{throttleHardware, "hardware slowdown"}, {throttleThermal, "heat"}, {throttlePowerBrake, "power brake"}} {
		if bits&b.bit != 0 {
			why = append(why, b.text)
		}
	}
	return "its clocks are held down: " + strings.Join(why, ", ")
}

// condition sets or ends a cause that holds as long as it is seen.
func (r *record) condition(code string, holds bool, c placement.Cause, at time.Time) {
	_, known := r.causes[code]
	switch {
	case !holds:
		delete(r.causes, code)
		r.Accepted = slices.DeleteFunc(r.Accepted, func(a string) bool { return a == code })
	case !known && !slices.Contains(r.Accepted, code):
		r.add(code, c, at)
	}
}

// add counts a cause.
func (r *record) add(code string, c placement.Cause, at time.Time) {
	old := r.causes[code]
	if old == nil {
		c.Code, c.First = code, at
		old = &c
		r.causes[code] = old
	}
	old.Reason, old.Health, old.Action = c.Reason, c.Health, c.Action
	if at.After(old.Last) {
		old.Last = at
	}
	old.Count++
}

func (r *record) device() placement.Device {
	d := r.Device
	d.Health, d.Causes = placement.DeviceOK, nil
	for _, c := range r.causes {
		d.Causes = append(d.Causes, *c)
		d.Health = Worse(d.Health, c.Health)
	}
	slices.SortFunc(d.Causes, func(a, b placement.Cause) int {
		return cmp.Or(rank(states(), b.Health)-rank(states(), a.Health), cmp.Compare(a.Code, b.Code))
	})
	if len(d.Causes) > placement.MaxDeviceCause {
		d.Causes = d.Causes[:placement.MaxDeviceCause]
	}
	return d
}
