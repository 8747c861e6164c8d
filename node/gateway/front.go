package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// head sets what every answer has.
func (g *Gateway) head(w http.ResponseWriter) (requestID string) {
	var id [12]byte
	_, _ = rand.Read(id[:])
	requestID = "req_" + hex.EncodeToString(id[:])
	h := w.Header()
	h.Set("X-Request-Id", requestID)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	return requestID
}

// passage is one request on its way.
type passage struct {
	g       *Gateway
	w       http.ResponseWriter
	r       *http.Request
	id      string
	started time.Time
	caller  Caller
	judge   *judge
	catalog *catalog
	policy  residency.Policy
	req     request
	body    []byte
	limit   time.Duration // until the first byte of an answer
	kept    *keeping      // its receipt, once that has begun
}

// infer answers POST /v1/chat/completions and its like.
func (g *Gateway) infer(w http.ResponseWriter, r *http.Request) {
	p := &passage{g: g, w: w, r: r, id: g.head(w), started: time.Now()}
	ctx, cancel, leave, ok := g.begin(r.Context())
	if !ok {
		refuseUnread(w, r, notReady())
		return
	}
	defer leave()
	if e := p.headers(); e != nil {
		g.refused(p, e)
		refuseUnread(w, r, e)
		return
	}
	if e := p.read(); e != nil {
		g.refused(p, e)
		if e.Status == http.StatusRequestEntityTooLarge {
			refuseUnread(w, r, e) // the rest of it
			return
		}
		writeError(w, e)
		return
	}
	targets, e := g.choose(p.judge, p.catalog, p.policy, p.caller.Tenant, p.req.Model, reachMesh)
	if e != nil {
		g.refused(p, e)
		writeError(w, e)
		return
	}
	p.answer(ctx, cancel, targets)
}

// refused writes the one line of a decision. It holds no word of the body: a
// model's name is not among what is logged of a request that was refused.
func (g *Gateway) refused(p *passage, e *Error) {
	p.recordRefusal(e)
	g.cfg.Log.Info("an inference request was refused", "request", p.id, "token", p.caller.ID, "status", e.Status, "code", e.Code)
}

// headers judges all that can be judged before the body: who, and whether the
// body may enter this region.
func (p *passage) headers() *Error {
	var e *Error
	if p.caller, e = p.g.cfg.Auth(p.r); e != nil {
		return e
	}
	if p.judge = p.g.judge(); p.judge == nil {
		return notReady()
	}
	if p.policy, e = p.judge.request(p.caller, p.r.Header.Values(residencyHeader)); e != nil {
		return e
	}
	p.catalog = p.g.catalog.of(p.judge.view)
	if e = p.judge.place(p.policy, p.g.site(p.judge), p.catalog.sites); e != nil {
		return e
	}
	if p.limit, e = headerTimeout(p.r.Header.Get("X-Stainless-Timeout"), p.g.cfg.HeaderTimeout); e != nil {
		return e
	}
	if p.r.ContentLength > p.g.cfg.BodyMax {
		return p.g.tooLarge()
	}
	return nil
}

// headerTimeout takes over the SDK's own limit, in seconds, where it is shorter.
func headerTimeout(value string, limit time.Duration) (time.Duration, *Error) {
	if value == "" {
		return limit, nil
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || !(n > 0) {
		return 0, badRequest("invalid_timeout", "X-Stainless-Timeout", fmt.Errorf("%.40q is no number of seconds", value))
	}
	if n < limit.Seconds() {
		return max(time.Duration(n*float64(time.Second)), time.Millisecond), nil
	}
	return limit, nil
}

func (g *Gateway) tooLarge() *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge, Code: "body_too_large", NoRetry: true,
		Message: fmt.Sprintf("the body is longer than %d bytes", g.cfg.BodyMax),
	}
}

// read takes the whole body before anything is forwarded: the model's name is in
// it, another replica may need it again, and net/http cuts an answer that comes
// before the body was read (golang/go#40747).
func (p *passage) read() *Error {
	var body bytes.Buffer
	if p.r.ContentLength > 0 {
		body.Grow(int(min(p.r.ContentLength, 1<<20)) + bytes.MinRead)
	}
	n, err := body.ReadFrom(io.LimitReader(p.r.Body, p.g.cfg.BodyMax+1))
	if n > p.g.cfg.BodyMax {
		return p.g.tooLarge()
	}
	if err != nil {
		return badRequest("body_incomplete", "", errors.New("the body ended before its end"))
	}
	p.body = body.Bytes()
	if p.req, err = sniff(p.body); err != nil {
		return badRequest("invalid_body", "", err)
	}
	return nil
}

