package gossip

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/sovmesh/sovmesh/placement"
)

// delegate is what memberlist calls. Its methods run under memberlist's locks or
// in its receive loop: they queue work and return.
type delegate Pool

func (d *delegate) pool() *Pool { return (*Pool)(d) }

// NodeMeta is the meta of the own record.
func (d *delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.meta.Marshal()
}

// NotifyMsg takes in a message.
func (d *delegate) NotifyMsg(b []byte) {
	b = bytes.Clone(b)
	if !d.work.put(func() { d.pool().message(b) }) {
		d.counts.dropped.Add(1)
	}
}

// GetBroadcasts gives the notices and pieces that fit into a packet.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	out := d.notices.GetBroadcasts(overhead, limit)
	for _, b := range out {
		limit -= overhead + len(b)
	}
	return append(out, d.queue.GetBroadcasts(overhead, limit)...)
}

// LocalState is empty: the exchange of state carries every member's meta, by
// which each side sees what it lacks, and asks for it.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState takes nothing.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive refuses members that no region could have.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if !placement.ValidName(n.Name) {
		d.counts.garbage.Add(1)
		return fmt.Errorf("%.80q is no node name", n.Name)
	}
	if _, err := ParseMeta(n.Meta); err != nil {
		d.counts.garbage.Add(1)
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.members[placement.NodeID(n.Name)] == nil && len(d.members) >= recordsMax {
		d.counts.garbage.Add(1)
		return fmt.Errorf("%s is one member too many: the pool has %d", n.Name, recordsMax)
	}
	return nil
}

// NotifyJoin, NotifyUpdate and NotifyLeave keep the table of members.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.pool().joined(n) }

// NotifyUpdate takes in a new meta.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.pool().joined(n) }

// NotifyLeave takes in a death or a goodbye.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.pool().gone(placement.NodeID(n.Name)) }

// AckPayload adds nothing to acks.
func (d *delegate) AckPayload() []byte { return nil }

// NotifyPingComplete ends a suspicion.
func (d *delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.pool().answered(placement.NodeID(n.Name))
}

// message handles one message, on the pool's goroutine.
func (p *Pool) message(b []byte) {
	m, err := parseMessage(b)
	if err != nil {
		p.counts.garbage.Add(1)
		return
	}
	switch m.kind {
	case kindNotice:
		if m.node != p.cfg.Self && p.noticed(m.node) {
			p.notice(m.node)
		}
	case kindWant:
		p.answer(m.node, m.wants)
	default:
		fresh, whole := p.take(m.piece, m.kind == kindAnswer)
		if fresh {
			// Each piece goes its own way: were only whole records passed on, most
			// would have to be asked for.
			p.broadcast(pieceName(m.piece.hash, int(m.piece.index)), b)
		}
		if whole != nil {
			p.accept(m.node, m.piece.hash, whole)
		}
	}
}

func pieceName(hash [8]byte, index int) string { return fmt.Sprintf("%x/%d", hash, index) }

// queueMax bounds the pieces that wait to be passed on; the oldest go first.
const queueMax = 4 * crowdMax

// broadcast queues a piece; the same that still waits is replaced.
func (p *Pool) broadcast(name string, b []byte) {
	p.queue.QueueBroadcast(&news{name, b})
	p.queue.Prune(queueMax)
}

// notice queues a goodbye.
func (p *Pool) notice(node placement.NodeID) {
	p.notices.QueueBroadcast(&news{"leave/" + string(node), appendNotice(nil, node)})
	p.notices.Prune(queueMax)
}

// news is a memberlist.NamedBroadcast.
type news struct {
	name string
	b    []byte
}

func (n *news) Name() string    { return n.name }
func (n *news) Message() []byte { return n.b }
func (n *news) Finished()       {}
func (n *news) Invalidates(b memberlist.Broadcast) bool {
	other, ok := b.(*news)
	return ok && other.name == n.name
}

// inbox is a bounded queue of work, done one by one by Run's goroutine.
type inbox struct {
	mu     sync.Mutex
	queue  []func() // guarded by mu
	closed bool     // guarded by mu
	wake   chan struct{}
}

const inboxMax = 8192

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

// put queues work without waiting; false says that there was no room, or that
// nobody works any more.
func (i *inbox) put(f func()) bool {
	i.mu.Lock()
	ok := !i.closed && len(i.queue) < inboxMax
	if ok {
		i.queue = append(i.queue, f)
	}
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
	return ok
}

// drain works until close.
func (i *inbox) drain() {
	for range i.wake {
		for {
			i.mu.Lock()
			if i.closed {
				i.mu.Unlock()
				return
			}
			if len(i.queue) == 0 {
				i.mu.Unlock()
				break
			}
			f := i.queue[0]
			i.queue = i.queue[1:]
			i.mu.Unlock()
			f()
		}
	}
}

func (i *inbox) close() {
	i.mu.Lock()
	i.closed, i.queue = true, nil
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}
