// Package engine ranks the nodes of a cluster for demands, fast enough to do so
// at every arrival.
//
// A demand goes where it spoils least of what later demands need: the growth of
// fragmentation over the mix of demands seen so far (the fragmentation gradient
// of Weng, Yang et al., USENIX ATC 2023), plus a price for what others, bound by
// model, jurisdiction, operator or confidential mode, cannot do without. The
// price of a type of resource is the share of the demand that is bound to it,
// over its share of all that is still usable: it rises as the type runs out.
// Both parts are rounded to bins, and within a bin the first node by name wins:
// that concentrates load and keeps whole nodes free.
//
// The rule that must hold: a zone that a demand does not name is no place, and
// a demand that fits somewhere is never turned away; cost ranks what is lawful
// and nothing else. [Cluster.Decide] answers as [Cluster.Scan] does.
//
// Package scheduler decides with it, and package simulate measures it. It is
// pure: no I/O, no clock, no randomness, integers only, and nothing depends on
// the order in which a map is walked.
package engine

import "math/bits"

// MilliDevice is a whole device; a share is a part of it.
const MilliDevice = 1000

// Set is a set of small numbers: models, or zones. The zero value is empty.
type Set [4]uint64

// SetMax is how many numbers a [Set] tells apart: 0 to SetMax-1.
const SetMax = 256

// SetOf is the set of the numbers given.
func SetOf(ids ...int) Set {
	var s Set
	for _, id := range ids {
		s = s.With(id)
	}
	return s
}

// With is the set and one number more, which must be below [SetMax].
func (s Set) With(id int) Set {
	s[id>>6] |= 1 << (id & 63)
	return s
}

// Has reports whether the number is in the set.
func (s Set) Has(id int) bool {
	return uint(id) < SetMax && s[id>>6]&(1<<(id&63)) != 0
}

// Empty reports whether nothing is in the set.
func (s Set) Empty() bool { return s == Set{} }

// Len is how many numbers are in the set.
func (s Set) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Device is one device of a node.
type Device struct {
	// Model is the caller's number for what it can be asked for by: its model,
	// and its memory where demands name that. Below [SetMax].
	Model int
	// Profile is the caller's number for the profile of a MIG instance; 0 for a
	// device that is not split.
	Profile int
	// Idle is what is free of it, in thousandths.
	Idle int
	// Island is the NVLink island and NUMA the memory node that it belongs to;
	// devices with equal numbers are close to each other.
	Island, NUMA int
	// Off keeps it from new demands: its health does not allow them.
	Off bool
}

// Node is one machine: what is free of it now.
type Node struct {
	Name string
	// Zone is the caller's number for the place in law: one jurisdiction and one
	// operator. Below [SetMax].
	Zone         int
	Confidential bool  // its confidential mode is on
	CPU          int64 // free, in thousandths of a core
	Memory       int64 // free, in bytes
	Devices      []Device
	Cordoned     bool
	// Offers are the abilities that demands may need, a bit for each.
	Offers uint64
}

// Demand is what a task asks for. It is comparable: equal demands share an
// index.
type Demand struct {
	CPU    int64 // thousandths of a core
	Memory int64 // bytes
	Num    int   // devices
	Milli  int   // of each device, in thousandths; less than 1000 only with Num 1
	// Models are the models that will do; empty is any.
	Models Set
	// Profile asks for MIG instances of that profile instead of devices.
	Profile int
	// Zones are the places that the law permits; empty is none.
	Zones        Set
	Confidential bool
	// Island: all devices must lie in one NVLink island.
	Island bool
	Needs  uint64 // bits that must be in Node.Offers
}

// amount is what the demand asks of devices, in thousandths.
func (d *Demand) amount() int64 { return int64(d.Num) * int64(d.Milli) }

// takes reports whether a device of that kind would do, and its place is lawful.
func (d *Demand) takes(k kind) bool {
	return d.Zones.Has(k.zone) && (!d.Confidential || k.confidential) && (d.Num == 0 || d.uses(k.sort))
}

// uses reports whether a device of that sort would do, wherever it stands.
func (d *Demand) uses(s sort) bool {
	return s.model >= 0 && d.Profile == s.profile && (d.Models.Empty() || d.Models.Has(s.model))
}

// Spot is a place for one demand.
type Spot struct {
	Node    int   // in the cluster's order
	Devices []int // their indexes in the node, ascending
	Cost    int   // the bin of its cost, least is best
}

// sort is what devices can be told apart by; model is noDevice for the nodes
// without any.
type sort struct{ model, profile int }

const noDevice = -1

// kind is a sort of device in a place in law: the type of a resource, which has
// a price.
type kind struct {
	sort
	zone         int
	confidential bool
}

// Config are the constants of the score.
type Config struct {
	// BinMilli is the width of a cost bin in thousandths of a device. Fine bins
	// chase noise and open new nodes; 80 is what placement research settled on.
	BinMilli int64
	// PricePercent is the weight of the scarcity price against fragmentation.
	PricePercent int64
	// JurisdictionPrice: scarcity is told apart by jurisdiction, operator and
	// confidential mode, not by device alone. Only measurements switch it off.
	JurisdictionPrice bool
	// IndexBytes bounds the memory of the indexes.
	IndexBytes int
	indexMin   int // indexes that are allowed whatever their size; 0: as many as are of use
}

// DefaultConfig is what the scheduler uses.
func DefaultConfig() Config {
	return Config{BinMilli: 80, PricePercent: 50, JurisdictionPrice: true, IndexBytes: 64 << 20}
}
