// Package receipts keeps what a node answered: one leaf for each inference
// request, a Merkle segment of them each second or 4,096 requests, and the
// segment's root in the region's ledger.
//
// The rule that must hold: what was promised is committed, or shown to be
// missing. A receipt's id goes out only once its record was written to the
// segment's file, and required evidence is on the disk before the answer ends.
// After a crash the file's receipts are committed as recovered, and an id that
// no file knows is answered with missing. Segments are numbered and name the
// root before them, so that one left out shows in the next.
//
// The gateway takes receipts here, auditors read segments. Neither bodies nor
// names are kept: see [receipt.Leaf].
package receipts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Log is the region's ledger, for this node's chain of segments.
type Log interface {
	// Segment is where the chain ends by now, nil before its first segment. It
	// asks the leader or most voters, never a replica that may lag.
	Segment(ctx context.Context) (*state.Segment, error)
	// Commit returns once the command is committed; a refusal by the state is in
	// the result.
	Commit(ctx context.Context, cmd state.CommitSegment) (state.Result, error)
}

// Config is what a [Keeper] is built from.
type Config struct {
	Region placement.RegionID
	Node   placement.NodeID
	Dir    string // of the segments' files
	Log    Log

	// Every is how often a segment is closed, Max how many receipts one has.
	Every time.Duration
	Max   int
	// Backlog is how many closed segments may wait to be committed.
	Backlog int
	// KeepFor and KeepBytes bound what is kept of committed segments: the oldest
	// go first, the newest stays. Zero is no bound.
	KeepFor   time.Duration
	KeepBytes int64

	Now    func() time.Time
	Logger *slog.Logger
}

// DefaultConfig keeps a year of receipts in at most 64 GiB.
func DefaultConfig() Config {
	return Config{
		Every: time.Second, Max: 4096, Backlog: 600,
		KeepFor: 366 * 24 * time.Hour, KeepBytes: 64 << 30, Now: time.Now,
	}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("receipts: "+what))
		}
	}
	need(placement.ValidName(string(c.Region)) && placement.ValidName(string(c.Node)), fmt.Sprintf("%q in %q is no node", c.Node, c.Region))
	need(c.Dir != "" && c.Log != nil, "Dir or Log is missing")
	need(c.Every > 0 && c.Backlog > 0, "Every and Backlog must be positive")
	need(c.Max > 0 && c.Max <= maxSlots, fmt.Sprintf("Max must lie between 1 and %d", maxSlots))
	need(c.Now != nil && c.Logger != nil, "Now or Logger is missing")
	return errors.Join(errs...)
}

// Busy says that no receipt can be kept now: the disk, or the ledger, does not
// take what is there already.
type Busy struct {
	Why        string
	RetryAfter time.Duration
}

func (e *Busy) Error() string { return "no receipt can be kept now: " + e.Why }

// Hint says what to do.
func (e *Busy) Hint() string {
	return "try again in a moment; if it lasts, look at the node's disk and whether its region has a leader"
}

// ErrDropped is the answer to best-effort evidence that could not be kept. The
// drop is counted in the next segment.
var ErrDropped = errors.New("the receipt was dropped and counted")

// Stats are counts since the node started.
type Stats struct {
	Kept, Dropped, Recovered, Missing uint64
	Segments                          uint64 // committed
	Waiting                           int    // closed and not committed
}

// Keeper keeps the receipts of one node.
type Keeper struct {
	cfg Config

	committers sync.Pool // of *receipt.Committer

	wantStart, wantSync, wantClose, queued chan struct{} // of length one: signals

	mu      sync.Mutex
	chain   string        // without "h:"; empty until the chain is known; guarded by mu
	cur     *segment      // takes records; guarded by mu
	changed chan struct{} // closed with each change of cur; guarded by mu
	queue   []*closed     // not committed, oldest first; guarded by mu
	batch   *batch        // records that wait for the disk; guarded by mu
	dropped uint64        // since the last segment was closed; guarded by mu
	stopped bool          // guarded by mu
	// trouble is why no file can be had, since troubled.
	trouble  string    // guarded by mu
	troubled time.Time // guarded by mu
	stats    Stats     // guarded by mu
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	signal := func() chan struct{} { return make(chan struct{}, 1) }
	return &Keeper{cfg: cfg, committers: sync.Pool{New: func() any { return receipt.NewCommitter() }}, wantStart: signal(), wantSync: signal(), wantClose: signal(), queued: signal(), changed: make(chan struct{})}, nil
}

// Stats is how things stand.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.stats
	out.Waiting = len(k.queue)
	return out
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// id is "<region>.<chain>.<segment>.<index>". The caller holds mu.
func (k *Keeper) id(seq uint64, index int) string {
	return receipt.ID{Region: string(k.cfg.Region), Chain: k.chain, Seq: seq, Index: uint64(index)}.String()
}

// emptyRoot is the root of a segment without receipts.
func emptyRoot() ledger.Hash { return receipt.Root(nil) }
