package engine

import "math"

// never is the cost of a node that does not fit.
const never = math.MaxInt32

// tree is a tournament over the nodes: each inner place holds the least cost
// below it. A cost that changes costs a walk to the root at most.
type tree struct {
	size int // leaves, a power of two
	min  []int32
}

func newTree(nodes int) tree {
	size := treeSize(nodes)
	return tree{size: size, min: make([]int32, 2*size)}
}

func treeSize(nodes int) int {
	size := 1
	for size < nodes {
		size *= 2
	}
	return size
}

// fill sets every leaf and plays all matches.
func (t *tree) fill(nodes int, cost func(node int) int32) {
	for i := range t.size {
		v := int32(never)
		if i < nodes {
			v = cost(i)
		}
		t.min[t.size+i] = v
	}
	for i := t.size - 1; i > 0; i-- {
		t.min[i] = min(t.min[2*i], t.min[2*i+1])
	}
}

// set changes one leaf.
func (t *tree) set(node int, cost int32) {
	i := t.size + node
	if t.min[i] == cost {
		return
	}
	t.min[i] = cost
	for i /= 2; i > 0; i /= 2 {
		m := min(t.min[2*i], t.min[2*i+1])
		if t.min[i] == m {
			return
		}
		t.min[i] = m
	}
}

// at is the cost of one node.
func (t *tree) at(node int) int32 { return t.min[t.size+node] }

// best is the first node of the least cost, -1 if none fits.
func (t *tree) best() int {
	least := t.min[1]
	if least == never {
		return -1
	}
	i := 1
	for i < t.size {
		i *= 2
		if t.min[i] != least {
			i++
		}
	}
	return i - t.size
}
