package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

const (
	// factsWait bounds one question for facts, factsWithin the fetching of tables.
	factsWait   = 30 * time.Second
	factsWithin = 10 * time.Second
	// factsTables and factsInline bound what is kept of a voter's word before
	// others have confirmed it.
	factsTables = 64
	factsInline = 64 << 10
	// clockAge is how old the time of accepted facts may be when they are read:
	// the law is read for a day.
	clockAge = time.Minute
)

// facts are what a worker knows of its region. It has no replica, so it asks
// every voter and believes what most of them say alike at this moment: one voter
// that lies can neither give it a task nor take a revocation from it. Until the
// first set is accepted it knows nothing, starts nothing and serves nothing. A
// set is kept when voters cannot be reached, like the state of a replica that is
// cut off; it is never replaced by an older one.
type facts struct {
	n *Node

	mu      sync.Mutex
	view    *state.View                    // the accepted set; guarded by mu
	digests string                         // of it; guarded by mu
	tables  map[string][]byte              // of it, by digest; guarded by mu
	changed chan struct{}                  // closed when view changes; guarded by mu
	told    map[placement.NodeID]api.Facts // the newest word of each voter; guarded by mu
}

func newFacts(n *Node) *facts {
	return &facts{n: n, view: state.New().Freeze(), tables: map[string][]byte{}, changed: make(chan struct{}), told: map[placement.NodeID]api.Facts{}}
}

// View is the accepted set, read for today.
func (f *facts) View() *state.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.n.deps.now(); f.view.Self() != nil && now.Sub(f.view.Time()).Abs() > clockAge {
		f.view = f.view.At(now)
	}
	return f.view
}

