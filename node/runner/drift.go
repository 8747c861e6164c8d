package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Declared is what a task is held against: what its job and its assignment say,
// and, for what they leave to the image, what was there when it was first looked
// at. It is kept in the task's record, so that an agent that comes back holds the
// task against the same.
type Declared struct {
	Mode placement.Drift `json:"mode,omitempty"` // empty is report
	// Want is what a difference is reported from. A zero field is compared with nothing.
	Want Actual `json:"want"`
	// Settled: what only the running task can tell was taken over.
	Settled bool `json:"settled,omitempty"`
	// Inside: so were the packages and services in it.
	Inside bool `json:"inside,omitempty"`
	// Kept: they are those of a disk that outlives the task.
	Kept bool `json:"kept,omitempty"`
	// Reading is the sum of what the guest told at ReadAt, until that is taken over.
	Reading string    `json:"reading,omitempty"`
	ReadAt  time.Time `json:"read_at,omitzero"`
}

// settleGap is how far two equal readings of a guest lie apart at least before
// they are taken for what it is meant to be: it is no longer being set up then.
const settleGap = 20 * time.Second

// mostInside bounds what a task's record keeps of a guest's packages and
// services, in bytes: a guest may tell what it likes, and a record has a bound.
const mostInside = 256 << 10

// declare is what a spec says of its task.
func declare(s *Spec) *Declared {
	d := &Declared{Want: Actual{CPU: s.Resources.CPU, Memory: s.Resources.Memory, Devices: slices.Sorted(slices.Values(s.Devices))}}
	if s.Setup != nil {
		d.Mode, d.Want.Pids, d.Want.ImageDigest = s.Setup.Drift, s.Setup.Pids, s.Setup.ImageDigest
	}
	return d
}

// settle takes over what the job leaves to the image, once: later changes of it
// are drift. What grew inside a guest is taken over when it has come to rest.
func (d *Declared) settle(seen *Actual, now time.Time) (changed bool) {
	if !d.Settled {
		if d.Want.ImageDigest == "" {
			d.Want.ImageDigest = seen.ImageDigest
		}
		if d.Want.Pids == 0 {
			d.Want.Pids = seen.Pids
		}
		d.Settled, changed = true, true
	}
	for _, l := range []struct{ want, seen *[]string }{{&d.Want.Networks, &seen.Networks}, {&d.Want.Mounts, &seen.Mounts}, {&d.Want.Disks, &seen.Disks}} {
		if *l.want == nil && *l.seen != nil { // what is told for the first time
			*l.want, changed = *l.seen, true
		}
	}
	return d.settleInside(seen, now) || changed
}

// settleInside takes over a guest's packages and services when two looks at it
// found the same, and nothing in it was still starting.
func (d *Declared) settleInside(seen *Actual, now time.Time) (changed bool) {
	if d.Inside || seen.Unsettled || len(seen.Packages)+len(seen.Services) == 0 {
		return false
	}
	sum, size := reading(seen)
	switch {
	case sum != d.Reading:
		d.Reading, d.ReadAt = sum, now
		return true
	case now.Sub(d.ReadAt) < settleGap:
		return false
	}
	d.Inside, d.Reading, d.ReadAt = true, "", time.Time{}
	if size <= mostInside {
		d.Want.Packages, d.Want.Services = seen.Packages, seen.Services
	}
	return true
}

// reading is the sum and the size of what a guest tells of its inside.
func reading(seen *Actual) (sum string, size int) {
	hash := sha256.New()
	for _, lines := range [][]string{pairs(seen.Packages), {""}, pairs(seen.Services)} {
		for _, l := range lines {
			size += len(l) + 8
			_, _ = io.WriteString(hash, l+"\n")
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), size
}

// settling reports whether the task is to be looked at soon again: what is in it
// was not taken over, and may yet be.
func (d *Declared) settling(seen *Actual) bool {
	return !d.Inside && (seen.Unsettled || d.Reading != "")
}

// remedied are the findings that a start from the declared state takes away: what
// is on a disk that outlives the task is there again afterwards.
func (d *Declared) remedied(found []Finding) (out []Finding) {
	for _, f := range found {
		if !d.Kept || f.Subject != "packages" && f.Subject != "services" {
			out = append(out, f)
		}
	}
	return out
}

// Finding is one difference between what was declared and what runs.
type Finding struct {
	// Subject is one of those of [placement.NoteDrift].
	Subject string `json:"subject"`
	// Count is how many things differ: packages, mounts; 1 for a single value.
	Count int    `json:"count"`
	Text  string `json:"text"` // in words, at most [placement.MaxNoteText] bytes
}

// Compare lists how what was seen differs from what is wanted. What either side
// does not know is compared with nothing.
func Compare(want, seen *Actual) (all []Finding) {
	value := func(subject string, known bool, was, is any) {
		if known && was != is {
			all = append(all, Finding{subject, 1, clipText(fmt.Sprintf("declared %v, runs %v", was, is))})
		}
	}
	list := func(subject string, known bool, was, is []string) {
		if more, less := without(is, was), without(was, is); known && len(more)+len(less) > 0 {
			all = append(all, Finding{subject, len(more) + len(less), differing(more, less)})
		}
	}
	value("image", want.ImageDigest != "" && seen.ImageDigest != "", want.ImageDigest, seen.ImageDigest)
	list("devices", seen.Devices != nil, want.Devices, seen.Devices)
	value("cpu", want.CPU != 0 && seen.CPU != 0, want.CPU, seen.CPU)
	value("memory", want.Memory != 0 && seen.Memory != 0, want.Memory, seen.Memory)
	value("pids", want.Pids != 0 && seen.Pids != 0, want.Pids, seen.Pids)
	list("networks", want.Networks != nil && seen.Networks != nil, want.Networks, seen.Networks)
	list("mounts", want.Mounts != nil && seen.Mounts != nil, want.Mounts, seen.Mounts)
	list("disks", want.Disks != nil && seen.Disks != nil, want.Disks, seen.Disks)
	list("packages", want.Packages != nil && seen.Packages != nil, pairs(want.Packages), pairs(seen.Packages))
	list("services", want.Services != nil && seen.Services != nil, pairs(want.Services), pairs(seen.Services))
	return all
}

// pairs are "name version", sorted, so that a version that changed is one thing
// more and one less.
func pairs(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, strings.TrimSpace(name+" "+m[name]))
	}
	return out
}

// without are the items of a that b does not have.
func without(a, b []string) (out []string) {
	has := make(map[string]bool, len(b))
	for _, s := range b {
		has[s] = true
	}
	for _, s := range a {
		if !has[s] {
			out = append(out, s)
		}
	}
	return out
}

func differing(more, less []string) string {
	var parts []string
	if len(more) > 0 {
		parts = append(parts, "not declared: "+strings.Join(more, ", "))
	}
	if len(less) > 0 {
		parts = append(parts, "missing: "+strings.Join(less, ", "))
	}
	return clipText(strings.Join(parts, "; "))
}

// clipText keeps a text below what a note takes.
func clipText(s string) string {
	if len(s) > placement.MaxNoteText {
		s = s[:placement.MaxNoteText-3] + "..."
	}
	return strings.ToValidUTF8(s, "")
}
