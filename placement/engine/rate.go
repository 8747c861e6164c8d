package engine

// Rater rates single nodes for one demand, for a caller that ranks them by more
// than cost and has an index of its own. Prices are those of the moment it was
// made, so that all its answers can be compared; what a node has free is read
// anew. A change of the cluster's nodes, or of the mix, needs a new one.
type Rater struct {
	k     *class
	price []int32 // by number of the kind
}

// Rater is one for the demand.
func (c *Cluster) Rater(d Demand) *Rater {
	r := &Rater{k: c.newClass(d), price: make([]int32, len(c.kinds))}
	for i := range c.kinds {
		if r.k.takes[i] {
			r.price[i] = c.priceBin(&r.k.demand, i)
		}
	}
	return r
}

// Cost is the bin of what the demand costs on a node, least is best; false if it
// has no room there.
func (r *Rater) Cost(node int) (bin int, ok bool) {
	_, cost := r.bank(node)
	return int(cost), cost != never
}

// Devices are the indexes of the devices that the node would give; none if it
// has no room.
func (r *Rater) Devices(node int) []int {
	b, cost := r.bank(node)
	if cost == never {
		return nil
	}
	return r.k.c.devices(r.k, &r.k.c.nodes[node], b)
}

// bank is the cheapest of a node's banks, -1 for a mixture of them.
func (r *Rater) bank(node int) (best int, cost int32) {
	n := &r.k.c.nodes[node]
	best, cost = -1, never
	look := func(b, kind int) {
		if !r.k.counts(kind) {
			return
		}
		if at := r.k.c.cost(r.k, n, b); at != never && at+r.price[kind] < cost {
			best, cost = b, at+r.price[kind]
		}
	}
	if n.whole >= 0 {
		look(-1, n.whole)
	}
	for b := range n.banks {
		look(b, n.banks[b].kind)
	}
	return best, cost
}
