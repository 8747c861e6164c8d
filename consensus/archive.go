package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

const (
	// archiveEvery is how often the state's newest checkpoints are looked at: well
	// before the first of them, one a second, are forgotten.
	archiveEvery = 10 * time.Second
	// archiveAskEvery is how often a peer is asked for older ones; also at the
	// start and when a gap was filled.
	archiveAskEvery = time.Hour
	// archiveAhead is how far a cosignature's time may be ahead of this clock.
	archiveAhead = 2 * time.Minute
)

// CheckpointPeer is a [store.Peer] that gives the checkpoints that it keeps.
type CheckpointPeer interface {
	// Checkpoints gives some of more than size leaves, as [store.EncodeKept]
	// writes them; none when there are no more.
	Checkpoints(ctx context.Context, size uint64) ([]byte, error)
}

// archiving is how far a replica's archive is.
type archiving struct {
	failed bool
	// asked is the store whose older checkpoints were asked for, and at when.
	asked *store.Store
	at    time.Time
}

// archive keeps the newest checkpoints, and asks peers for older ones now and
// then. A disk that takes no more of them stops nothing.
func (g *Group) archive(ctx context.Context, s *store.Store, a *archiving) {
	err := g.keepCheckpoints(ctx, s)
	if failed := err != nil; failed != a.failed {
		a.failed = failed
		if failed {
			g.log.Error("checkpoints are not kept for now: evidence of this time will have fewer", "region", g.cfg.Region, "err", err)
		} else {
			g.log.Info("checkpoints are kept again", "region", g.cfg.Region)
		}
	}
	if g.cfg.LedgerPeer == nil || a.asked == s && g.cfg.Clock().Sub(a.at) < archiveAskEvery {
		return
	}
	if g.fillCheckpoints(ctx, s) {
		a.asked, a.at = s, g.cfg.Clock()
	}
}

// keepCheckpoints takes into the archive what the state remembers of now: the
// state forgets it in a minute, and evidence of this hour needs it for ever.
func (g *Group) keepCheckpoints(ctx context.Context, s *store.Store) error {
	v := g.View()
	for _, c := range slices.Backward(v.Checkpoints()) {
		k, err := store.NewKept([]byte(c.Note), c.At)
		if err != nil || !s.Archive().Wants(k) {
			continue
		}
		if proveCheckpoint(ctx, s, v, k.Note) != nil {
			continue // of another log than these files, or over a gap: later, or from a peer
		}
		if _, err := s.Archive().Keep(k); err != nil {
			return err
		}
	}
	return s.Archive().Sync()
}

// proveCheckpoint asks that the region's log signed it, that no witness that is
// known here signed otherwise, and that the leaves make this tree.
func proveCheckpoint(ctx context.Context, s *store.Store, v *state.View, note []byte) error {
	policy, err := knownKeys(v)
	if err != nil {
		return err
	}
	c, err := ledger.VerifyCheckpoint(policy, note)
	if err != nil {
		return err
	}
	if c.Origin() != v.LogOrigin() {
		return fmt.Errorf("it is a checkpoint of %s", c.Origin())
	}
	head := c.Head()
	if head.Size > s.Size() {
		return fmt.Errorf("it is of %d leaves, and here are %d", head.Size, s.Size())
	}
	edge, err := ledger.ReadEdge(ctx, s, head.Size)
	if err != nil {
		return err
	}
	if edge.Root() != head.Root {
		return &store.Lie{Index: head.Size - 1, What: "a checkpoint is of another tree than the leaves up to here"}
	}
	return nil
}

// knownKeys are the keys of the region's log and of its witnesses.
func knownKeys(v *state.View) (*ledger.Policy, error) {
	key, err := ledger.ParseVerifier(v.LogKey())
	if err != nil {
		return nil, err
	}
	spec := ledger.PolicySpec{Logs: []ledger.PolicyLog{{Key: key}}, Quorum: ledger.NoQuorum}
	add := func(vkey string) {
		if k, err := ledger.ParseVerifier(vkey); err == nil {
			spec.Witnesses = append(spec.Witnesses, ledger.PolicyWitness{Name: fmt.Sprintf("w%d", len(spec.Witnesses)), Key: k})
		}
	}
	for _, w := range v.Witnesses() {
		add(w.Key)
	}
	for _, r := range v.Regions() {
		if !r.Self && r.State == placement.PeerActive && r.WitnessKey != "" {
			add(r.WitnessKey)
		}
	}
	return ledger.NewPolicy(spec)
}

