package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

const (
	// answerEvery is how often each node is asked, at most; a large region is
	// asked more slowly, answerShare per node.
	answerEvery  = time.Second
	answerShare  = 20 * time.Millisecond
	answerWithin = 600 * time.Millisecond
	// answersMissed is how many questions in a row make a node silent; one is
	// enough to give it nothing new.
	answersMissed = 5
	answersAtOnce = 16
)

// answers is what the leader knows of the other nodes beside gossip: whether
// they answer over HTTP/3, with a clock that agrees. A node whose clock or
// certificate is wrong still gossips, but it can neither hear of its tasks nor
// report on them.
type answers struct {
	n *Node

	mu     sync.Mutex
	missed map[placement.NodeID]int       // questions in a row without an answer, of this term; guarded by mu
	asked  map[placement.NodeID]time.Time // when the last question was settled; guarded by mu
}

// watch asks until the term ends. Until a node's first answer in it nothing is
// known, and the node is given nothing new.
func (a *answers) watch(ctx context.Context) {
	a.mu.Lock()
	a.missed, a.asked = map[placement.NodeID]int{}, map[placement.NodeID]time.Time{}
	a.mu.Unlock()
	for ctx.Err() == nil {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(answersAtOnce)
		nodes := a.n.ledger.View().Nodes()
		a.forget(nodes)
		for _, node := range nodes {
			if node.ID != a.n.who.Node && a.due(node.ID) {
				g.Go(func() error { a.note(node.ID, a.ask(gctx, node)); return nil })
			}
		}
		_ = g.Wait() // none of them gives an error
		pause(ctx, retryEvery)
	}
}

// forget lets go of nodes that were removed.
func (a *answers) forget(now []*placement.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.asked {
		if !slices.ContainsFunc(now, func(n *placement.Node) bool { return n.ID == id }) {
			delete(a.asked, id)
			delete(a.missed, id)
		}
	}
}

func (a *answers) due(node placement.NodeID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	every := max(answerEvery, time.Duration(len(a.asked))*answerShare)
	if a.missed[node] > 0 {
		every = answerEvery
	}
	return time.Since(a.asked[node]) >= every
}

// ask reports whether the node answers, at a time that it and this node agree on.
func (a *answers) ask(ctx context.Context, node *placement.Node) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	said, err := a.n.mesh.Hello(ctx, transport.Peer{ID: a.n.id(a.n.who.Region, node.ID), Addr: node.QUIC})
	return err == nil && said.Time.Sub(a.n.deps.now()).Abs() <= maxSkew
}

func (a *answers) note(node placement.NodeID, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[node] = time.Now()
	if ok {
		a.missed[node] = 0
	} else {
		a.missed[node]++
	}
}

// silent reports that the node has left several questions open.
func (a *answers) silent(node placement.NodeID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.missed[node] >= answersMissed && a.trusted()
}

// doubted reports that the node has not answered the last question, or was not
// asked one in this term: too little to record, enough to give it nothing new.
func (a *answers) doubted(node placement.NodeID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[node].IsZero() || a.missed[node] > 0
}

// trusted reports whether most nodes answer, this one counted: when they do
// not, it is this node that nobody understands. The caller holds mu.
func (a *answers) trusted() bool {
	open := 0
	for _, n := range a.missed {
		if n > 0 {
			open++
		}
	}
	return 2*(len(a.asked)-open+1) > len(a.asked)+1
}
