package engine

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// anyNode draws a node that may have devices of several kinds.
func anyNode(t *rapid.T, name string) Node {
	pick := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	n := Node{
		Name: name, Zone: pick("zone", 3), Confidential: pick("confidential", 4) == 0,
		CPU: int64(pick("cpu", 9)) * 4000, Memory: int64(pick("memory", 9)) * 16,
		Cordoned: pick("cordoned", 8) == 0, Offers: uint64(pick("offers", 4)),
	}
	for b := range pick("banks", 3) {
		model, profile := pick("model", 3), 0
		if pick("split", 6) == 0 {
			profile = 1
		}
		for i := range pick("devices", 5) {
			d := Device{Model: model, Profile: profile, Idle: MilliDevice, Island: b*4 + i/2, NUMA: i / 2, Off: pick("off", 9) == 0}
			if pick("used", 3) == 0 {
				d.Idle = pick("idle", 11) * 100
			}
			n.Devices = append(n.Devices, d)
		}
	}
	return n
}

func anyDemand(t *rapid.T) Demand {
	pick := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	d := Demand{CPU: int64(pick("cores", 17)) * 500, Memory: int64(pick("bytes", 5)) * 7, Zones: SetOf(pick("law", 3))}
	if pick("wide", 3) > 0 {
		d.Zones = d.Zones.With(0).With(1)
	}
	switch pick("kind", 4) {
	case 0:
	case 1:
		d.Num, d.Milli = 1, 50+pick("milli", 19)*50
	default:
		d.Num, d.Milli = 1+pick("num", 4), MilliDevice
		d.Island = pick("island", 4) == 0
	}
	if d.Num > 0 && pick("bound", 3) == 0 {
		d.Models = SetOf(pick("model", 3), pick("other model", 3))
	}
	if d.Num > 0 && pick("profile", 6) == 0 {
		d.Profile = 1
	}
	d.Confidential = pick("secret", 8) == 0
	d.Needs = uint64(pick("needs", 8)) & 1
	return d
}

func anyCluster(t *rapid.T, cfg Config) *Cluster {
	var nodes []Node
	for i := range rapid.IntRange(0, 9).Draw(t, "nodes") {
		nodes = append(nodes, anyNode(t, fmt.Sprintf("n%d", i)))
	}
	c, err := New(nodes, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type task struct {
	d  Demand
	at Spot
}

// history plays arrivals, ends, cordons, new inventories and learning on a
// cluster, and calls look before every decision.
func history(t *rapid.T, c *Cluster, look func(d Demand)) {
	var running []task
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		switch rapid.IntRange(0, 9).Draw(t, "event") {
		case 0:
			if len(running) > 0 {
				i := rapid.IntRange(0, len(running)-1).Draw(t, "ends")
				if err := c.Release(running[i].d, running[i].at); err != nil {
					t.Fatal(err)
				}
				running = slices.Delete(running, i, i+1)
			}
		case 1:
			if c.Len() > 0 {
				c.Cordon(rapid.IntRange(0, c.Len()-1).Draw(t, "node"), rapid.Bool().Draw(t, "cordon"))
			}
		case 2:
			if c.Len() > 0 {
				i := rapid.IntRange(0, c.Len()-1).Draw(t, "changed")
				if err := c.Set(anyNode(t, c.Node(i).Name)); err != nil {
					t.Fatal(err)
				}
				running = slices.DeleteFunc(running, func(r task) bool { return r.at.Node == i })
			}
		case 3:
			c.Renew()
		default:
			d := anyDemand(t)
			c.Learn(d)
			look(d)
			if at, ok := c.Decide(d); ok {
				if err := c.Take(d, at); err != nil {
					t.Fatalf("%+v at %+v: %v", d, at, err)
				}
				running = append(running, task{d, at})
			} else {
				c.Refuse(d)
			}
		}
	}
}

func TestTheIndexDecidesAsTheScanDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		cfg.JurisdictionPrice = rapid.Bool().Draw(t, "jurisdiction price")
		c := anyCluster(t, cfg)
		history(t, c, func(d Demand) {
			scan, found := c.Scan(d)
			at, ok := c.Decide(d)
			if ok != found || !reflect.DeepEqual(at, scan) {
				t.Fatalf("%+v: index %+v %v, scan %+v %v", d, at, ok, scan, found)
			}
		})
	})
}