// Wait gives a set whose index is beyond after.
func (f *facts) Wait(ctx context.Context, after uint64) (*state.View, error) {
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		if v := f.View(); v.Self() != nil && v.Index() > after {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// known are the voters whose word counts: as the accepted set has them, before
// that as the region told when this node joined.
func (f *facts) known() map[placement.NodeID]transport.Peer {
	out := map[placement.NodeID]transport.Peer{}
	view := f.View()
	for _, n := range view.Nodes() {
		if n.Role == placement.RoleVoter {
			out[n.ID] = transport.Peer{ID: f.n.id(f.n.who.Region, n.ID), Addr: n.QUIC}
		}
	}
	if view.Self() == nil {
		for _, v := range f.n.who.Voters {
			if v.Role == placement.RoleVoter {
				out[v.Node] = transport.Peer{ID: f.n.id(f.n.who.Region, v.Node), Addr: v.QUIC}
			}
		}
	}
	return out
}

// quorum is how many voters must say the same: most of those known.
func quorum(voters int) int { return voters/2 + 1 }

// run keeps one question open at every known voter.
func (f *facts) run(ctx context.Context) error {
	type asker struct {
		peer transport.Peer
		stop context.CancelFunc
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	asking := map[placement.NodeID]asker{}
	for ctx.Err() == nil {
		known := f.known()
		for id, a := range asking {
			if known[id] != a.peer {
				a.stop()
				delete(asking, id)
			}
		}
		for id, peer := range known {
			if _, ok := asking[id]; !ok {
				asked, stop := context.WithCancel(ctx)
				asking[id] = asker{peer, stop}
				wg.Go(func() { f.follow(asked, peer) })
			}
		}
		pause(ctx, retryEvery)
	}
	for _, a := range asking {
		a.stop()
	}
	return nil
}

// follow asks one voter, again and again. Its word counts as long as it answers.
func (f *facts) follow(ctx context.Context, peer transport.Peer) {
	defer f.forget(peer.ID.Node)
	have := ""
	for ctx.Err() == nil {
		asked, cancel := context.WithTimeout(ctx, factsWait+5*time.Second)
		said, err := f.n.mesh.Facts(asked, peer, have, nil, factsWait)
		cancel()
		if err != nil {
			f.forget(peer.ID.Node)
			have = ""
			pause(ctx, retryEvery)
			continue
		}
		have = said.Digests()
		if err := f.hear(ctx, peer, *said); err != nil && ctx.Err() == nil {
			f.n.deps.Log.Warn("the region's facts were not taken", "from", peer.ID.Node, "err", err)
			have = ""
			pause(ctx, retryEvery)
		}
	}
}

func (f *facts) forget(voter placement.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.told, voter)
}

// hear notes a voter's word, and takes the set if most voters now say the same.
func (f *facts) hear(ctx context.Context, peer transport.Peer, said api.Facts) error {
	if len(said.Tables) > factsTables {
		return fmt.Errorf("%d tables are more than %d", len(said.Tables), factsTables)
	}
	for i := range said.Tables {
		if t := &said.Tables[i]; len(t.Data) > factsInline {
			t.Data = nil // nobody asked for it: if most voters say so, it is fetched
		}
	}
	known := f.known()
	f.mu.Lock()
	f.told[peer.ID.Node] = said
	_, agreed := f.agreed(said, known)
	missing := f.missing(said)
	f.mu.Unlock()
	if !agreed {
		return nil
	}
	fetched := map[string][]byte{}
	if len(missing) > 0 {
		asked, cancel := context.WithTimeout(ctx, factsWithin)
		defer cancel()
		more, err := f.n.mesh.Facts(asked, peer, said.Digests(), missing, 0)
		if err != nil {
			return err
		}
		for _, t := range more.Tables {
			if slices.Contains(missing, t.Digest) {
				fetched[t.Digest] = t.Data
			}
		}
	}
	return f.take(said, known, fetched)
}

// agreed reports whether most voters say what said says, which is news, and the
// highest index at which that many said it. The caller holds mu.
func (f *facts) agreed(said api.Facts, known map[placement.NodeID]transport.Peer) (uint64, bool) {
	digests := said.Digests()
	var indexes []uint64
	for id, other := range f.told {
		if _, votes := known[id]; votes && other.Digests() == digests {
			indexes = append(indexes, other.Index)
		}
	}
	need := quorum(len(known))
	if len(indexes) < need || digests == f.digests {
		return 0, false
	}
	slices.Sort(indexes)
	index := indexes[len(indexes)-need]
	return index, index > f.view.Index()
}

// missing are the digests of tables that neither the accepted set nor the word
// itself has. The caller holds mu.
func (f *facts) missing(said api.Facts) (out []string) {
	for _, t := range said.Tables {
		if _, ok := f.content(t, nil); !ok {
			out = append(out, t.Digest)
		}
	}
	return out
}

// content is what a table holds. Whoever sent it, its digest is what most voters
// said. The caller holds mu.
func (f *facts) content(t api.FactTable, fetched map[string][]byte) (data []byte, ok bool) {
	if data, ok = f.tables[t.Digest]; ok {
		return data, true
	}
	for _, data := range [][]byte{t.Data, fetched[t.Digest]} {
		if state.FactDigest(data) == t.Digest {
			return data, true
		}
	}
	return nil, false
}

// take makes the set the node's own, if it is still what most voters say.
func (f *facts) take(said api.Facts, known map[placement.NodeID]transport.Peer, fetched map[string][]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	index, agreed := f.agreed(said, known)
	if !agreed {
		return nil
	}
	named, tables := map[string][]byte{}, map[string][]byte{}
	for _, t := range said.Tables {
		data, ok := f.content(t, fetched)
		if !ok {
			return fmt.Errorf("table %s was not sent as it was told: it has changed meanwhile", t.Name)
		}
		named[t.Name], tables[t.Digest] = data, data
	}
	view, err := state.RestoreFacts(named, index, f.n.deps.now())
	if err != nil {
		return err
	}
	if view.Self().ID != f.n.who.Region {
		return fmt.Errorf("they speak of region %s", view.Self().ID)
	}
	first := f.view.Self() == nil
	f.view, f.digests, f.tables = view, said.Digests(), tables
	close(f.changed)
	f.changed = make(chan struct{})
	if first {
		f.n.deps.Log.Info("knows its region", "index", index, "voters", len(known))
	}
	return nil
}

// keepVoters writes down who votes now, for the next start of the node.
func (f *facts) keepVoters(ctx context.Context) error {
	kept := f.n.who
	for after := uint64(0); ctx.Err() == nil; {
		view, err := f.Wait(ctx, after)
		if err != nil {
			return nil
		}
		after = view.Index()
		var now []api.NodeAddress
		for _, n := range view.Nodes() {
			if n.Role != placement.RoleWorker && n.ID != f.n.who.Node {
				now = append(now, api.NodeAddress{Node: n.ID, Role: n.Role, QUIC: n.QUIC, API: n.API})
			}
		}
		if slices.Equal(now, kept.Voters) || len(now) == 0 {
			continue
		}
		kept.Voters = now
		if err := f.n.dir.writeJSON(fileIdentity, kept); err != nil {
			f.n.deps.Log.Warn("the region's voters were not kept for the next start", "err", err)
		}
	}
	return nil
}

// ready reports why the node does not know its region yet.
func (f *facts) ready() error {
	if f.View().Self() != nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	names := slices.Sorted(maps.Keys(f.told))
	if len(names) == 0 {
		return errors.New("no voter of this region answers: this node does not know what is lawful here")
	}
	return fmt.Errorf("the voters that answer (%v) do not agree, or are too few: this node does not know what is lawful here", names)
}
