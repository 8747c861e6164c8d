package gossip

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/sovmesh/sovmesh/placement"
)

// State is how a member seems, in the words of SWIM.
type State string

// The states. Suspect is a probe of this node's own that got no answer; dead is
// what the pool agreed on; left is a goodbye. None of them says that a node's
// tasks have stopped.
const (
	Alive   State = "alive"
	Suspect State = "suspect"
	Dead    State = "dead"
	Left    State = "left"
)

// Member is one node of the pool, as this node sees it.
type Member struct {
	Node  placement.NodeID
	Addr  netip.AddrPort
	State State
	Since time.Time // when State began
	// InventoryVersion is of the newest record that the node speaks of; the one
	// held may be older, see Behind.
	InventoryVersion uint64
	// Behind says that the record held is not the one the node speaks of.
	Behind bool

	meta    Meta
	heard   time.Time // when meta last changed
	leaving time.Time // when its goodbye was heard
}

// noticeKept is how long a goodbye explains a silence.
const noticeKept = 30 * time.Second

// Members lists everybody seen, by name, this node excluded.
func (p *Pool) Members() []Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Member, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, p.copyLocked(m))
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return out
}

// copyLocked is a member as it is handed out; mu is held.
func (p *Pool) copyLocked(m *Member) Member {
	c := *m
	held, ok := p.records[m.Node]
	c.Behind = m.meta != Meta{} && (!ok || Meta{held.Version, hashOf(held.Payload)} != m.meta)
	return c
}

// alive reports whether a node is in the pool, or whoever is at its address when
// its name is not known.
func (p *Pool) alive(node placement.NodeID, addr netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		if (m.Node == node || node == "" && m.Addr == addr) && (m.State == Alive || m.State == Suspect) {
			return true
		}
	}
	return false
}

// behindMax bounds the records that are asked for at a time.
const behindMax = 3

// behind lists, as memberlist wants it, live members whose record is not held.
func (p *Pool) behind() []string {
	var out []string
	for _, m := range p.Members() {
		if m.Behind && m.State == Alive && time.Since(m.heard) > p.cfg.RejoinInterval/3 && len(out) < behindMax {
			out = append(out, string(m.Node)+"/"+m.Addr.String())
		}
	}
	return out
}

// size is how many nodes the pool has, this one included.
func (p *Pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 1
	for _, m := range p.members {
		if m.State == Alive || m.State == Suspect {
			n++
		}
	}
	return n
}

// see changes a member under the lock and tells OnEvent when its state is new.
// It is called while memberlist holds its own lock, so it must not call back.
func (p *Pool) see(node placement.NodeID, create bool, change func(*Member)) {
	if node == p.cfg.Self {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[node]
	if m == nil {
		if !create {
			return
		}
		m = &Member{Node: node}
		p.members[node] = m
	}
	old := m.State
	change(m)
	if m.State == old {
		return
	}
	m.Since = time.Now()
	if p.cfg.OnEvent != nil {
		event := p.copyLocked(m)
		p.work.put(func() { p.cfg.OnEvent(event) })
	}
}

// joined takes in an alive message.
func (p *Pool) joined(n *memberlist.Node) {
	addr, _ := netip.AddrFromSlice(n.Addr)
	meta, _ := ParseMeta(n.Meta)
	p.see(placement.NodeID(n.Name), true, func(m *Member) {
		m.Addr = netip.AddrPortFrom(addr.Unmap(), n.Port)
		if m.meta != meta {
			m.heard = time.Now()
		}
		m.meta, m.InventoryVersion = meta, meta.Inventory
		m.leaving = time.Time{}
		m.State = Alive
	})
}

// gone takes in that the pool holds a node dead, or that it said goodbye.
func (p *Pool) gone(node placement.NodeID) {
	p.see(node, false, func(m *Member) {
		m.State = Dead
		if time.Since(m.leaving) < noticeKept {
			m.State = Left
		}
	})
}

// noticed takes in a goodbye and reports whether it is news.
func (p *Pool) noticed(node placement.NodeID) bool {
	news := false
	p.see(node, false, func(m *Member) {
		news = m.leaving.IsZero()
		m.leaving = time.Now()
		if m.State == Dead {
			m.State = Left
		}
	})
	return news
}

func (p *Pool) suspected(node placement.NodeID) {
	p.see(node, false, func(m *Member) {
		if m.State == Alive {
			m.State = Suspect
		}
	})
}

func (p *Pool) answered(node placement.NodeID) {
	p.see(node, false, func(m *Member) {
		if m.State == Suspect {
			m.State = Alive
		}
	})
}

// forgetOld drops members that are long gone, and their records.
func (p *Pool) forgetOld() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node, m := range p.members {
		if (m.State == Dead || m.State == Left) && time.Since(m.Since) > recordKept {
			delete(p.members, node)
			p.dropLocked(node)
		}
	}
}
