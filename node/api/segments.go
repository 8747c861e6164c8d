package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// Segments are the inference receipts that a node keeps.
type Segments interface {
	// Chain is the node's own as leaves name it, empty before its first receipt.
	Chain() string
	// Segment gives a segment's receipts, those that wanted takes with their leaf;
	// nil if it takes none, fs.ErrNotExist if the segment is not here any more.
	Segment(seq uint64, wanted func(owner string, l *receipt.Leaf) bool) ([]receipt.Kept, error)
}

const (
	// segmentsMost is how many segments are asked for at once, segmentsEnough the
	// bytes after which an answer has no further one.
	segmentsMost   = 256
	segmentsEnough = 256 << 10
	segmentsBytes  = evidence.MaxFile + segmentsEnough
	// segmentsWithin bounds one question to another node.
	segmentsWithin = 5 * time.Second
	// maxModels bounds the models that a question names.
	maxModels = 256
)

// SegmentsAsk is which receipts of a node's chain an export wants.
type SegmentsAsk struct {
	First  uint64 // number of the first segment
	Count  int
	Owner  string   // a tenant; empty for all
	Models []string // empty for all
}

func (a *SegmentsAsk) wanted(owner string, l *receipt.Leaf) bool {
	return (a.Owner == "" || owner == a.Owner) && (len(a.Models) == 0 || slices.Contains(a.Models, l.Model))
}

func (a *SegmentsAsk) query() string {
	q := url.Values{"first": {strconv.FormatUint(a.First, 10)}, "count": {strconv.Itoa(a.Count)}, "model": a.Models}
	if a.Owner != "" {
		q.Set("owner", a.Owner)
	}
	return q.Encode()
}

// codeDamaged is the answer about receipts that are not what was committed.
const codeDamaged = "receipts.damaged"

// nodeSegments serves the receipts that this node keeps, to the replicas of its
// region, for their evidence packs. Whose they are stays here.
func nodeSegments(s *Server, c *call) error {
	if err := s.replicaAsks(c.caller); err != nil {
		return err
	}
	q := c.r.URL.Query()
	first, err1 := strconv.ParseUint(q.Get("first"), 10, 62)
	count, err2 := strconv.Atoi(q.Get("count"))
	ask := SegmentsAsk{First: first, Count: count, Owner: q.Get("owner"), Models: q["model"]}
	if err1 != nil || err2 != nil || count < 1 || count > segmentsMost || len(ask.Models) > maxModels {
		return &InputError{Code: CodeUsage, Message: "first or count is no number of segments, or there are too many models", Help: fmt.Sprintf("ask for 1 to %d segments, of at most %d models", segmentsMost, maxModels)}
	}
	run, err := s.segmentsHere(&ask)
	if err != nil {
		return err
	}
	return c.writeLedger(run, "application/octet-stream", "no-store")
}

// replicaAsks is [replicaOnly] on a node that may hold no state itself.
func (s *Server) replicaAsks(who *Caller) error {
	if s.cfg.Ledger == nil && s.cfg.Voters != nil && who.Kind == CallerNode &&
		slices.ContainsFunc(s.cfg.Voters(), func(p transport.Peer) bool { return p.ID.Node == who.Node }) {
		return nil
	}
	return replicaOnly(who)
}

// segmentsHere are the segments that were asked for: each behind its number, as
// in a pack. One of which nothing is wanted has no receipts; one that is not here
// any more is left out.
func (s *Server) segmentsHere(ask *SegmentsAsk) (run []byte, err error) {
	if s.cfg.Segments == nil {
		return nil, nil
	}
	for seq := ask.First; seq < ask.First+uint64(ask.Count) && len(run) < segmentsEnough; seq++ {
		kept, err := s.cfg.Segments.Segment(seq, ask.wanted)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil && seq > ask.First:
			return run, nil // who asks for it first is told why
		case err != nil:
			s.cfg.Log.Error("a segment of receipts cannot be shown", "segment", seq, "err", err)
			return nil, newProblem(http.StatusInternalServerError, codeDamaged, fmt.Sprintf("segment %d of this node's receipts cannot be shown", seq), "look at the node's log and disk")
		}
		run = evidence.AppendSegment(run, seq, kept)
	}
	return run, nil
}

