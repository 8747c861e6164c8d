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
	heard   time.Time // when a record not held was last spoken of
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

// Member is one member as Members would list it; false if it was never seen.
func (p *Pool) Member(node placement.NodeID) (Member, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[node]
	if m == nil {
		return Member{}, false
	}
	return p.copyLocked(m), true
}

// copyLocked is a member as it is handed out; mu is held.
func (p *Pool) copyLocked(m *Member) Member {
	c := *m
	c.Behind = p.late[m.Node] != nil
	return c
}

// present reports whether the pool counts the member.
func (m *Member) present() bool { return m.State == Alive || m.State == Suspect }

// alive reports whether a node is in the pool, or whoever is at its address when
// its name is not known.
func (p *Pool) alive(node placement.NodeID, addr netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		if (m.Node == node || node == "" && m.Addr == addr) && m.present() {
			return true
		}
	}
	return false
}

// size is how many nodes the pool has, this one included.
func (p *Pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return 1 + p.present
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
	old, was := m.State, m.present()
	change(m)
	if is := m.present(); is && !was {
		p.present++
	} else if was && !is {
		p.present--
	}
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
		p.speaksLocked(m, meta)
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
			p.dropLocked(node)
		}
	}
}
