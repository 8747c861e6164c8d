package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// call is a request that came over the mesh: a [transport.Stream].
type call interface {
	io.Writer
	Body() io.Reader
	Answer(transport.Answer) error
	Refuse(transport.Answer) error
	Close() error
	Cut()
}

// sender is who sent a request, from the certificate on its connection.
type sender struct {
	region placement.RegionID
	node   placement.NodeID
}

// ServeInfer answers requests of other nodes: it is the handler of
// [transport.Endpoint.ServeInfer].
func (g *Gateway) ServeInfer(ctx context.Context, s *transport.Stream) {
	g.serve(ctx, sender{s.Peer.Region, s.Peer.Node}, s.Head, s)
}

// serve judges a request again, from this node's own view, and forwards it: from
// a node of this region to a model server here, from another region to a replica
// anywhere in this one.
func (g *Gateway) serve(ctx context.Context, from sender, head transport.Head, c call) {
	ctx, cancel, leave, ok := g.begin(ctx)
	if !ok {
		g.refuse(c, from, head, notReady())
		return
	}
	defer leave()
	j := g.judge()
	if j == nil {
		g.refuse(c, from, head, notReady())
		return
	}
	p, e := g.received(ctx, j, from, head)
	if e != nil {
		g.refuse(c, from, head, e)
		return
	}
	far := reachNode
	if from.region != g.cfg.Region {
		far = reachRegion
	}
	// Targets are known before the body is read: a request that nobody here may
	// answer is refused unread.
	targets, e := g.choose(j, g.catalog.of(j.view), p, placement.TenantID(head.Tenant), head.Model, far)
	if e != nil {
		g.refuse(c, from, head, e)
		return
	}
	body, e := g.receive(head, c)
	if e != nil {
		g.refuse(c, from, head, e)
		return
	}
	if e := g.busy(from.region != g.cfg.Region); e != nil {
		g.refuse(c, from, head, e)
		return
	}
	g.forward(ctx, cancel, head, body, targets, c, from)
}

// received judges the head: who may ask, for whom, and under which policy.
func (g *Gateway) received(ctx context.Context, j *judge, from sender, head transport.Head) (residency.Policy, *Error) {
	none := residency.Policy{}
	if head.Method != http.MethodPost || !slices.Contains([]string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}, head.Path) {
		return none, notFound(head.Method + " " + head.Path)
	}
	if err := validModel(head.Model); err != nil {
		return none, badRequest("invalid_body", "model", err)
	}
	p, err := residency.ParseCanonical(head.Tag, j.law.Pack, j.law.On)
	if err != nil {
		return none, badRequest("tag.syntax", "", fmt.Errorf("the policy cannot be read here: %w", err))
	}
	if from.region == g.cfg.Region {
		return p, nil
	}
	return g.foreign(ctx, j, from, head, p)
}

// foreign judges what another region sends, before its body is read: its tenants
// are its own, this region's import rule and the packs of both permit the prompt
// here, and this region's export rule permits the answer to go back.
func (g *Gateway) foreign(ctx context.Context, j *judge, from sender, head transport.Head, p residency.Policy) (residency.Policy, *Error) {
	none := residency.Policy{}
	peer := j.view.Region(from.region)
	if peer == nil || peer.State != placement.PeerActive {
		return none, &Error{Status: 403, Code: "peer_not_active", Message: fmt.Sprintf("%s is not an active peer of %s", from.region, g.cfg.Region)}
	}
	if tenant, ok := strings.CutPrefix(head.Tenant, string(from.region)+"/"); !ok || !placement.ValidName(tenant) {
		return none, &Error{Status: 403, Code: "tenant_not_yours", Message: fmt.Sprintf("%s speaks for its own tenants only", from.region)}
	}
	said := *peer // the pack by which it decided counts, also where we heard of another
	said.LawPack = head.LawPack
	j.from = &said
	r := j.enter(p, "")
	if r.Verdict == residency.Refused || r.Rule == residency.RuleNotHeld {
		return none, refusedBy(r)
	}
	// A site may still permit what is unknown of the region: choose judges each.
	err := g.cfg.Mesh.Permit(ctx, from.region, transport.Cargo{Kind: transport.CargoInference, Policy: p, Use: placement.UseAnswer})
	var egress *transport.EgressError
	var refusal *residency.Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Unknown():
		return none, unknownLaw(refusal.Decision)
	case errors.As(err, &egress):
		return none, &Error{Status: 403, Code: "residency_not_permitted", NoRetry: true, Message: egress.Error(), Advice: egress.Hint()}
	case err != nil:
		return none, notReady()
	}
	return r.Policy, nil
}