// With room for few indexes, odd demands are scored as coarser ones and indexes
// give way: still what the scan says, and nothing that fits is turned away.
func TestFewIndexesDecideAsTheScanDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		cfg.IndexBytes, cfg.indexMin = 0, rapid.IntRange(1, 3).Draw(t, "indexes")
		c := anyCluster(t, cfg)
		history(t, c, func(d Demand) {
			scan, found := c.Scan(d)
			at, ok := c.Decide(d)
			if ok != found || !reflect.DeepEqual(at, scan) {
				t.Fatalf("%+v: index %+v %v, scan %+v %v", d, at, ok, scan, found)
			}
			if len(c.classes) > cfg.indexMin {
				t.Fatalf("%d indexes, at most %d are allowed", len(c.classes), cfg.indexMin)
			}
		})
	})
}

// fits asks a node by the letter of the demand, without any part of the score.
func fits(n *Node, d Demand) bool {
	if n.Cordoned || n.CPU < d.CPU || n.Memory < d.Memory || !d.Zones.Has(n.Zone) || d.Confidential && !n.Confidential || d.Needs&^n.Offers != 0 {
		return false
	}
	free, islands := 0, make(map[[3]int]int)
	for _, v := range n.Devices {
		if !v.Off && v.Idle >= d.Milli && v.Profile == d.Profile && (d.Models.Empty() || d.Models.Has(v.Model)) {
			free++
			islands[[3]int{v.Model, v.Profile, v.Island}]++
		}
	}
	if !d.Island || d.Num < 2 {
		return free >= d.Num
	}
	for _, count := range islands {
		if count >= d.Num {
			return true
		}
	}
	return false
}

func TestNothingThatFitsIsTurnedAwayAndNothingElseIsPlaced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyCluster(t, DefaultConfig())
		history(t, c, func(d Demand) {
			at, ok := c.Decide(d)
			room := slices.ContainsFunc(c.nodes, func(n node) bool { return fits(&n.Node, d) })
			if ok != room {
				t.Fatalf("%+v: placed %v, there is room: %v", d, ok, room)
			}
			if !ok {
				return
			}
			n := c.Node(at.Node)
			if !fits(n, d) || len(at.Devices) != d.Num || !slices.IsSorted(at.Devices) {
				t.Fatalf("%+v was put on %+v, devices %v", d, n, at.Devices)
			}
			islands := make(map[int]bool)
			for _, i := range at.Devices {
				v := n.Devices[i]
				if v.Off || v.Idle < d.Milli || v.Profile != d.Profile || !d.Models.Empty() && !d.Models.Has(v.Model) {
					t.Fatalf("%+v got %+v", d, v)
				}
				islands[v.Island] = true
			}
			if d.Island && len(islands) > 1 {
				t.Fatalf("%+v got devices %v of several islands", d, at.Devices)
			}
		})
	})
}

// textbook is fragmentation by its definition: for each class the idle amount
// that it could not use, by weight.
func textbook(c *Cluster, n *node) int64 {
	total := int64(0)
	weights := weightsOf(&c.mix, (*Class).weight)
	for _, b := range n.banks {
		for i := range c.mix.Classes {
			class := &c.mix.Classes[i]
			d := class.demand()
			weight := weights[i]
			free, small := 0, int64(0)
			for _, v := range b.idle {
				if int(v) >= d.Milli {
					free++
				} else {
					small += int64(v)
				}
			}
			if d.Num == 0 || !d.uses(c.kinds[b.kind].sort) || free < d.Num || n.CPU < d.CPU {
				small = b.sum
			}
			total += weight * small
		}
	}
	return total
}

func TestFragmentationIsThatOfTheTextbook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyCluster(t, DefaultConfig())
		history(t, c, func(Demand) {
			c.Renew()
			for i := range c.nodes {
				n := &c.nodes[i]
				idle := int64(0)
				for _, b := range n.banks {
					idle += b.sum
				}
				if got, want := c.tables.total*idle-n.usable, textbook(c, n); got != want {
					t.Fatalf("%+v: F is %d, by the definition %d", n, got, want)
				}
			}
		})
	})
}

// A mix that another one carries on learns the same.
func TestAMixGoesOnElsewhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var one Mix
		for range rapid.IntRange(0, 300).Draw(t, "before") {
			one.learn(anyDemand(t))
		}
		two := Mix{Arrivals: one.Arrivals, Classes: slices.Clone(one.Classes)}
		for range rapid.IntRange(0, 50).Draw(t, "after") {
			d := anyDemand(t)
			one.learn(d)
			two.learn(d)
			if rapid.Bool().Draw(t, "refused") {
				one.refuse(d)
				two.refuse(d)
			}
		}
		if err := two.Validate(); err != nil || !reflect.DeepEqual(one, two) {
			t.Fatalf("%v\n%+v\n%+v", err, one, two)
		}
	})
}

