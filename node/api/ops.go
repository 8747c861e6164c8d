package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// operation is one row of the API: route, who may, and what goes in and out.
// Routes, authorization and the OpenAPI document all come from this table.
type operation struct {
	Method, Path string
	ID           string // of the OpenAPI document
	Summary      string
	Verb         Verb
	// Foreign: certificates of other regions may use it. Grant: the grant verb
	// that covers it.
	Foreign bool
	Grant   string
	// Unread: whatever refuses it, its body is not read.
	Unread bool
	// Duplex: its body and its answer are frames that come at the same time; a body
	// that is refused is not read to its end.
	Duplex bool
	// NoState: it is answered without the region's state, also on a worker.
	NoState bool
	// Relay: a worker passes it on to a voter.
	Relay bool
	// Stream: the answer is not one JSON document.
	Stream  string // content type
	In, Out any    // zero values of the bodies, for the OpenAPI document
	Query   []parameter
	Handler func(*Server, *call) error
}

// parameter is a query parameter in the OpenAPI document.
type parameter struct{ Name, Type, Summary string }

func paging() []parameter {
	return []parameter{
		{"limit", "integer", "items of a page, at most 1000"},
		{"cursor", "string", "where the page begins: next of the page before"},
		{"wait", "string", "answer when the index grew beyond index, at most after this long, as in 30s"},
		{"index", "integer", "the index that the caller knows"},
		{"stale", "boolean", "accept what this node knows, without asking the region's quorum"},
	}
}

// call is one request on its way through a handler.
type call struct {
	s       *Server
	op      *operation
	w       http.ResponseWriter
	r       *http.Request
	caller  *Caller
	view    *state.View // as it was when the caller was judged; nil if op.NoState
	relayed *relayed    // if a worker passed it on
}

// relayed is where a request came in that was passed on: at which node, and from
// which address.
type relayed struct {
	node    placement.NodeID
	address string
}

// at is who asks, for the ledger: for people where they asked from as well.
func (c *call) at(actor string) string {
	switch {
	case c.caller.Kind != CallerToken:
		return actor
	case c.relayed != nil:
		return state.From(actor, c.relayed.node, c.relayed.address)
	}
	return state.From(actor, c.s.cfg.Self, addressOf(c.r.RemoteAddr))
}

// addressOf is the IP address of a remote address, or one by itself.
func addressOf(remote string) string {
	if at, err := netip.ParseAddrPort(remote); err == nil {
		return at.Addr().WithZone("").Unmap().String()
	}
	if at, err := netip.ParseAddr(remote); err == nil {
		return at.WithZone("").Unmap().String()
	}
	return "unknown"
}

type listener int

const (
	onApp listener = iota
	onMesh
)

// requestID names a request in the log and in its answer. It tells nobody which
// node answered, nor how many requests that node had: answers cross borders.
func requestID() string { return strings.ToLower(rand.Text()[:16]) }

// routes builds the mux of one listener.
func (s *Server) routes(on listener) http.Handler {
	mux := http.NewServeMux()
	for i := range s.ops {
		op := &s.ops[i]
		isMesh := len(op.Path) > len(MeshPrefix) && op.Path[:len(MeshPrefix)] == MeshPrefix
		if isMesh && on == onApp {
			continue
		}
		mux.Handle(op.Method+" "+op.Path, s.handler(op, on))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p := newProblem(http.StatusNotFound, CodeUsage, fmt.Sprintf("there is nothing at %s %s", r.Method, quoteWord(r.URL.Path)), "see the operations at "+Prefix+"/openapi.json")
		if allowed := allowedMethods(mux, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", ")) // RFC 9110, 15.5.6
			p.Status, p.Title = http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed)
		}
		refuseUnread(w, r, p)
	})
	return mux
}

// allowedMethods are those that a mux has a route for, at the path of a request.
func allowedMethods(mux *http.ServeMux, r *http.Request) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if _, pattern := mux.Handler(&http.Request{Method: m, URL: r.URL, Host: r.Host}); pattern != "/" && pattern != "" {
			out = append(out, m)
		}
	}
	return out
}

// handler is the way of every request: who asks, may they, then the operation.
func (s *Server) handler(op *operation, on listener) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := requestID()
		w.Header().Set(HeaderRequestID, id)
		c := &call{s: s, op: op, w: w, r: r}
		err := c.run(on)
		if err == nil {
			return
		}
		p := c.problem(err)
		left := r.Context().Err() != nil && errors.Is(err, context.Canceled) // the caller, before its answer was there
		if p.Code == CodeInternal && !left || p.Code == CodeDamaged {
			s.cfg.Log.Error("request failed", "request", id, "op", op.ID, "err", err)
		}
		if r.Context().Err() != nil {
			return // the caller has gone: nobody reads the answer
		}
		if op.Unread || op.Duplex || p.Status == http.StatusRequestEntityTooLarge {
			refuseUnread(w, r, p)
			return
		}
		writeProblem(w, p)
	})
}

