package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

const (
	// receiptHeader carries the id of an answer's receipt, or "dropped".
	receiptHeader = "X-Sovmesh-Receipt"
	// evidenceHeader asks for a class of evidence for one request.
	evidenceHeader = "X-Sovmesh-Evidence"
	receiptDropped = "dropped"
	// recordWithin bounds the record of a request that is over already.
	recordWithin = 2 * time.Second
)

// Receipts keeps a receipt of each answer.
type Receipts interface {
	// Ready is why no receipt could be kept now, nil if it could.
	Ready() *ReceiptError
	Begin(ReceiptBegin) Receipt
	// Find gives a receipt as JSON, and whose it is.
	Find(ctx context.Context, id string) (owner string, doc any, err *Error)
}

// Receipt is one that is being made. Write takes the response as it goes out.
type Receipt interface {
	Write([]byte) (int, error)
	// Promise gives the id, for which a record is kept from then on.
	Promise(ctx context.Context) (id string, err *ReceiptError)
	// Finish completes the receipt. With required evidence it is on the disk then.
	Finish(ctx context.Context, e ReceiptEnd) (id string, err *ReceiptError)
}

// ReceiptError says that no receipt could be kept. Dropped: it was counted, and
// the request goes on without.
type ReceiptError struct {
	Why        string
	RetryAfter time.Duration
	Dropped    bool
}

// ReceiptBegin is what a receipt begins with.
type ReceiptBegin struct {
	Owner, RequestID, Model string
	Tag                     string // the effective policy, canonical
	LawPack                 string
	Start                   time.Time
	Required                bool
	Body                    []byte
}

// ReceiptOutcome is what became of a request.
type ReceiptOutcome uint8

// The outcomes.
const (
	ReceiptAnswered ReceiptOutcome = iota
	ReceiptFailed
	ReceiptCut
	ReceiptRefused
)

// ReceiptEnd is what a receipt ends with.
type ReceiptEnd struct {
	Node    placement.NodeID // that ran it, if it is of this region
	Region  placement.RegionID
	Peer    string   // the other region's receipt
	Policy  [32]byte // SHA-256 of the policy under which it ran
	At      time.Time
	Outcome ReceiptOutcome
	Status  int
}

// keeping is the receipt of one request, or none.
type keeping struct {
	r        Receipt
	g        *Gateway
	end      ReceiptEnd
	required bool
	over     bool
}

func (g *Gateway) keep(b ReceiptBegin) *keeping {
	k := &keeping{g: g, required: b.Required}
	if g.cfg.Receipts != nil {
		k.r = g.cfg.Receipts.Begin(b)
	}
	return k
}

// busy refuses work whose required evidence could not be kept.
func (g *Gateway) busy(required bool) *Error {
	if g.cfg.Receipts == nil || !required {
		return nil
	}
	return evidenceBusy(g.cfg.Receipts.Ready())
}

func evidenceBusy(err *ReceiptError) *Error {
	if err == nil || err.Dropped {
		return nil
	}
	return &Error{
		Status: http.StatusTooManyRequests, Code: "evidence_busy", RetryAfter: max(err.RetryAfter, time.Second),
		Message: "evidence is required, and " + err.Why,
		Advice:  "try again, or send " + evidenceHeader + ": best-effort if the answer matters more than its record",
	}
}

// promise is the receipt's id before its answer is known.
func (k *keeping) promise(ctx context.Context) (string, *Error) {
	if k == nil || k.r == nil {
		return "", nil
	}
	id, err := k.r.Promise(ctx)
	return k.said(id, err), evidenceBusy(err)
}

// said is what the header says.
func (k *keeping) said(id string, err *ReceiptError) string {
	if id == "" && err != nil && err.Dropped {
		return receiptDropped
	}
	return id
}

// wrote takes what went to the caller.
func (k *keeping) wrote(p []byte) {
	if k != nil && k.r != nil {
		_, _ = k.r.Write(p) // a hash takes everything
	}
}

// at says where a request is worked on.
func (k *keeping) at(t target, peer string) {
	if k == nil {
		return
	}
	k.end.Node, k.end.Region, k.end.Peer = t.node, t.region, peer
	k.end.Policy = sha256.Sum256([]byte(t.policy.policy.Canonical()))
}

