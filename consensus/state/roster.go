package state

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sovmesh/sovmesh/placement"
)

// A roster holds the region's nodes, sorted by ID, as table holds other rows, and
// can be copied in constant time like one. It is no tree because every placement
// decision wants all nodes in a row: that row is made once for each state that is
// looked at, from few pieces, and kept. It also knows which nodes a decision has
// to look after, so that nobody walks 10,000 to find none.
//
// A chunk, the list of chunks and the lists of names belong to the roster that
// made them, which alone may change them; a copy shares them and copies what it
// changes.
type roster struct{ r *rosterState }

type rosterState struct {
	owner  *byte // whose chunks may be changed in place
	chunks []rosterChunk
	own    bool // chunks itself is this roster's
	count  int
	// working counts the nodes that are not cordoned; the others those of a role.
	working, voters, standbys int
	// held are the nodes that take no new tasks and have some, sorted.
	held []placement.NodeID
	row  atomic.Pointer[[]*placement.Node] // all of chunks, once asked for
}

type rosterChunk struct {
	owner *byte
	nodes []*placement.Node
}

// rosterChunkMax is how many nodes a chunk has at most: a change copies one chunk
// and the list of chunks, which of 10,000 nodes are about equally long.
const rosterChunkMax = 128

func newRoster() roster { return roster{&rosterState{owner: new(byte)}} }

// snapshot is the copy. Only the owner of r may take it.
func (r roster) snapshot() roster {
	s := r.r
	s.owner, s.own = new(byte), false
	c := &rosterState{owner: new(byte), chunks: s.chunks, count: s.count, working: s.working, voters: s.voters, standbys: s.standbys, held: slices.Clip(s.held)}
	s.held = c.held
	c.row.Store(s.row.Load())
	return roster{c}
}

func (r roster) len() int { return r.r.count }

// find is the chunk and the place in it that a node has or would have.
func (s *rosterState) find(id placement.NodeID) (chunk, at int, found bool) {
	if len(s.chunks) == 0 {
		return 0, 0, false
	}
	chunk, exact := slices.BinarySearchFunc(s.chunks, id, func(c rosterChunk, id placement.NodeID) int {
		return strings.Compare(string(c.nodes[0].ID), string(id))
	})
	if exact {
		return chunk, 0, true
	}
	chunk = max(0, chunk-1)
	at, found = slices.BinarySearchFunc(s.chunks[chunk].nodes, id, func(n *placement.Node, id placement.NodeID) int {
		return strings.Compare(string(n.ID), string(id))
	})
	return chunk, at, found
}

func (r roster) get(id string) (*placement.Node, bool) {
	chunk, at, found := r.r.find(placement.NodeID(id))
	if !found {
		return nil, false
	}
	return r.r.chunks[chunk].nodes[at], true
}

func (r roster) has(id string) bool { _, ok := r.get(id); return ok }

// change makes a chunk and the list of chunks this roster's own.
func (s *rosterState) change(chunk int) *rosterChunk {
	s.row.Store(nil)
	if !s.own {
		s.chunks, s.own = slices.Clone(s.chunks), true
	}
	c := &s.chunks[chunk]
	if c.owner != s.owner {
		c.owner, c.nodes = s.owner, slices.Clone(c.nodes)
	}
	return c
}

func (r roster) put(id string, n *placement.Node) {
	s := r.r
	if len(s.chunks) == 0 {
		s.chunks, s.own = []rosterChunk{{owner: s.owner, nodes: []*placement.Node{n}}}, true
		s.row.Store(nil)
		s.count = 1
		s.tally(nil, n)
		return
	}
	chunk, at, found := s.find(placement.NodeID(id))
	c := s.change(chunk)
	if found {
		s.tally(c.nodes[at], n)
		c.nodes[at] = n
		return
	}
	s.tally(nil, n)
	s.count++
	c.nodes = slices.Insert(c.nodes, at, n)
	if len(c.nodes) > rosterChunkMax {
		half := len(c.nodes) / 2
		upper := rosterChunk{s.owner, slices.Clone(c.nodes[half:])}
		c.nodes = slices.Clip(c.nodes[:half])
		s.chunks = slices.Insert(s.chunks, chunk+1, upper)
	}
}

func (r roster) delete(id string) {
	s := r.r
	chunk, at, found := s.find(placement.NodeID(id))
	if !found {
		return
	}
	c := s.change(chunk)
	s.tally(c.nodes[at], nil)
	s.count--
	c.nodes = slices.Delete(c.nodes, at, at+1)
	if len(c.nodes) == 0 {
		s.chunks = slices.Delete(s.chunks, chunk, chunk+1)
	}
}

// tally keeps what is known of all nodes when one takes another's place; either
// may be nil.
func (s *rosterState) tally(old, now *placement.Node) {
	working := func(n *placement.Node) bool { return n != nil && n.State != placement.NodeCordoned }
	if working(old) {
		s.working--
	}
	if working(now) {
		s.working++
	}
	for i, n := range []*placement.Node{old, now} {
		by := 2*i - 1
		switch {
		case n == nil:
		case n.Role == placement.RoleVoter:
			s.voters += by
		case n.Role == placement.RoleStandby:
			s.standbys += by
		}
	}
	held := func(n *placement.Node) bool { return n != nil && !n.Offers() && n.Used.Tasks > 0 }
	if was, is := held(old), held(now); was == is {
		return
	} else if was {
		s.held = slices.DeleteFunc(slices.Clone(s.held), func(id placement.NodeID) bool { return id == old.ID })
	} else {
		at, _ := slices.BinarySearch(s.held, now.ID)
		s.held = slices.Insert(slices.Clone(s.held), at, now.ID)
	}
}

func (r roster) last() (string, bool) {
	if r.r.count == 0 {
		return "", false
	}
	c := r.r.chunks[len(r.r.chunks)-1].nodes
	return string(c[len(c)-1].ID), true
}

// ascend visits the nodes in order from the first not below from.
func (r roster) ascend(from string, visit func(id string, n *placement.Node) bool) {
	if r.r.count == 0 {
		return
	}
	chunk, at, _ := r.r.find(placement.NodeID(from))
	for _, c := range r.r.chunks[chunk:] {
		for _, n := range c.nodes[at:] {
			if !visit(string(n.ID), n) {
				return
			}
		}
		at = 0
	}
}

// values are all nodes; whoever asks shares the answer with all others.
func (r roster) values() []*placement.Node {
	if row := r.r.row.Load(); row != nil {
		return *row
	}
	out := make([]*placement.Node, 0, r.r.count)
	for _, c := range r.r.chunks {
		out = append(out, c.nodes...)
	}
	r.r.row.Store(&out)
	return out
}
