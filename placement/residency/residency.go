// Package residency decides where data and computation may live.
//
// Policies only narrow: a site allowed by [Policy.Meet] is allowed by both
// operands, so tenant, dataset and job policies combine without widening any.
// An unknown claim satisfies neither an allow nor a deny rule.
//
// The package is pure: no I/O, no clock, no randomness. The scheduler asks it
// before placing a task, the replicated state asks it again inside Apply, the
// transport before bytes leave a region and the receiver before it takes them.
// All of them, the command line and the auditor's checker run this one engine.
package residency

import (
	"maps"
	"slices"
	"strings"
)

type kind uint8

const (
	kindAny kind = iota
	kindCountry
	kindSubdivision
	kindGroup
	kindAdequate
	kindRegion
	kindSite
)

// item is one place as the grammar knows it.
type item struct {
	kind kind
	code string // country, subdivision, group, exporter of adequate, or name; canonical
	text string // canonical form, without a leading "!"
}

func countryItem(code string) item     { return item{kindCountry, code, code} }
func subdivisionItem(code string) item { return item{kindSubdivision, code, code} }
func groupItem(name string) item       { return item{kindGroup, name, groupText(name)} }
func adequateItem(x item) item         { return item{kindAdequate, x.code, "adequate(" + x.text + ")"} }

// groupText writes a group as the canonical form does.
func groupText(name string) string {
	if bareGroup(name) {
		return name
	}
	return "group:" + name
}

// Tag is what one layer says about residency: the short form or the long one.
// It is immutable and may be copied. Two tags say the same when their
// [Tag.Wire] forms are equal. The zero Tag permits nothing.
type Tag struct{ b *body }

type body struct {
	allow, deny []item // sorted by text, without repetition
	long        Long
	scope       map[string][]item // what Scope says, resolved
	home        []item            // operator.home; nil: not asked
	parent      []item            // operator.parent; nil: not asked
	via         []item            // transit.via; nil: the tag's own set
	canonical   string
	wire        string
}

// newTag sorts what was read and fixes its canonical form.
func newTag(allow, deny []item) *body {
	b := &body{allow: canonicalItems(allow), deny: canonicalItems(deny)}
	b.long.Allow, b.long.Deny = texts(b.allow), texts(b.deny)
	parts := slices.Clone(b.long.Allow)
	for _, d := range b.deny {
		parts = append(parts, "!"+d.text)
	}
	b.canonical = strings.Join(parts, ",")
	b.wire = b.canonical
	return b
}

func canonicalItems(items []item) []item {
	out := slices.Clone(items)
	slices.SortFunc(out, func(a, b item) int { return strings.Compare(a.text, b.text) })
	return slices.CompactFunc(out, func(a, b item) bool { return a.text == b.text })
}

func texts(items []item) []string {
	out := make([]string, 0, len(items))
	for _, it := range items {
		out = append(out, it.text)
	}
	return out
}

// IsZero reports whether t is the zero Tag, which no reader returns.
func (t Tag) IsZero() bool { return t.b == nil }

// Canonical is the canonical short form of what the tag allows and denies.
// Reading it gives it back unchanged; of the long form it leaves out the rest.
func (t Tag) Canonical() string {
	if t.b == nil {
		return ""
	}
	return t.b.canonical
}

// Wire is the whole tag as the header X-Data-Residency carries it: the
// canonical short form when that says everything, else "json:" and base64url
// of the canonical long form. [ParseWire] reads it back unchanged.
func (t Tag) Wire() string {
	if t.b == nil {
		return ""
	}
	return t.b.wire
}

// String is the wire form.
func (t Tag) String() string { return t.Wire() }

// UsesAny reports whether the tag allows ANY, which needs the permission
// residency.any.
func (t Tag) UsesAny() bool {
	return t.b != nil && slices.ContainsFunc(t.b.allow, func(it item) bool { return it.kind == kindAny })
}

// Names lists the regions and sites that the tag names anywhere, sorted, so
// that a mesh can refuse names it does not know.
func (t Tag) Names() (regions, sites []string) {
	if t.b == nil {
		return nil, nil
	}
	lists := [][]item{t.b.allow, t.b.deny, t.b.via}
	for _, name := range slices.Sorted(maps.Keys(t.b.scope)) {
		lists = append(lists, t.b.scope[name])
	}
	for _, list := range lists {
		for _, it := range list {
			switch it.kind {
			case kindRegion:
				regions = append(regions, it.code)
			case kindSite:
				sites = append(sites, it.code)
			}
		}
	}
	slices.Sort(regions)
	slices.Sort(sites)
	return slices.Compact(regions), slices.Compact(sites)
}

// Long gives the typed fields of the tag. A short form has only Allow and
// Deny. The value is the caller's own; its slices are shared and must not be
// written to.
func (t Tag) Long() *Long {
	if t.b == nil {
		return &Long{}
	}
	long := t.b.long
	return &long
}