// Segments asks a node of the own region for receipts that it keeps, as
// evidence.ParseSegments reads them.
func (m *MeshClient) Segments(ctx context.Context, p transport.Peer, ask SegmentsAsk) ([]byte, error) {
	res, err := m.send(ctx, p, meshCall{method: http.MethodGet, path: "/receipts?" + ask.query(), cargo: cargo(transport.CargoStatus)})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, segmentsBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the receipts of %s: %w", p.ID, err)
	}
	if len(data) > segmentsBytes {
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", p.ID, segmentsBytes)
	}
	return data, nil
}

// segmentSource finds the receipts of a region's nodes for one export.
type segmentSource struct {
	s      *Server
	ask    SegmentsAsk
	nodes  map[string]*placement.Node     // by chain
	ahead  map[string]map[uint64]answered // read ahead, of each chain
	silent map[placement.NodeID]bool
}

// answered is a segment as its node gave it.
type answered struct {
	kept []receipt.Kept
	err  error
}

// segments gives the receipts that a filter asks for; nil if it can ask for none.
func (s *Server) segments(v *state.View, f evidence.Filter) func(context.Context, string, uint64) ([]receipt.Kept, error) {
	src := &segmentSource{s: s, ask: SegmentsAsk{Owner: f.Tenant, Count: segmentsMost}, nodes: map[string]*placement.Node{}, ahead: map[string]map[uint64]answered{}, silent: map[placement.NodeID]bool{}}
	if f.Job != "" {
		// A receipt names its model, and no job.
		j := v.Job(placement.JobID(f.Job))
		if j == nil || len(j.Spec.Models) == 0 {
			return func(context.Context, string, uint64) ([]receipt.Kept, error) { return nil, nil }
		}
		src.ask.Models = j.Spec.Models[:min(len(j.Spec.Models), maxModels)]
	}
	for _, n := range v.Nodes() {
		if seg := v.Segment(n.ID); seg != nil {
			src.nodes[seg.Chain] = n
		}
	}
	return src.segment
}

func (src *segmentSource) segment(ctx context.Context, chain string, seq uint64) ([]receipt.Kept, error) {
	got, ok := src.ahead[chain][seq]
	if !ok {
		var err error
		if src.ahead[chain], err = src.fetch(ctx, chain, seq); err != nil {
			return nil, err
		}
		got = src.ahead[chain][seq]
	}
	return got.kept, got.err
}

// fetch asks the chain's node for the segment and some that follow it.
func (src *segmentSource) fetch(ctx context.Context, chain string, seq uint64) (map[uint64]answered, error) {
	n := src.nodes[chain]
	switch {
	case n == nil:
		return nil, &evidence.AbsentError{Why: evidence.AbsentGone}
	case src.silent[n.ID]:
		return nil, &evidence.AbsentError{Why: evidence.AbsentAway}
	}
	ask := src.ask
	ask.First = seq
	run, err := src.from(ctx, n, ask)
	var p *Problem
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &p) && p.Code == codeDamaged:
		return map[uint64]answered{seq: {err: &evidence.AbsentError{Why: evidence.AbsentDamaged}}}, nil
	case err != nil:
		src.silent[n.ID] = true
		src.s.cfg.Log.Warn("the inference receipts of a node are not in an export", "node", n.ID, "err", err)
		return nil, &evidence.AbsentError{Why: evidence.AbsentAway}
	}
	out := map[uint64]answered{seq: {err: &evidence.AbsentError{Why: evidence.AbsentErased}}}
	err = evidence.ParseSegments(run, func(at uint64, kept []receipt.Kept) error {
		if len(kept) == 0 {
			kept = nil
		}
		out[at] = answered{kept: kept}
		return nil
	})
	if err != nil {
		return map[uint64]answered{seq: {err: &evidence.AbsentError{Why: evidence.AbsentDamaged}}}, nil
	}
	return out, nil
}

func (src *segmentSource) from(ctx context.Context, n *placement.Node, ask SegmentsAsk) ([]byte, error) {
	if n.ID == src.s.cfg.Self {
		return src.s.segmentsHere(&ask)
	}
	ctx, cancel := context.WithTimeout(ctx, segmentsWithin)
	defer cancel()
	return src.s.mesh.Segments(ctx, src.s.peerOf(n), ask)
}

// inferenceReceipt is answered by whoever made the receipt.
func inferenceReceipt(s *Server, c *call) error {
	if s.cfg.Receipts == nil {
		return newProblem(http.StatusNotFound, CodeNotFound, "this node keeps no receipts", "ask the node that answered the request")
	}
	s.cfg.Receipts.ServeHTTP(c.w, c.r)
	return nil
}
