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

// NotifyMsg takes in a fragment or a notice.
func (d *delegate) NotifyMsg(b []byte) {
	b = bytes.Clone(b)
	if !d.work.put(func() { d.pool().message(b) }) {
		d.counts.dropped.Add(1)
	}
}

// GetBroadcasts gives the fragments that fit into a packet.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.queue.GetBroadcasts(overhead, limit)
}

// LocalState is every record held, for push/pull.
func (d *delegate) LocalState(bool) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b []byte
	for _, r := range d.records {
		if len(b)+len(r.Statement)+4 > stateMax {
			break // map order is random: the next exchange carries others
		}
		b = appendState(b, r.Statement)
	}
	return b
}

// MergeRemoteState takes in another's records.
func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	statements, err := splitState(b)
	if err != nil {
		d.counts.garbage.Add(1)
		d.cfg.Log.Warn("a gossip state was not read to its end", "err", err)
	}
	for _, s := range statements {
		if !d.work.put(func() { d.pool().accept(s) }) {
			d.counts.dropped.Add(1)
		}
	}
}

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

// message handles a fragment or a notice, on the pool's goroutine.
func (p *Pool) message(b []byte) {
	kind, f, err := parseMessage(b)
	if err != nil {
		p.counts.garbage.Add(1)
		return
	}
	if kind == kindNotice {
		if f.node != p.cfg.Self && p.noticed(f.node) {
			p.broadcast("leave/"+string(f.node), b)
		}
		return
	}
	p.mu.Lock()
	fresh, statement := p.parts.add(f)
	p.mu.Unlock()
	if fresh {
		// Each fragment goes its own way: were only whole records passed on, most
		// would wait for the next push/pull.
		p.broadcast(fragmentName(f.hash, int(f.index)), b)
	}
	if statement != "" {
		p.accept(statement)
	}
}

func fragmentName(hash [8]byte, index int) string { return fmt.Sprintf("%x/%d", hash, index) }

// broadcast queues a message; one of the same name that still waits is replaced.
func (p *Pool) broadcast(name string, b []byte) {
	p.queue.QueueBroadcast(&news{name, b})
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