// receive reads the body, which must be the one that the head speaks of.
func (g *Gateway) receive(head transport.Head, c call) ([]byte, *Error) {
	var body bytes.Buffer
	n, err := body.ReadFrom(io.LimitReader(c.Body(), g.cfg.BodyMax+1))
	switch {
	case err != nil:
		return nil, badRequest("body_incomplete", "", errors.New("the body was cut"))
	case n > g.cfg.BodyMax:
		return nil, g.tooLarge()
	}
	req, err := sniff(body.Bytes())
	if err == nil && req.Model != head.Model {
		err = fmt.Errorf("%w: it asks for another model than was judged", errBody)
	}
	if err != nil {
		return nil, badRequest("invalid_body", "", err)
	}
	return body.Bytes(), nil
}

// forward asks targets until one answers, and passes its answer back.
func (g *Gateway) forward(ctx context.Context, cancel context.CancelCauseFunc, head transport.Head, body []byte, targets []target, c call, from sender) {
	limit := g.cfg.HeaderTimeout
	if !head.Deadline.IsZero() {
		limit = max(min(limit, head.Deadline.Sub(g.cfg.Now())), time.Millisecond)
	}
	watch := startWatch(cancel, limit)
	defer watch.stop()
	last := noCapacity(head.Model, "no replica of it answered")
	kept := g.keepForeign(head, from, body)
	for attempt := 1; len(targets) > 0 && attempt <= g.cfg.Attempts && ctx.Err() == nil; attempt++ {
		i, done := g.flights.take(targets)
		t := targets[i]
		targets = slices.Delete(slices.Clone(targets), i, i+1)
		if last = g.pass(ctx, watch, head, body, t, c, done, kept); last == nil {
			return
		}
	}
	if kept != nil {
		kept.record(ReceiptFailed, last.Status)
	}
	g.refuse(c, from, head, last)
}

// pass asks one target and sends its answer back. A nil error says that an
// answer has begun, whole or cut.
func (g *Gateway) pass(ctx context.Context, w *watch, head transport.Head, body []byte, t target, c call, done func(), kept *keeping) *Error {
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kept.at(t, head.ReceiptID)
	head.ReceiptID = ""
	head.Hops++
	head.Tag = t.policy.policy.Canonical()
	hop, err := g.ask(ctx, t, head, body)
	if err != nil {
		return g.failure(ctx, t, head.Model, err)
	}
	defer hop.Close()
	a := hop.Head()
	if e := refusal(a); e != nil {
		return e
	}
	a.Region, a.ReceiptID = string(g.cfg.Region), ""
	id, e := kept.promise(ctx)
	if e != nil {
		return e
	}
	if id != receiptDropped {
		a.ReceiptID = id
	}
	if err := c.Answer(a); err != nil {
		return upstreamCut(err)
	}
	into := writerFunc(func(p []byte) (int, error) { kept.wrote(p); return c.Write(p) })
	if _, err := io.CopyBuffer(into, heard{hop, w, g.cfg.IdleTimeout}, make([]byte, 16<<10)); err != nil {
		if kept != nil {
			kept.record(ReceiptCut, int(a.Status))
		}
		c.Cut()
		return nil
	}
	outcome := ReceiptAnswered
	if a.Status >= 400 {
		outcome = ReceiptFailed
	}
	if _, e := kept.finish(ctx, outcome, int(a.Status)); e != nil {
		g.cfg.Log.Error("an answer to another region ends without its receipt", "request", head.RequestID, "err", e)
		c.Cut()
		return nil
	}
	if err := c.Close(); err != nil {
		c.Cut()
	}
	return nil
}

// refuse answers with a code and no body: only then may the sender try elsewhere.
func (g *Gateway) refuse(c call, from sender, head transport.Head, e *Error) {
	g.cfg.Log.Info("an inference request of another node was refused",
		"request", head.RequestID, "peer", from.node, "region", from.region, "status", e.Status, "code", e.Code)
	message := e.Message
	if e.Advice != "" {
		message += ": " + e.Advice
	}
	err := c.Refuse(transport.Answer{
		Status: uint16(e.Status), Code: e.Code, Message: clean(message, 2048),
		RetryAfter: e.RetryAfter, Region: string(g.cfg.Region),
	})
	if err != nil {
		c.Cut()
	}
}
