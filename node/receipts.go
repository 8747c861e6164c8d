package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	tlog "github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/gateway"
	"github.com/sovmesh/sovmesh/node/receipts"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// buildReceipts gives the node its keeper of inference receipts. On a worker the
// voters have the chain's end, see [workerLog].
func (n *Node) buildReceipts() (err error) {
	cfg := receipts.DefaultConfig()
	cfg.Region, cfg.Node, cfg.Dir, cfg.Log = n.who.Region, n.who.Node, n.dir.path(dirReceipts), receiptLog{n}
	if n.group == nil {
		cfg.Log = &workerLog{n: n}
	}
	cfg.Now, cfg.Logger = n.deps.now, n.logOf("receipts")
	if n.cfg.ReceiptsFor > 0 {
		cfg.KeepFor = n.cfg.ReceiptsFor
	}
	if n.cfg.ReceiptsMax > 0 {
		cfg.KeepBytes = int64(n.cfg.ReceiptsMax)
	}
	n.receipts, err = receipts.New(cfg)
	return err
}

// receiptLog is the ledger as the keeper of receipts of a replica uses it.
type receiptLog struct{ n *Node }

func (l receiptLog) Segment(ctx context.Context) (*state.Segment, error) {
	index, err := l.n.ledger.ReadIndex(ctx)
	if err != nil {
		return nil, err
	}
	for l.n.ledger.View().Index() < index {
		if _, err := l.n.ledger.Wait(ctx, l.n.ledger.View().Index()); err != nil {
			return nil, err
		}
	}
	return l.n.ledger.View().Segment(l.n.who.Node), nil
}

func (l receiptLog) Commit(ctx context.Context, cmd state.CommitSegment) (state.Result, error) {
	res, err := l.n.ledger.Propose(ctx, cmd, l.n.actor())
	var refused *state.Refused
	if errors.As(err, &refused) {
		return state.Result{Refused: refused}, nil
	}
	return res, err
}

// gatewayReceipts is the keeper as the gateway uses it.
type gatewayReceipts struct{ n *Node }

func (g gatewayReceipts) Ready() *gateway.ReceiptError { return receiptError(g.n.receipts.Ready()) }

func (g gatewayReceipts) Begin(b gateway.ReceiptBegin) gateway.Receipt {
	class := receipt.BestEffort
	if b.Required {
		class = receipt.Required
	}
	return receiptSlot{g.n.receipts.Begin(receipts.Begin{
		Owner: b.Owner, RequestID: b.RequestID, Model: b.Model, Tag: b.Tag, LawPack: b.LawPack, Policy: sha256.Sum256([]byte(b.Tag)),
		Entry: string(g.n.who.Node), Start: b.Start, Evidence: class, Body: b.Body,
	})}
}

type receiptSlot struct{ *receipts.Slot }

func (s receiptSlot) Promise(ctx context.Context) (string, *gateway.ReceiptError) {
	id, err := s.Slot.Promise(ctx)
	return id, receiptError(err)
}

var receiptOutcomes = map[gateway.ReceiptOutcome]receipt.Outcome{
	gateway.ReceiptAnswered: receipt.Answered, gateway.ReceiptFailed: receipt.Failed,
	gateway.ReceiptCut: receipt.Cut, gateway.ReceiptRefused: receipt.Refused,
}

func (s receiptSlot) Finish(ctx context.Context, e gateway.ReceiptEnd) (string, *gateway.ReceiptError) {
	id, err := s.Slot.Finish(ctx, receipts.End{
		Exec: string(e.Node), Region: string(e.Region), Peer: e.Peer, Policy: e.Policy, At: e.At,
		Outcome: receiptOutcomes[e.Outcome], Status: uint16(e.Status),
	})
	return id, receiptError(err)
}

func receiptError(err error) *gateway.ReceiptError {
	if err == nil {
		return nil
	}
	out := &gateway.ReceiptError{Why: err.Error(), RetryAfter: time.Second, Dropped: errors.Is(err, receipts.ErrDropped)}
	var busy *receipts.Busy
	if errors.As(err, &busy) {
		out.RetryAfter = busy.RetryAfter
	}
	return out
}

