package api

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// memLedger runs the real state machine in memory: one voter, always leader.
type memLedger struct {
	self  placement.NodeID
	now   func() time.Time
	mu    sync.Mutex
	st    *state.State  // guarded by mu
	index uint64        // guarded by mu
	moved chan struct{} // guarded by mu; closed when the view moves
	lead  error         // guarded by mu; what ReadIndex and Propose answer instead
	raws  [][]byte      // guarded by mu; every command applied
	files *store.Store  // the leaves
}

func newMemLedger(self placement.NodeID, now func() time.Time) *memLedger {
	files, err := store.Open(store.Memory())
	if err != nil {
		panic(err) // of memory
	}
	return &memLedger{self: self, now: now, st: state.New(), moved: make(chan struct{}), files: files}
}

func (l *memLedger) Propose(ctx context.Context, c state.Command, actor string) (state.Result, error) {
	h := state.Head{Version: 1, Time: l.now(), Actor: actor}
	_, _ = rand.Read(h.Salt[:])
	raw, err := state.Encode(h, c)
	if err != nil {
		return state.Result{}, err
	}
	return l.ProposeRaw(ctx, raw)
}

func (l *memLedger) ProposeRaw(_ context.Context, raw []byte) (state.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lead != nil {
		return state.Result{}, l.lead
	}
	l.index++
	l.raws = append(l.raws, raw)
	res := l.st.Apply(l.index, raw)
	if res.Entry != nil {
		if err := l.files.Append(res.Leaf, []store.Record{{Entry: res.Entry, Opening: &store.Opening{Salt: res.Salt, Command: raw}}}); err != nil {
			return res, err
		}
	}
	close(l.moved)
	l.moved = make(chan struct{})
	return res, nil
}

func (l *memLedger) View() *state.View {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.st.Freeze()
}

func (l *memLedger) Wait(ctx context.Context, after uint64) (*state.View, error) {
	for {
		l.mu.Lock()
		v, moved := l.st.Freeze(), l.moved
		l.mu.Unlock()
		if v.Index() > after {
			return v, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (l *memLedger) ReadIndex(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index, l.lead
}

func (l *memLedger) Leader() (placement.NodeID, bool) { return l.self, true }

func (l *memLedger) must(t testing.TB, c state.Command) state.Result {
	t.Helper()
	res, err := l.Propose(t.Context(), c, "test")
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		t.Fatalf("%s: %v", c.Kind(), err)
	}
	return res
}

// testCA is the region's authority.
type testCA struct {
	ca  *identity.CA
	now func() time.Time
}

func (a testCA) IssueNode(_ context.Context, csr []byte, node placement.NodeID) ([][]byte, string, time.Time, error) {
	chain, err := a.ca.IssueNode(csr, node, a.now(), 0)
	return chain, "4711", a.now().Add(24 * time.Hour), err
}

func (a testCA) IssueServing(_ context.Context, csr []byte, hosts []string) ([][]byte, error) {
	return a.ca.IssueServing(csr, hosts, a.now(), 0)
}
func (a testCA) Bundle() identity.Bundle               { return a.ca.Bundle() }
func (a testCA) ServingCA() string                     { return string(a.ca.ServingRootPEM()) }
func (a testCA) Secrets() ([]byte, error)              { return []byte("ca secrets"), nil }
func (a testCA) Unseal(string, string) ([]byte, error) { return nil, errors.New("no key") }
func (a testCA) LogSecrets() []byte                    { return []byte("log secrets") }
func (a testCA) Keyring() [][]byte                     { return [][]byte{[]byte("key")} }

// testRing is the keyring of a node that takes whatever is offered.
type testRing struct{}

func (testRing) Ring() Keyring                                        { return Keyring{Keys: [][]byte{gossipKey(1)}} }
func (testRing) Offer(_ placement.NodeID, k Keyring) (Keyring, error) { return k, k.Validate() }
