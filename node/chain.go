package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	tlog "github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/gateway"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

const (
	// chainWithin bounds one question to all voters, chainAsk one to a single
	// voter, which may wait for a leader.
	chainWithin = 8 * time.Second
	chainAsk    = 3 * time.Second
	// chainPause is the pause after voters did not agree, for whoever asks again.
	chainPause = time.Second
)

// workerLog is the ledger as the keeper of receipts of a worker uses it. Where
// the chain ends it believes when most voters say it alike, each of a state that
// holds all that was acknowledged before: one voter that lies can neither make it
// begin its chain anew nor believe committed what is not. The keeper calls Commit
// from one goroutine.
type workerLog struct {
	n     *Node
	voter placement.NodeID // the one that last committed what it was handed
}

// Segment is where the chain ends, as most voters say.
func (l *workerLog) Segment(ctx context.Context) (*state.Segment, error) {
	if _, err := l.n.facts.Wait(ctx, 0); err != nil {
		return nil, err // who votes is not known yet
	}
	known := l.n.facts.known()
	ctx, cancel := context.WithTimeout(ctx, chainWithin)
	type word struct {
		end *api.ChainEnd
		err error
	}
	words := make(chan word, len(known))
	var asking sync.WaitGroup
	for _, voter := range known {
		asking.Go(func() {
			end, err := l.n.mesh.Chain(ctx, voter)
			words <- word{end, err}
		})
	}
	defer func() { cancel(); asking.Wait() }()
	said, errs := map[state.Segment]int{}, []error(nil)
	for range known {
		w := <-words
		if w.err != nil {
			errs = append(errs, w.err)
			continue
		}
		var end state.Segment // as is: there is none
		if w.end.Segment != nil {
			end = *w.end.Segment
		}
		if said[end]++; said[end] < quorum(len(known)) {
			continue
		}
		if end == (state.Segment{}) {
			return nil, nil
		}
		return &end, nil
	}
	pause(ctx, chainPause)
	return nil, errors.Join(append(errs, fmt.Errorf("of %d voters no %d say alike where this node's chain of receipts ends", len(known), quorum(len(known))))...)
}

// Commit hands the command to a voter, and to the next one if it did not become
// what most voters know.
func (l *workerLog) Commit(ctx context.Context, cmd state.CommitSegment) (state.Result, error) {
	head := state.Head{Version: 1, Time: l.n.deps.now(), Actor: l.n.actor()}
	if _, err := rand.Read(head.Salt[:]); err != nil {
		return state.Result{}, err
	}
	raw, err := state.Encode(head, cmd)
	if err != nil {
		return state.Result{}, err
	}
	var refused *state.Refused
	var errs []error
	for _, voter := range l.best() {
		asked, cancel := context.WithTimeout(ctx, chainAsk)
		res, err := l.n.mesh.Propose(asked, voter, raw)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", voter.ID.Node, err))
			continue
		}
		end, err := l.Segment(ctx)
		switch {
		case err != nil:
			return state.Result{}, err
		case end != nil && end.Seq == cmd.Seq && end.Root == cmd.Root:
			l.voter = voter.ID.Node
			res.Leaf, res.Refused = end.Leaf, nil
			return res, nil
		case res.Refused != nil:
			refused = res.Refused
		default:
			errs = append(errs, fmt.Errorf("%s says that segment %d is committed, and most voters do not know it", voter.ID.Node, cmd.Seq))
		}
	}
	if refused != nil {
		return state.Result{Refused: refused}, nil
	}
	return state.Result{}, errors.Join(append(errs, fmt.Errorf("no voter commits segment %d", cmd.Seq))...)
}

// best are the nodes that take commands, first the one that did last.
func (l *workerLog) best() []transport.Peer {
	out := l.n.voters()
	if i := slices.IndexFunc(out, func(p transport.Peer) bool { return p.ID.Node == l.voter }); i > 0 {
		out[0], out[i] = out[i], out[0]
	}
	return out
}

// keeperOf is the node that keeps a chain, as the first voter says that knows one;
// empty if none does. A wrong word leads to a node of the own region that has no
// such receipt.
func (n *Node) keeperOf(ctx context.Context, chain string) placement.NodeID {
	for _, voter := range n.voters() {
		asked, cancel := context.WithTimeout(ctx, chainAsk)
		said, err := n.mesh.ChainKeeper(asked, voter, chain)
		cancel()
		if err == nil && said.Node != "" {
			return said.Node
		}
	}
	return ""
}

// doorOf is where a node of the region answers applications.
func (n *Node) doorOf(id placement.NodeID) []gateway.Door {
	if rec := n.ledger.View().Node(id); rec != nil && id != n.who.Node {
		return []gateway.Door{{Region: n.who.Region, URL: rec.API}}
	}
	return nil
}

// fetchProof asks voters for the proof of a segment's leaf, until one is what the
// region's log has signed.
func (n *Node) fetchProof(ctx context.Context, d *receipt.Document) []byte {
	for _, voter := range n.voters() {
		asked, cancel := context.WithTimeout(ctx, chainAsk)
		data, err := n.mesh.ChainProof(asked, voter, d.Ledger.Leaf)
		cancel()
		if api.CodeOf(err) == api.CodeNotFound {
			return nil // no checkpoint covers it yet
		}
		if err == nil {
			err = n.checkProof(data, d.Ledger.Leaf)
		}
		if err == nil {
			return data
		}
		n.deps.Log.Warn("a voter does not prove a receipt's segment", "from", voter.ID.Node, "receipt", d.ID, "leaf", d.Ledger.Leaf, "err", err)
	}
	return nil
}

// checkProof holds a proof to the key of the region's log. Who witnessed it, the
// reader asks.
func (n *Node) checkProof(data []byte, leaf uint64) error {
	p, err := tlog.ParseProof(data)
	if err != nil {
		return err
	}
	self := n.ledger.View().Self()
	if self == nil {
		return errors.New("this node does not know its region's log")
	}
	key, err := tlog.ParseVerifier(self.LogKey)
	if err != nil {
		return err
	}
	first, origin := state.LogOrigin(self.ID, self.Mesh, 0), p.Checkpoint.Unverified().Origin
	if strings.HasPrefix(origin, first+"/") { // begun anew after a recovery
		if key, err = key.Under(origin); err != nil {
			return err
		}
	}
	policy, err := tlog.NewPolicy(tlog.PolicySpec{Logs: []tlog.PolicyLog{{Key: key}}, Quorum: tlog.NoQuorum})
	if err != nil {
		return err
	}
	v, err := tlog.Verify(policy, data, p.Extra)
	if err == nil && v.Index() != leaf {
		err = fmt.Errorf("it proves leaf %d", v.Index())
	}
	return err
}