// answer tries targets until one answers. Once a byte has reached the client
// there is no other attempt.
func (p *passage) answer(ctx context.Context, cancel context.CancelCauseFunc, targets []target) {
	deadline := p.started.Add(p.limit)
	watch := startWatch(cancel, time.Until(deadline))
	defer watch.stop()
	var last *Error
	for attempt := 1; len(targets) > 0 && attempt <= p.g.cfg.Attempts; attempt++ {
		i, done := p.g.flights.take(targets)
		t := targets[i]
		targets = slices.Delete(slices.Clone(targets), i, i+1)
		last = p.try(ctx, watch, t, deadline, len(targets) > 0 && attempt < p.g.cfg.Attempts, done)
		if last == nil || ctx.Err() != nil {
			break
		}
	}
	if last == nil {
		return
	}
	if p.r.Context().Err() != nil {
		if p.kept != nil {
			p.kept.record(ReceiptCut, 0) // nobody is there to hear an answer
		}
		return
	}
	p.g.usage.add(p.caller.Tenant, p.req.Model, func(c *Count) { c.Refused++ })
	p.g.refused(p, last)
	writeError(p.w, last)
}

// try asks one target and passes its answer on. A nil error says that the
// client has its answer; others say that nothing has reached it. It panics with
// http.ErrAbortHandler when a part has.
func (p *passage) try(ctx context.Context, w *watch, t target, deadline time.Time, more bool, done func()) *Error {
	defer done()
	required := p.evidence(t)
	if e := p.g.busy(required); e != nil {
		return e
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // whatever is left of this attempt ends with it
	kept := p.begun(required)
	kept.at(t, "")
	head := p.headFor(t, deadline)
	if t.region != p.g.cfg.Region {
		// The other region's receipt names this one: it is promised before the
		// prompt leaves.
		id, e := kept.promise(ctx)
		if e != nil {
			return e
		}
		if id != receiptDropped {
			head.ReceiptID = id
		}
	}
	w.heard(time.Until(deadline))
	settled := p.g.inContact(t.region, cancel)
	hop, err := p.g.ask(ctx, t, head, p.req.withUsage(p.body))
	settled()
	if err != nil {
		return p.g.failure(ctx, t, p.req.Model, err)
	}
	defer hop.Close()
	a := hop.Head()
	if e := refusal(a); e != nil {
		return e
	}
	kept.at(t, a.ReceiptID)
	if more && (a.Status == 429 || a.Status == 502 || a.Status == 503) {
		return &Error{Status: int(a.Status), Code: "upstream_busy", Message: "the model server is busy", RetryAfter: a.RetryAfter}
	}
	rel := &relay{
		w: p.w, hop: hop, watch: w, idle: p.g.cfg.IdleTimeout,
		strip: p.req.Stream && !p.req.IncludeUsage, started: p.started,
		target: t, home: t.region == p.g.cfg.Region, kept: kept,
	}
	err = rel.run(ctx)
	if err == nil {
		err = rel.settle(ctx)
	}
	if err != nil {
		return p.broken(ctx, rel, t, err)
	}
	p.count(rel, a.Status)
	return nil
}

// broken deals with an answer that is not whole.
func (p *passage) broken(ctx context.Context, rel *relay, t target, err error) *Error {
	if !rel.committed {
		return p.g.failure(ctx, t, p.req.Model, err)
	}
	rel.kept.record(ReceiptCut, int(rel.hop.Head().Status))
	p.g.usage.add(p.caller.Tenant, p.req.Model, func(c *Count) { c.Cut++; c.Usage = c.plus(rel.usage) })
	var e *Error
	var silent silence
	switch cause := context.Cause(ctx); {
	case errors.Is(err, errLeft), p.r.Context().Err() != nil, errors.Is(err, errToldByUpstream):
		panic(http.ErrAbortHandler)
	case errors.As(cause, &silent):
		e = upstreamTimeout(silent)
	default:
		e = upstreamCut(err)
	}
	p.g.cfg.Log.Warn("an answer was cut", "request", p.id, "region", t.region, "task", t.task, "err", err)
	rel.abort(p.r.Context(), e)
	return nil
}

func (p *passage) count(rel *relay, status uint16) {
	p.g.usage.add(p.caller.Tenant, p.req.Model, func(c *Count) {
		switch {
		case status >= 400:
			c.Refused++
			return
		case rel.usage == nil:
			c.Uncounted++
		}
		c.Answered++
		c.Usage = c.plus(rel.usage)
	})
}

func (c *Count) plus(u *Usage) Usage {
	if u == nil {
		return c.Usage
	}
	return Usage{c.PromptTokens + u.PromptTokens, c.CompletionTokens + u.CompletionTokens}
}

// headFor is what goes with the body. It has named fields only: no header of the
// client crosses a border but those.
func (p *passage) headFor(t target, deadline time.Time) transport.Head {
	tenant := string(p.caller.Tenant)
	if t.region != p.g.cfg.Region {
		tenant = string(p.g.cfg.Region) + "/" + tenant
	}
	return transport.Head{
		RequestID: p.id, Tenant: tenant, Tag: t.policy.policy.Canonical(), LawPack: p.judge.law.Pack.Hash(),
		Model: p.req.Model, Method: http.MethodPost, Path: p.r.URL.Path, ContentType: "application/json",
		Deadline: deadline, Hops: 1,
		APIBeta: clean(p.r.Header.Get("OpenAI-Beta"), 256),
	}
}

// peer is how a node of this region is reached.
func (g *Gateway) peer(n *placement.Node) transport.Peer {
	p := transport.Peer{Addr: n.QUIC}
	p.ID.Region, p.ID.Node = g.cfg.Region, n.ID
	return p
}
