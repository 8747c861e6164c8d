package transport

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// peerKey is the context key of the verified peer.
type peerKey struct{}

// PeerFrom is who sent an HTTP/3 request or an inference stream: the ID of the
// certificate on its connection. It reports false for a context of other origin.
func PeerFrom(ctx context.Context) (identity.ID, bool) {
	id, ok := ctx.Value(peerKey{}).(identity.ID)
	return id, ok
}

// WithPeer is for tests of handlers, which have no connection.
func WithPeer(ctx context.Context, id identity.ID) context.Context {
	return context.WithValue(ctx, peerKey{}, id)
}

// ServeH3 sets the handler of HTTP/3 requests. Until then they get 503. It may
// be called before or after Run; the handler must end with its request's context.
func (e *Endpoint) ServeH3(h http.Handler) { e.handler.Store(&h) }

func (e *Endpoint) newH3Server() *http3.Server {
	return &http3.Server{
		Handler:        http.HandlerFunc(e.handleH3),
		MaxHeaderBytes: e.cfg.HeaderMax,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			id, err := identity.PeerID(c.ConnectionState().TLS)
			if err != nil {
				return ctx
			}
			return WithPeer(ctx, id)
		},
	}
}

// standIn is what http.ServerContextKey holds under http3. A reverse proxy
// aborts its client's stream on a cut upstream only when it finds a server
// there; http3 sets a key of its own, and the client would see a whole answer.
var standIn = &http.Server{}

func (e *Endpoint) handleH3(w http.ResponseWriter, r *http.Request) {
	if _, ok := PeerFrom(r.Context()); !ok {
		http.Error(w, "the connection shows no identity", http.StatusForbidden)
		return
	}
	h := e.handler.Load()
	if h == nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this node has just started and takes no requests yet", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, standIn)))
}

// serveH3 runs the HTTP/3 server on one connection.
func (e *Endpoint) serveH3(c *quic.Conn) {
	if err := e.h3.ServeQUICConn(c); err != nil && c.Context().Err() == nil {
		e.cfg.Log.Debug("HTTP/3 connection ended", "peer", c.RemoteAddr(), "err", err)
		_ = c.CloseWithError(codeRefused, "")
	}
}

// Do sends an HTTP/3 request to the peer and waits for the head of its answer.
// The caller closes the answer's body; a body that ends without its end gives an
// error from Read, never a short success.
//
// The guard is asked first when the peer's region is not home. A connection
// that turns out stale is replaced once if nothing of the request was sent, or
// if the request may be repeated (a safe method, or an Idempotency-Key) and its
// body can be had again. Redirects are not followed.
func (e *Endpoint) Do(ctx context.Context, p Peer, cargo Cargo, req *http.Request) (*http.Response, error) {
	p = e.complete(p)
	if err := e.permit(ctx, p.ID.Region, cargo); err != nil {
		return nil, err
	}
	req = req.Clone(ctx)
	req.URL.Scheme = "https"
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if req.URL.Host == "" {
		req.URL.Host = p.Addr
	}
	key := poolKey{class: identity.ClassHTTP, addr: p.Addr, id: p.ID, lasting: cargo.Lasting}
	if cargo.Lasting != "" {
		key.whose = cargo.Whose
	}
	for attempt := 1; ; attempt++ {
		d, fresh, err := e.connect(ctx, key)
		if err != nil {
			return nil, err
		}
		var sent atomic.Bool
		try := req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			WroteHeaders: func() { sent.Store(true) },
		}))
		res, err := d.h3.RoundTrip(try)
		if err == nil {
			res.Body = e.leaving(d, res.Body)
			return res, nil
		}
		e.leave(d)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("ask %s: %w", p.ID, context.Cause(ctx))
		}
		if !isConnError(err) && d.conn.Context().Err() == nil {
			return nil, fmt.Errorf("ask %s: %w", p.ID, err)
		}
		e.forget(d)
		if fresh || attempt == 2 || !rewind(req, sent.Load()) {
			return nil, &UnreachableError{Peer: p, Class: identity.ClassHTTP, Err: err}
		}
		e.counts.retries.Add(1)
	}
}

// rewind reports whether a request that met a dead connection may be sent
// again, and restores its body.
func rewind(req *http.Request, sent bool) bool {
	noBody := req.Body == nil || req.Body == http.NoBody
	if !sent && noBody {
		return true
	}
	if sent && !repeatable(req) {
		return false
	}
	if noBody {
		return true
	}
	if req.GetBody == nil {
		// Not sent: nobody has read the body yet, it is still whole.
		return !sent
	}
	body, err := req.GetBody()
	if err != nil {
		return false
	}
	req.Body = body
	return true
}

// repeatable follows net/http: a safe method, or a key by which the server
// knows a second copy.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return req.Header.Get("Idempotency-Key") != ""
}

// isConnError reports whether the connection itself died, by reset, silence or
// a close from the other side.
func isConnError(err error) bool {
	var reset *quic.StatelessResetError
	var idle *quic.IdleTimeoutError
	var app *quic.ApplicationError
	var transport *quic.TransportError
	return errors.As(err, &reset) || errors.As(err, &idle) || errors.As(err, &app) || errors.As(err, &transport)
}

// complete gives a peer without a mesh the node's own.
func (e *Endpoint) complete(p Peer) Peer {
	if c := e.cfg.Credential.Current(); p.ID.Mesh == "" && c != nil {
		p.ID.Mesh = c.ID.Mesh
	}
	return p
}
