package engine

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	// weightMax bounds the sum of all weights, so that no product overflows:
	// weights below 2^22 and a node's devices below 2^15 thousandths.
	weightMax = 1 << 22
	// devicesMax bounds the devices of one node: more than MIG makes of any.
	devicesMax = 256
)

// group is the part of the mix that asks for the same devices.
type group struct {
	milli int32
	num   int32
}

// table is what the mix means to devices of one sort: the groups that may use
// them, and by the processor left on the node how much of each group's weight
// could still be served. Places in law play no part: they have prices.
type table struct {
	groups []group // those that ask for more of a device first
	// weights has a row of len(groups) for each rank of processor.
	weights []int32
}

// tables are a mix made ready to score with. They are read only.
type tables struct {
	total int64    // the weight of all classes
	unit  int64    // the weight that costs are counted in, see unitOf
	cpus  []int64  // the amounts of processor that classes ask for, ascending
	kinds []*table // by number of the kind; kinds of one sort share theirs
}

// rank is how many of the amounts fit into the processor left.
func (t *tables) rank(cpu int64) int {
	i, found := slices.BinarySearch(t.cpus, cpu)
	if found {
		return i + 1
	}
	return i
}

// row are a table's weights for a rank.
func (t *table) row(rank int) []int32 {
	return t.weights[rank*len(t.groups) : (rank+1)*len(t.groups)]
}

// weightsOf are the classes' counts or weights, shifted below their bound.
func weightsOf(m *Mix, of func(*Class) uint64) []int64 {
	weights := make([]int64, len(m.Classes))
	shift := max(0, bits.Len64(sum(m, of))-bits.Len64(weightMax-1))
	for i := range m.Classes {
		weights[i] = int64(of(&m.Classes[i]) >> shift)
	}
	return weights
}

// compile makes a mix ready for the kinds of devices of a cluster.
func compile(m *Mix, weights []int64, kinds []kind) *tables {
	t := &tables{kinds: make([]*table, len(kinds))}
	for i, c := range m.Classes {
		t.total += weights[i]
		t.cpus = append(t.cpus, c.CPU)
	}
	t.total = max(t.total, 1)
	slices.Sort(t.cpus)
	t.cpus = slices.Compact(t.cpus)
	for k := range kinds {
		for first := range k {
			if kinds[first].sort == kinds[k].sort {
				t.kinds[k] = t.kinds[first]
				break
			}
		}
		if t.kinds[k] == nil {
			t.kinds[k] = t.compileSort(m, weights, kinds[k].sort)
		}
	}
	return t
}

func (t *tables) compileSort(m *Mix, weights []int64, s sort) *table {
	out := &table{}
	for i := range m.Classes {
		if d := m.Classes[i].demand(); d.Num > 0 && d.uses(s) {
			out.groups = append(out.groups, group{int32(d.Milli), int32(d.Num)})
		}
	}
	slices.SortFunc(out.groups, func(a, b group) int { return cmp.Or(cmp.Compare(b.milli, a.milli), cmp.Compare(a.num, b.num)) })
	out.groups = slices.Compact(out.groups)
	n := len(out.groups)
	out.weights = make([]int32, (len(t.cpus)+1)*n)
	for i := range m.Classes {
		if d := m.Classes[i].demand(); d.Num > 0 && d.uses(s) {
			g := slices.Index(out.groups, group{int32(d.Milli), int32(d.Num)})
			out.weights[t.rank(d.CPU)*n+g] += int32(weights[i])
		}
	}
	for i := n; i < len(out.weights); i++ {
		out.weights[i] += out.weights[i-n]
	}
	return out
}
