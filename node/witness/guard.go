package witness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// verdict is what a witness's memory says about the log as it is here.
type verdict int

const (
	unknown  verdict = iota // it does not answer, or this replica cannot judge now
	nothing                 // it has seen nothing of this log, or does not tell
	extends                 // the log has all that it saw
	contrary                // this log's key has signed what the log does not extend
)

// targets are the witnesses of the region's log: active peers, and those that
// an administrator put.
func targets(v *state.View) []Target {
	var out []Target
	for _, r := range v.Regions() {
		if r.Self || r.State != placement.PeerActive || r.WitnessKey == "" {
			continue
		}
		if key, err := ledger.ParseVerifier(r.WitnessKey); err == nil && key.Algorithm() != ledger.Ed25519 {
			out = append(out, Target{Key: key, Region: r.ID})
		}
	}
	for _, w := range v.Witnesses() {
		if key, err := ledger.ParseVerifier(w.Key); err == nil && key.Algorithm() != ledger.Ed25519 {
			out = append(out, Target{Key: key, URL: w.URL})
		}
	}
	return out
}

// look asks all witnesses what they have seen of this log. It waits for their
// answers no longer than LookWithin: who is cut off signs without them, and
// learns later.
func (s *Service) look(ctx context.Context) {
	v := s.cfg.Log.View()
	if v.LogKey() == "" {
		return
	}
	all := targets(v)
	s.keepHalts(all)
	within, cancel := context.WithTimeout(ctx, s.cfg.LookWithin)
	defer cancel()
	var asked sync.WaitGroup
	for _, t := range all {
		asked.Go(func() { _, _ = s.check(within, t) })
	}
	asked.Wait()
}

// check asks one witness, and halts signing, or lets it go on, by its answer.
func (s *Service) check(ctx context.Context, t Target) (verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AskWithin)
	defer cancel()
	origin := s.cfg.Log.View().LogOrigin()
	answer, err := s.cfg.Transport.Get(ctx, t, ledger.MonitorPath(origin))
	if err != nil {
		return unknown, err
	}
	if answer.Status == http.StatusNotFound {
		return nothing, nil
	}
	if answer.Status != http.StatusOK {
		return unknown, fmt.Errorf("witness %s answers %d to the question what it has seen", t.Name(), answer.Status)
	}
	// The index is read after the answer: what the witness saw was committed
	// before, unless it was lost here.
	index, err := s.cfg.Log.ReadIndex(ctx)
	if err != nil {
		return unknown, err
	}
	v, err := s.atLeast(ctx, index)
	if err != nil || v.LogOrigin() != origin {
		return unknown, err
	}
	head, err := ownHead(v, answer.Body)
	if err != nil {
		return unknown, fmt.Errorf("witness %s shows what this log has not signed: %w", t.Name(), err)
	}
	got, why := s.compare(ctx, v, head)
	switch got {
	case contrary:
		s.halt(t.Name(), why)
	case extends:
		s.clear(t.Name())
	}
	return got, nil
}

// ownHead is what the log's own key has signed: a witness cannot make it up.
func ownHead(v *state.View, note []byte) (ledger.Head, error) {
	key, err := ledger.ParseVerifier(v.LogKey())
	if err != nil {
		return ledger.Head{}, err
	}
	policy, err := ledger.NewPolicy(ledger.PolicySpec{Logs: []ledger.PolicyLog{{Key: key}}, Quorum: ledger.NoQuorum})
	if err != nil {
		return ledger.Head{}, err
	}
	c, err := ledger.VerifyCheckpoint(policy, note)
	if err != nil {
		return ledger.Head{}, err
	}
	if c.Origin() != v.LogOrigin() {
		return ledger.Head{}, fmt.Errorf("it is a checkpoint of %s", c.Origin())
	}
	return c.Head(), nil
}

// compare judges whether the log as it is here has the tree that was signed.
func (s *Service) compare(ctx context.Context, v *state.View, head ledger.Head) (verdict, string) {
	size := v.LedgerSize()
	if head.Size > size {
		return contrary, fmt.Sprintf("it has cosigned %d leaves of this log, and this region has %d: its ledger was set back", head.Size, size)
	}
	root, err := s.rootAt(ctx, v, head.Size)
	if err != nil {
		return unknown, ""
	}
	if root != head.Root {
		return contrary, fmt.Sprintf("it has cosigned this log at %d leaves with another root: its ledger was set back and has gone on otherwise, or was rewritten", head.Size)
	}
	return extends, ""
}

// rootAt is the root that the log had at a size.
func (s *Service) rootAt(ctx context.Context, v *state.View, size uint64) (ledger.Hash, error) {
	if size == v.LedgerSize() {
		return v.LedgerRoot(), nil
	}
	tiles := s.cfg.Tiles()
	if tiles == nil {
		return ledger.Hash{}, errors.New("this replica's ledger is not open yet")
	}
	edge, err := ledger.ReadEdge(ctx, tiles, size)
	if err != nil {
		return ledger.Hash{}, fmt.Errorf("find the root of %d leaves: %w", size, err)
	}
	return edge.Root(), nil
}

func (s *Service) atLeast(ctx context.Context, index uint64) (*state.View, error) {
	v := s.cfg.Log.View()
	for v.Index() < index {
		var err error
		if v, err = s.cfg.Log.Wait(ctx, v.Index()); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// halt ends signing until the witness is content, or is none any more.
func (s *Service) halt(name, why string) {
	s.mu.Lock()
	was := s.halts[name]
	s.halts[name] = why
	s.mu.Unlock()
	if was != why {
		s.cfg.Logger.Error("signs nothing more: a witness of this log contradicts it; placement goes on", "witness", name, "err", errors.New(why), "hint", haltHint)
	}
}

const haltHint = "find out who restored or changed the ledger; if it cannot be brought back: sovmesh region recover, which begins a new log in everybody's sight"

func (s *Service) clear(name string) {
	s.mu.Lock()
	_, was := s.halts[name]
	delete(s.halts, name)
	s.mu.Unlock()
	if was {
		s.cfg.Logger.Info("the witness is content with the log again", "witness", name)
	}
}

// keepHalts forgets what was said by those who are no witnesses any more.
func (s *Service) keepHalts(all []Target) {
	names := map[string]bool{}
	for _, t := range all {
		names[t.Name()] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.halts {
		if !names[name] {
			delete(s.halts, name)
		}
	}
	for name := range s.said {
		if !names[name] {
			delete(s.said, name)
		}
	}
	for name := range s.setBack {
		if !names[name] {
			delete(s.setBack, name)
		}
	}
}

func (s *Service) halted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.halts) > 0
}
