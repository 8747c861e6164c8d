// Package controller turns what a region's ledger says into what it should say
// next: it reads a view, asks the scheduler and proposes the answer. It runs on
// the raft leader only, once per term, and keeps nothing that a new leader
// could miss: whatever it knows is in the view or can be asked again.
//
// It decides nothing about law. The scheduler asks the residency engine before
// it names a node, and Apply asks it again before the name becomes true.
package controller

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Log is the region's replicated log as the controller uses it.
type Log interface {
	// Propose returns once the command is committed and applied.
	Propose(ctx context.Context, cmd state.Command, actor string) (state.Result, error)
	View() *state.View
	// Wait returns a view newer than the given raft index.
	Wait(ctx context.Context, after uint64) (*state.View, error)
}

// Members tells who answers in the region's gossip pool. It is a hint: the
// controller records it as contact, which ends nothing by itself.
type Members interface {
	// Alive reports whether the node answers; known is false for a node that
	// gossip has never heard of.
	Alive(node placement.NodeID) (alive, known bool)
	// Suspect reports whether the last probe of the node failed: too little to
	// call it silent, enough to give it nothing new.
	Suspect(node placement.NodeID) bool
}

// Config is what a controller needs.
type Config struct {
	Self    placement.NodeID
	Region  placement.RegionID
	Log     Log
	Members Members
	Regions Regions // nil in a region without peers
	// Transfer hands the leadership to another voter; used when this node is
	// drained.
	Transfer func(ctx context.Context) error
	// ContactEvery is how often contact is compared with gossip, SilentAfter
	// how long a node must be silent before it counts as unknown.
	ContactEvery, SilentAfter time.Duration
	// LeaseFor is how long a singleton's lease lasts; a third of it is left
	// when it is renewed.
	LeaseFor time.Duration
	Logger   *slog.Logger
	Now      func() time.Time
}

// DefaultConfig gives the production timings.
func DefaultConfig() Config {
	return Config{
		ContactEvery: time.Second,
		SilentAfter:  3 * time.Second,
		LeaseFor:     30 * time.Second,
		Logger:       slog.New(slog.DiscardHandler),
		Now:          time.Now,
	}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.Self == "" || c.Region == "" {
		errs = append(errs, errors.New("controller: Self and Region must name the node"))
	}
	if c.Log == nil || c.Members == nil {
		errs = append(errs, errors.New("controller: Log and Members must be given"))
	}
	if c.ContactEvery <= 0 || c.SilentAfter <= 0 || c.LeaseFor <= 0 {
		errs = append(errs, errors.New("controller: the intervals must be positive"))
	}
	return errors.Join(errs...)
}

// Controller is the leader's part of a region. One value serves all terms of
// its node; Lead runs it for one of them.
type Controller struct {
	cfg   Config
	actor string
}

// New builds a controller and starts nothing.
func New(cfg Config) (*Controller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Controller{cfg: cfg, actor: "node:" + string(cfg.Self)}, nil
}

// Lead works until the context ends, which the caller does when the term is
// over. No goroutine outlives it.
func (c *Controller) Lead(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	h := &homeless{rest: map[placement.JobID]time.Time{}}
	g.Go(func() error { return c.plan(ctx, h) })
	g.Go(func() error { return c.watchContact(ctx) })
	g.Go(func() error { return c.renewLeases(ctx) })
	if c.cfg.Regions != nil {
		g.Go(func() error { return c.forward(ctx, h) })
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// outcome is what became of a proposal.
type outcome int

const (
	failed  outcome = iota // whether it was committed is not known
	refused                // by the state: it changes nothing
	done
)

// propose is put for who needs to know only whether it was done.
func (c *Controller) propose(ctx context.Context, cmd state.Command) (state.Result, bool) {
	res, what := c.put(ctx, cmd)
	return res, what == done
}

// put proposes and logs a refusal once, where it happens: a plan made from an older
// view may be refused by a newer state, and the next plan sees why.
func (c *Controller) put(ctx context.Context, cmd state.Command) (state.Result, outcome) {
	res, err := c.cfg.Log.Propose(ctx, cmd, c.actor)
	if err == nil {
		err = res.Err()
	}
	var no *state.Refused
	switch {
	case err == nil:
		return res, done
	case errors.As(err, &no):
		c.cfg.Logger.Info("proposal refused", "kind", cmd.Kind(), "index", res.Index, "err", err)
		return res, refused
	case ctx.Err() == nil:
		c.cfg.Logger.Warn("proposal failed", "kind", cmd.Kind(), "err", err)
	}
	return res, failed
}

// sleep waits for d or the end of the context, which it reports.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