// What was learned can be carried on, whatever was asked for.
func TestADemandForMoreDevicesThanANodeHasIsNotLearned(t *testing.T) {
	c, err := New([]Node{{Name: "n1", CPU: 1000}}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	c.Learn(Demand{Num: 1, Milli: MilliDevice, Zones: SetOf(0)})
	c.Learn(Demand{Num: devicesMax + 1, Milli: MilliDevice, Zones: SetOf(0)})
	if err := c.SetMix(c.Mix()); err != nil || c.Mix().Arrivals != 1 {
		t.Errorf("%+v: %v", c.Mix(), err)
	}
}

// A refusal counts for its devices, fades as arrivals do, and weighs in
// fragmentation alone; what the mix does not know is not brought in by it.
func TestRefusalsWeighAndFade(t *testing.T) {
	eight, single := Demand{Num: 8, Milli: MilliDevice, Zones: SetOf(0)}, Demand{Num: 1, Milli: MilliDevice, Zones: SetOf(0)}
	var m Mix
	m.refuse(eight)
	if len(m.Classes) > 0 {
		t.Fatalf("a demand that never came counts: %+v", m)
	}
	m.learn(single)
	m.learn(eight)
	m.refuse(eight)
	c, at, _ := m.find(eight)
	if c = m.Classes[at]; c.Count != one || c.Refused != 8*one || c.weight() != (1+8*pressing)*one || c.count() != one {
		t.Fatalf("%+v", c)
	}
	for range halfLife {
		m.learn(single)
		m.learn(eight)
	}
	_, at, _ = m.find(eight)
	if half := m.Classes[at].Refused; half < one || half > 3*one {
		t.Fatalf("after two half lives %d of %d are left", half, 8*one)
	}
	for range 5000 {
		m.refuse(Demand{Num: devicesMax, Milli: MilliDevice, Zones: SetOf(0)})
		m.refuse(eight)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
}

// Refused demand for whole nodes keeps nodes whole: the same cluster that would
// break up an empty node for a small demand fills a broken one instead.
func TestWhatIsRefusedIsSpoiledLess(t *testing.T) {
	devices := func(idle ...int) (out []Device) {
		for _, v := range idle {
			out = append(out, Device{Idle: v})
		}
		return out
	}
	const free = MilliDevice
	// The broken node has little processor left: filling it spoils shares, which
	// come often; breaking the whole one spoils what came once.
	nodes := []Node{
		{Name: "broken", CPU: 8000, Devices: devices(free, free, 0, 0)},
		{Name: "whole", CPU: 64000, Devices: devices(free, free, free, free)},
	}
	two := Demand{CPU: 8000, Num: 1, Milli: MilliDevice, Zones: SetOf(0)}
	small := Demand{CPU: 1000, Num: 1, Milli: MilliDevice, Zones: SetOf(0)}
	four := Demand{CPU: 32000, Num: 4, Milli: MilliDevice, Zones: SetOf(0)}
	c, err := New(nodes, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.Learn(small)
	}
	c.Learn(four)
	c.Renew()
	before, _ := c.Decide(two)
	for range 20 {
		c.Refuse(four)
	}
	c.Renew()
	after, _ := c.Decide(two)
	if c.Node(before.Node).Name != "whole" || c.Node(after.Node).Name != "broken" {
		t.Fatalf("it goes to %s, and once four devices were refused to %s", c.Node(before.Node).Name, c.Node(after.Node).Name)
	}
}

// However much is refused, what other demands spoil costs what it did, and no
// cost leaves its bounds.
func TestRefusalsMakeNothingCheaper(t *testing.T) {
	// No four devices here: only shares have anything to lose.
	nodes := []Node{{Name: "n1", CPU: 64000, Devices: []Device{{Idle: MilliDevice}, {Idle: 700}}}}
	share := Demand{CPU: 1000, Num: 1, Milli: 600, Zones: SetOf(0)}
	whole := Demand{CPU: 1000, Num: 1, Milli: MilliDevice, Zones: SetOf(0)}
	four := Demand{CPU: 1000, Num: 4, Milli: MilliDevice, Zones: SetOf(0)}
	c, err := New(nodes, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		c.Learn(share)
		c.Learn(whole)
	}
	c.Learn(four)
	c.Renew()
	before, ok := c.Rater(whole).Cost(0)
	if !ok || before == 0 {
		t.Fatalf("a whole device costs %d", before)
	}
	for range 20 {
		c.Refuse(four)
	}
	c.Renew()
	// Weights are whole numbers: a bin more or less is rounding.
	if after, _ := c.Rater(whole).Cost(0); after < before-1 || after > before+1 {
		t.Errorf("it costs %d, and once others were refused %d", before, after)
	}
	for range 1 << 20 {
		c.Refuse(whole)
	}
	c.Renew()
	if cost, ok := c.Rater(whole).Cost(0); !ok || cost < 0 || cost > 8*2*MilliDevice/80 {
		t.Errorf("after a million refusals it costs %d", cost)
	}
}