// finish completes the receipt, once.
func (k *keeping) finish(ctx context.Context, o ReceiptOutcome, status int) (string, *Error) {
	if k == nil || k.r == nil || k.over {
		return "", nil
	}
	k.over = true
	k.end.Outcome, k.end.Status, k.end.At = o, status, k.g.cfg.Now()
	id, err := k.r.Finish(ctx, k.end)
	return k.said(id, err), evidenceBusy(err)
}

// record is finish for what is over whatever comes of it, its caller perhaps
// gone.
func (k *keeping) record(o ReceiptOutcome, status int) string {
	ctx, cancel := context.WithTimeout(context.Background(), recordWithin)
	defer cancel()
	id, err := k.finish(ctx, o, status)
	if err != nil {
		k.g.cfg.Log.Error("a receipt is not complete", "receipt", id, "err", err)
	}
	return id
}

// evidence reads which class the request asks for; without a word of it the
// deployment's own counts, and required for what runs elsewhere.
func (p *passage) evidence(t target) (required bool) {
	switch p.r.Header.Get(evidenceHeader) {
	case string(placement.EvidenceRequired):
		return true
	case string(placement.EvidenceBestEffort):
		return false
	}
	return t.evidence != placement.EvidenceBestEffort
}

// begun is the receipt that a request of this passage has.
func (p *passage) begun(required bool) *keeping {
	if p.kept == nil {
		b := ReceiptBegin{Owner: string(p.caller.Tenant), RequestID: p.id, Model: p.req.Model, Tag: p.policy.Canonical(), Start: p.g.cfg.Now(), Required: required, Body: p.body}
		if p.judge != nil {
			b.LawPack = p.judge.law.Pack.Hash()
		}
		p.kept = p.g.keep(b)
	}
	return p.kept
}

// recordRefusal keeps a receipt of a refusal, for a caller who is known. It
// holds nothing back: a refusal under load stays a refusal.
func (p *passage) recordRefusal(e *Error) {
	if p.g.cfg.Receipts == nil || p.judge == nil || e.Code == "evidence_busy" {
		return
	}
	outcome := ReceiptRefused
	if e.Status >= 500 {
		outcome = ReceiptFailed
	}
	p.begun(false).wrote(e.wire())
	if id := p.kept.record(outcome, e.Status); id != "" {
		p.w.Header().Set(receiptHeader, id)
	}
}

// showReceipt answers GET /v1/receipts/{id}: to the tenant whose request it was.
func (g *Gateway) showReceipt(w http.ResponseWriter, r *http.Request) {
	g.head(w)
	caller, e := g.cfg.Auth(r)
	if e != nil {
		writeError(w, e)
		return
	}
	id := r.PathValue("id")
	missing := &Error{Status: http.StatusNotFound, Code: "receipt_not_found", NoRetry: true, Message: "this node keeps no receipt " + clean(id, 200) + " for this key", Advice: "ask with a key of the tenant whose request it was"}
	if g.cfg.Receipts == nil {
		writeError(w, missing)
		return
	}
	owner, doc, e := g.cfg.Receipts.Find(r.Context(), id)
	switch {
	case e != nil:
		writeError(w, e)
		return
	case owner != "" && owner != string(caller.Tenant):
		writeError(w, missing)
		return
	}
	data, err := json.Marshal(doc)
	if err != nil {
		writeError(w, &Error{Status: http.StatusInternalServerError, Code: "receipt_unreadable", Message: err.Error()})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // a client that has left hears nothing
}

// keepForeign is the receipt of a request that another region sends.
func (g *Gateway) keepForeign(head transport.Head, from sender, body []byte) *keeping {
	if from.region == g.cfg.Region {
		return nil // the node that took the request keeps the receipt
	}
	k := g.keep(ReceiptBegin{
		Owner: head.Tenant, RequestID: head.RequestID, Model: head.Model, Tag: head.Tag, LawPack: head.LawPack,
		Start: g.cfg.Now(), Required: true, Body: body,
	})
	return k
}

// errNoEvidence ends an answer whose required receipt could not be completed.
var errNoEvidence = errors.New("the answer's receipt could not be kept")
