package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// ChainEnd is where a node's chain of receipts ends; Segment is nil before its
// first.
type ChainEnd struct {
	Segment *state.Segment `json:"segment"`
}

// ChainKeeper is the node that keeps the receipts of a chain, empty if there is
// no such chain.
type ChainKeeper struct {
	Node placement.NodeID `json:"node"`
}

// ownChain tells a node without a replica where its chain ends: of a state that
// holds every write acknowledged before the question, so that what most voters
// say alike is no older than that.
func ownChain(s *Server, c *call) error {
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, ChainEnd{v.Segment(c.caller.Node)})
}

// chainProof is the proof of a segment's leaf under the checkpoint that most
// witnesses know. Leaves of others a node without a replica is not given.
func chainProof(s *Server, c *call) error {
	leaf, err := strconv.ParseUint(c.r.URL.Query().Get("leaf"), 10, 62)
	if err != nil {
		return &InputError{Code: CodeUsage, Message: "the parameter leaf is no number of a leaf", Help: "name the leaf of a segment of your own chain"}
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	if own := v.Segment(c.caller.Node); own == nil || leaf >= v.LedgerSize() || !s.segmentOf(own.Chain, leaf) {
		return newProblem(http.StatusForbidden, CodeRole, fmt.Sprintf("leaf %d is no segment of node %s", leaf, c.caller.Node), "ask for segments of your own chain")
	}
	cp := v.Standing(leaf).Checkpoint
	if cp == nil {
		return newProblem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("leaf %d is committed, and no signed checkpoint covers it yet", leaf), "ask again in a moment")
	}
	note, err := ledger.ParseSignedCheckpoint([]byte(cp.Note))
	if err != nil {
		return fmt.Errorf("read checkpoint %d: %w", cp.Size, err)
	}
	data, err := s.prove(c.r.Context(), note, []uint64{leaf})
	if err != nil {
		return err
	}
	return c.writeLedger(data, "text/plain; charset=utf-8", "private, no-store")
}

// segmentOf reports whether the leaf is a segment of the chain.
func (s *Server) segmentOf(chain string, leaf uint64) bool {
	files, err := s.ledgerFiles()
	if err != nil {
		return false
	}
	entry, err := files.Entry(leaf)
	if err != nil {
		return false
	}
	l, err := ledger.Decode(entry)
	return err == nil && l.Kind == string(state.KindCommitSegment) && l.Code == "" && l.Get(ledger.ShownChain) == chain
}

// chainKeeper tells a node without a replica whom to send on to.
func chainKeeper(s *Server, c *call) error {
	out := ChainKeeper{}
	for _, n := range c.view.Nodes() {
		if g := c.view.Segment(n.ID); g != nil && g.Chain == c.r.URL.Query().Get("chain") {
			out.Node = n.ID
		}
	}
	return c.writeJSON(http.StatusOK, out)
}

// Chain asks a voter of the own region where the caller's chain of receipts ends.
func (m *MeshClient) Chain(ctx context.Context, p transport.Peer) (*ChainEnd, error) {
	return meshJSON[ChainEnd](ctx, m, p, meshCall{method: http.MethodGet, path: "/chain", cargo: cargo(transport.CargoStatus)}, nil)
}

// ChainKeeper asks a voter of the own region who keeps a chain.
func (m *MeshClient) ChainKeeper(ctx context.Context, p transport.Peer, chain string) (*ChainKeeper, error) {
	path := "/chain/keeper?" + url.Values{"chain": {chain}}.Encode()
	return meshJSON[ChainKeeper](ctx, m, p, meshCall{method: http.MethodGet, path: path, cargo: cargo(transport.CargoStatus)}, nil)
}

// ChainProof asks a voter of the own region for the proof of a segment's leaf of
// the caller's chain. What it is worth is the reader's to judge.
func (m *MeshClient) ChainProof(ctx context.Context, p transport.Peer, leaf uint64) ([]byte, error) {
	path := "/chain/proof?leaf=" + strconv.FormatUint(leaf, 10)
	res, err := m.send(ctx, p, meshCall{method: http.MethodGet, path: path, cargo: cargo(transport.CargoStatus)})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, evidence.MaxReceipt+1))
	if err != nil {
		return nil, fmt.Errorf("read the proof of leaf %d from %s: %w", leaf, p.ID, err)
	}
	return data, nil
}