// fillCheckpoints asks the other members in turn for checkpoints of the time when
// this node was away, and reports whether one has told all that it has.
func (g *Group) fillCheckpoints(ctx context.Context, s *store.Store) bool {
	for _, m := range g.Peers() {
		if m.Node == g.cfg.Self || ctx.Err() != nil {
			continue
		}
		peer, ok := g.cfg.LedgerPeer(m).(CheckpointPeer)
		if !ok {
			continue
		}
		visit, cancel := context.WithTimeout(ctx, fillWithin)
		n, err := g.takeCheckpoints(visit, s, peer)
		cancel()
		if n > 0 {
			g.log.Info("took checkpoints from a peer", "region", g.cfg.Region, "peer", m.Node, "checkpoints", n)
		}
		var lie *store.Lie
		switch {
		case err == nil:
			return true
		case errors.As(err, &lie):
			g.log.Warn("refuses checkpoints of a peer", "region", g.cfg.Region, "peer", m.Node, "err", err)
		case ctx.Err() == nil:
			g.log.Debug("take checkpoints from a peer", "region", g.cfg.Region, "peer", m.Node, "err", err)
		}
	}
	return false
}

// takeCheckpoints reads all that a peer keeps and keeps what is proved and
// wanted. A note that is wrong is a *[store.Lie], and ends the visit.
func (g *Group) takeCheckpoints(ctx context.Context, s *store.Store, peer CheckpointPeer) (taken int, err error) {
	defer func() { err = errors.Join(err, s.Archive().Sync()) }()
	for last := uint64(0); ; {
		data, err := peer.Checkpoints(ctx, last)
		if err != nil {
			return taken, err
		}
		all, err := store.ParseKept(data)
		if err != nil {
			return taken, &store.Lie{Index: last, What: err.Error()}
		}
		if len(all) == 0 {
			return taken, nil
		}
		if all[0].Size <= last {
			return taken, &store.Lie{Index: last, What: "its checkpoints do not rise"}
		}
		last = all[len(all)-1].Size
		for _, k := range all {
			if k.Size > s.Size() || !s.Archive().Wants(k) {
				continue
			}
			if k.At.After(g.cfg.Clock().Add(archiveAhead)) {
				return taken, &store.Lie{Index: k.Size - 1, What: "a checkpoint is of " + k.At.Format(time.RFC3339) + ", which is to come"}
			}
			if err := proveCheckpoint(ctx, s, g.View(), k.Note); err != nil {
				return taken, notHere(k, err)
			}
			if k, err = vouched(g.View(), k); err != nil {
				return taken, err
			}
			kept, err := s.Archive().Keep(k)
			if err != nil {
				return taken, err
			}
			if kept {
				taken++
			}
		}
	}
}

// vouched leaves a checkpoint the signatures that were verified. How many
// witnesses it has, and since when, decides what it takes the place of: lines
// of keys that nobody knows would make a worse one better.
func vouched(v *state.View, k store.Kept) (store.Kept, error) {
	policy, err := knownKeys(v)
	if err != nil {
		return k, err
	}
	signed, err := ledger.ParseSignedCheckpoint(k.Note)
	if err != nil {
		return k, err
	}
	var own []ledger.Signature
	for _, line := range signed.Signatures() {
		same := func(key *ledger.Verifier) bool { return key.Name() == line.Name && key.ID() == line.ID }
		if slices.ContainsFunc(policy.Logs(), func(l ledger.PolicyLog) bool { return same(l.Key) }) ||
			slices.ContainsFunc(policy.Witnesses(), func(w ledger.PolicyWitness) bool { return same(w.Key) }) {
			own = append(own, line)
		}
	}
	note, err := ledger.NewSignedCheckpoint(signed.Unverified(), own...)
	if err != nil {
		return k, err
	}
	return store.NewKept(note.Encode(), k.At)
}

// notHere tells a peer that lies from a replica that cannot judge yet.
func notHere(k store.Kept, err error) error {
	var gap *store.Gap
	var wrong *ledger.VerifyError
	switch {
	case errors.As(err, &gap):
		return fmt.Errorf("judge the checkpoint of %d leaves: %w", k.Size, err)
	case errors.As(err, &wrong):
		return &store.Lie{Index: k.Size - 1, What: wrong.Error()}
	}
	return err
}
