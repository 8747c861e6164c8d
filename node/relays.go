package node

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// relays are the streams by which sessions go on into a task that was moved. They
// may be open for days after the move was judged: they are judged again and again.
// The zero value is ready.
type relays struct {
	mu  sync.Mutex
	all map[*relay]bool // guarded by mu
}

// relay leads to another node of the region, and carries a job's bytes.
type relay struct {
	net.Conn
	of   *relays
	node placement.NodeID
	job  *placement.Job
}

// keep knows the connection until it is closed.
func (r *relays) keep(conn net.Conn, node placement.NodeID, job *placement.Job) net.Conn {
	one := &relay{Conn: conn, of: r, node: node, job: job}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = make(map[*relay]bool)
	}
	r.all[one] = true
	return one
}

// Close is idempotent, as is that of every connection.
func (r *relay) Close() error {
	r.of.mu.Lock()
	delete(r.of.all, r)
	r.of.mu.Unlock()
	return r.Conn.Close()
}

// end closes those that are not lawful, and gives why.
func (r *relays) end(lawful func(*relay) error) (why []error) {
	r.mu.Lock()
	var open []*relay
	for one := range r.all {
		open = append(open, one)
	}
	r.mu.Unlock()
	var closing sync.WaitGroup
	defer closing.Wait()
	for _, one := range open {
		if err := lawful(one); err != nil {
			why = append(why, err)
			closing.Go(func() { _ = one.Close() }) // each may take a moment
		}
	}
	return why
}

// judgeRelaysEvery is how often they are judged.
const judgeRelaysEvery = 2 * time.Second

// judgeRelays ends sessions whose bytes may not pass both of their nodes any more.
func (n *Node) judgeRelays(ctx context.Context) error {
	for pause(ctx, judgeRelaysEvery); ctx.Err() == nil; pause(ctx, judgeRelaysEvery) {
		view := n.ledger.View()
		for _, err := range n.relays.end(func(r *relay) error { return n.mayRelay(view, r) }) {
			n.logOf("runner").Warn("a session into a task that was moved is ended", "err", err)
		}
	}
	return nil
}

// mayRelay judges by the job's tag as it was when the stream was opened: it never
// changes, and a worker is not told of a job that has gone elsewhere.
func (n *Node) mayRelay(view *state.View, r *relay) error {
	for _, id := range []placement.NodeID{n.who.Node, r.node} {
		at := view.Node(id)
		if at == nil {
			return errors.New("node " + string(id) + " is not known any more")
		}
		if err := n.lawfulAt(view, r.job, at); err != nil {
			return err
		}
	}
	return nil
}