// Find gives a receipt with the node's signature at once, and with the ledger's
// proof as soon as there is one.
func (g gatewayReceipts) Find(ctx context.Context, id string) (owner string, doc any, e *gateway.Error) {
	f, err := g.n.receipts.Find(id)
	switch {
	case errors.Is(err, receipts.ErrElsewhere):
		return "", nil, g.elsewhere(ctx, id)
	case errors.Is(err, receipts.ErrNever), errors.Is(err, fs.ErrNotExist):
		return "", nil, &gateway.Error{Status: http.StatusNotFound, Code: "receipt_not_found", NoRetry: true, Message: "no receipt " + id + " was ever promised here"}
	case err != nil:
		if _, bad := receipt.ParseID(id); bad != nil {
			return "", nil, &gateway.Error{Status: http.StatusBadRequest, Code: "receipt_id", NoRetry: true, Message: bad.Error()}
		}
		g.n.deps.Log.Error("a receipt cannot be read", "receipt", id, "err", err)
		return "", nil, &gateway.Error{Status: http.StatusInternalServerError, Code: "receipt_unreadable", Message: err.Error()}
	}
	d, err := f.Document()
	if err == nil && d.Leaf != nil {
		d.Promise, err = identity.Sign(g.n.credential.Current(), receipt.PromiseContext, d.Payload(), g.n.deps.now())
	}
	if err != nil {
		return "", nil, &gateway.Error{Status: http.StatusInternalServerError, Code: "receipt_unreadable", Message: err.Error()}
	}
	if d.State == receipt.Committed {
		g.prove(ctx, d)
	}
	return f.Owner, d, nil
}

// elsewhere names the node that keeps the receipt, if the ledger knows it.
func (g gatewayReceipts) elsewhere(ctx context.Context, text string) *gateway.Error {
	out := &gateway.Error{Status: http.StatusNotFound, Code: "receipt_not_found", NoRetry: true, Message: "no node of this region keeps a receipt " + text}
	id, err := receipt.ParseID(text)
	if err != nil {
		return out
	}
	if id.Region != string(g.n.who.Region) {
		out.Message, out.Advice = "region "+id.Region+" keeps the receipt "+text+", and no other", "ask a node of that region, with a token of its own"
		return out
	}
	if doors := g.n.doorOf(g.keeper(ctx, "h:"+id.Chain)); doors != nil {
		out.Status, out.Code = http.StatusMisdirectedRequest, "receipt_elsewhere"
		out.Message, out.Advice = "another node of this region keeps the receipt", "ask it there"
		out.Doors = doors
	}
	return out
}

// keeper is the node that keeps a chain, empty if there is none.
func (g gatewayReceipts) keeper(ctx context.Context, chain string) placement.NodeID {
	if g.n.group == nil {
		return g.n.keeperOf(ctx, chain)
	}
	view := g.n.ledger.View()
	for _, node := range view.Nodes() {
		if s := view.Segment(node.ID); s != nil && s.Chain == chain {
			return node.ID
		}
	}
	return ""
}

// prove adds the way from the segment's leaf to the signed state of the log that
// most witnesses know, as a file that is verified offline. Without one the receipt is committed
// and not yet proven.
func (g gatewayReceipts) prove(ctx context.Context, d *receipt.Document) {
	if g.n.group == nil {
		d.Ledger.Proof = string(g.n.fetchProof(ctx, d))
		return
	}
	files := g.n.group.Ledger()
	if files == nil {
		return
	}
	c := g.n.ledger.View().Standing(d.Ledger.Leaf).Checkpoint
	if c == nil {
		return
	}
	data, err := proofOf(ctx, files, c.Note, d.Ledger.Leaf)
	if err != nil {
		g.n.deps.Log.Warn("a receipt's segment cannot be proven here", "receipt", d.ID, "leaf", d.Ledger.Leaf, "err", err)
		return
	}
	d.Ledger.Proof = string(data)
}

func proofOf(ctx context.Context, files *store.Store, note string, leaf uint64) ([]byte, error) {
	signed, err := tlog.ParseSignedCheckpoint([]byte(note))
	if err != nil {
		return nil, err
	}
	entry, err := files.Entry(leaf)
	if err != nil {
		return nil, err
	}
	state := signed.Unverified()
	hashes, err := tlog.ProveInclusion(ctx, files, state.Head(), leaf)
	if err != nil {
		return nil, err
	}
	out := evidence.Receipt{Checkpoint: signed, Leaves: []evidence.ReceiptLeaf{{Index: leaf, Entry: entry, Hashes: hashes}}}
	return out.Encode()
}
