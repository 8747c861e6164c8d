package gpu

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/sovmesh/sovmesh/placement"
)

// maxName bounds a UUID and a model name in a report.
const maxName = placement.MaxDeviceText

// maxMemory is more than any device has: what is above it is a lie.
const maxMemory = 64 << 10 * placement.GiB

// LieError is a device that cannot be as it was reported.
type LieError struct {
	UUID string
	Why  string
}

// Error names the device.
func (e *LieError) Error() string { return fmt.Sprintf("device %s: %s", e.UUID, e.Why) }

// Hint says what the operator can do.
func (e *LieError) Hint() string { return "compare with nvidia-smi -q; the other devices are offered" }

// Check reports the first thing wrong with a node's report of its devices: too
// many, one without a UUID or twice, an impossible memory, texts that are too
// long or have control characters, an unknown parent, a health that is no state.
func Check(devices []placement.Device) error {
	if len(devices) > MaxDevices {
		return fmt.Errorf("%d devices: a node has at most %d", len(devices), MaxDevices)
	}
	if _, lies := sift(devices, func(d *placement.Device) *placement.Device { return d }); len(lies) > 0 {
		return lies[0]
	}
	return nil
}

// Sift drops the devices that cannot be as they were reported and keeps the
// rest: one device that lies shall not hide the others. Of two with one UUID
// neither is kept, since work for one would reach the other.
func Sift(seen []Observed) (kept []Observed, lies []error) {
	if len(seen) > MaxDevices {
		lies = append(lies, fmt.Errorf("%d devices: a node has at most %d; the rest is left out", len(seen), MaxDevices))
		seen = seen[:MaxDevices]
	}
	kept, found := sift(seen, func(o *Observed) *placement.Device { return &o.Device })
	return kept, append(lies, found...)
}

func sift[T any](all []T, device func(*T) *placement.Device) (kept []T, lies []error) {
	times := make(map[string]int, len(all))
	for i := range all {
		times[device(&all[i]).UUID]++
	}
	for i := range all {
		d := device(&all[i])
		why := lie(d)
		switch {
		case why != "":
		case times[d.UUID] > 1:
			why = "it is listed twice"
		case d.Parent != "" && times[d.Parent] != 1:
			why = "its parent " + quote(d.Parent) + " is not listed, or twice"
		}
		if why == "" {
			kept = append(kept, all[i])
			continue
		}
		name := quote(d.UUID)
		if d.UUID == "" {
			name = fmt.Sprint("number ", i)
		}
		lies = append(lies, &LieError{name, why})
	}
	// A parent that was dropped takes its instances with it.
	known := make(map[string]bool, len(kept))
	for i := range kept {
		known[device(&kept[i]).UUID] = true
	}
	kept = slices.DeleteFunc(kept, func(t T) bool {
		d := device(&t)
		if d.Parent == "" || known[d.Parent] {
			return false
		}
		lies = append(lies, &LieError{quote(d.UUID), "its parent cannot be as it was reported"})
		return true
	})
	return kept, lies
}

// lie says what is impossible about one device by itself.
func lie(d *placement.Device) string {
	switch {
	case d.UUID == "" || len(d.UUID) > maxName:
		return fmt.Sprintf("its UUID must have 1 to %d bytes", maxName)
	case !readable(d.UUID) || !readable(d.Model):
		return "its UUID or model has characters that cannot be shown"
	case d.Model == "" || len(d.Model) > maxName:
		return fmt.Sprintf("its model must have 1 to %d bytes", maxName)
	case d.Memory < 0:
		return "its memory is negative"
	case d.Memory > maxMemory:
		return "its memory is more than any device has"
	case !slices.Contains(states(), d.Health):
		return quote(string(d.Health)) + " is no state of health"
	}
	return d.Plausible()
}

func readable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// quote shows a reported text in an error, bounded and escaped where it must be.
func quote(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	if readable(s) {
		return s
	}
	return fmt.Sprintf("%q", s)
}