func (c *call) run(on listener) error {
	s := c.s
	if s.cfg.Ledger == nil && c.op.Relay && on == onApp {
		return s.relay(c)
	}
	if !c.op.NoState {
		var err error
		if c.view, err = s.view(); err != nil {
			return err
		}
	} else if s.cfg.Ledger != nil {
		c.view = s.cfg.Ledger.View()
		if c.view != nil && c.view.Self() == nil {
			c.view = nil
		}
	}
	var err error
	if c.caller, err = c.identify(on); err != nil {
		return err
	}
	if err := authorize(c.op, c.caller); err != nil {
		return err
	}
	return c.op.Handler(s, c)
}

// identify is the caller. A worker of the own region may pass a request on
// over HTTP/3: then the token in it counts, and only for operations of the app
// listener. A certificate of another region is judged as one, whatever header
// comes with it.
func (c *call) identify(on listener) (*Caller, error) {
	if on == onApp {
		if c.view == nil {
			return &Caller{Kind: CallerAnonymous}, nil
		}
		return c.s.appCaller(c.r, c.view)
	}
	who, err := c.s.meshCaller(c.r, c.view)
	if err != nil {
		return nil, err
	}
	if from := c.r.Header.Get(HeaderRelayed); who.Kind == CallerNode && from != "" && c.op.Relay && c.view != nil {
		c.relayed = &relayed{who.Node, addressOf(from)}
		return c.s.appCaller(c.r, c.view)
	}
	return who, nil
}

// readJSON decodes the body strictly: one document, no unknown field, bounded.
func (c *call) readJSON(into any, most int64) error {
	data, err := c.readBody(most)
	if err != nil {
		return err
	}
	if err := strictJSON(data, into); err != nil {
		return &InputError{Code: CodeBody, Message: "the body cannot be read: " + shortError(err), Help: "send one JSON document with the fields of " + Prefix + "/openapi.json"}
	}
	return nil
}

// readOptional is readJSON for a body that may be left out.
func (c *call) readOptional(into any) error {
	data, err := c.readBody(MaxBodyBytes)
	if err != nil || len(data) == 0 {
		return err
	}
	if err := strictJSON(data, into); err != nil {
		return &InputError{Code: CodeBody, Message: "the body cannot be read: " + shortError(err), Help: "send one JSON document, or no body"}
	}
	return nil
}

// writeJSON answers with a document.
func (c *call) writeJSON(status int, v any) error {
	data, err := marshal(v)
	if err != nil {
		return fmt.Errorf("write the answer of %s: %w", c.op.ID, err)
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(data) // the caller is gone: nobody to tell
	return nil
}

// index tells the caller at which index the answer was read.
func (c *call) index(i uint64) { c.w.Header().Set(HeaderIndex, strconv.FormatUint(i, 10)) }

// listQuery reads the paging and waiting parameters.
func (c *call) listQuery() (ListOptions, error) {
	q := c.r.URL.Query()
	o := ListOptions{Limit: DefaultPage, Cursor: q.Get("cursor"), Status: placement.JobStatus(q.Get("status")), Tenant: placement.TenantID(q.Get("tenant")), Node: placement.NodeID(q.Get("node"))}
	bad := func(name, want string) error {
		return &InputError{Code: CodeUsage, Message: fmt.Sprintf("the parameter %s cannot be %s", name, quoteWord(q.Get(name))), Help: want}
	}
	var err error
	if v := q.Get("limit"); v != "" {
		if o.Limit, err = strconv.Atoi(v); err != nil || o.Limit < 1 || o.Limit > MaxPage {
			return o, bad("limit", "write a number from 1 to 1000")
		}
	}
	if v := q.Get("wait"); v != "" {
		if o.Wait, err = time.ParseDuration(v); err != nil || o.Wait < 0 || o.Wait > MaxWait {
			return o, bad("wait", "write a time such as 30s, at most 5m")
		}
	}
	if v := q.Get("index"); v != "" {
		if o.Index, err = strconv.ParseUint(v, 10, 64); err != nil {
			return o, bad("index", "write the number that "+HeaderIndex+" gave")
		}
	}
	if v := q.Get("stale"); v != "" {
		if o.Stale, err = strconv.ParseBool(v); err != nil {
			return o, bad("stale", "write true or false")
		}
	}
	if len(o.Cursor) > 256 || !utf8.ValidString(o.Cursor) {
		return o, bad("cursor", "send next of the page before")
	}
	return o, nil
}

// read is the view that a read is answered from: fresh, unless the caller said
// that it may be stale; with a wait, one that is beyond the caller's index.
func (c *call) read(o ListOptions) (*state.View, error) {
	if o.Wait > 0 {
		return c.await(o, func(v *state.View) bool { return v.Index() > o.Index })
	}
	if o.Stale {
		return c.s.view()
	}
	return c.s.fresh(c.r.Context())
}

// await waits until done says so, at most o.Wait; then the newest view counts.
func (c *call) await(o ListOptions, done func(*state.View) bool) (*state.View, error) {
	v, err := c.s.view()
	if err != nil {
		return nil, err
	}
	timer := newDeadline(c.r.Context(), o.Wait)
	defer timer.stop()
	for !done(v) {
		next, err := c.s.cfg.Ledger.Wait(timer.ctx, v.Index())
		if err != nil {
			if timer.passed() {
				return c.s.view()
			}
			return nil, err
		}
		v = next
	}
	return v, nil
}

var errEnough = errors.New("waited long enough")
