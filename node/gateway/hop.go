package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// Mesh opens inference streams to other nodes; [Over] makes one of an endpoint.
type Mesh interface {
	// OpenInfer waits for the head of the answer. ctx governs the whole stream.
	OpenInfer(ctx context.Context, to transport.Peer, cargo transport.Cargo, head transport.Head, body []byte) (Hop, error)
	// Permit asks the egress guard about an answer that goes to another region.
	Permit(ctx context.Context, to placement.RegionID, cargo transport.Cargo) error
}

// Hop is an answer on its way: of a model server on this node, or of another
// node. Read ends with io.EOF only if the answer is whole; Close before that
// cancels the request where it is worked on.
type Hop interface {
	io.ReadCloser
	Head() transport.Answer
}

// Over makes a [Mesh] of an endpoint.
func Over(e *transport.Endpoint) Mesh { return overEndpoint{e} }

type overEndpoint struct{ *transport.Endpoint }

func (o overEndpoint) OpenInfer(ctx context.Context, to transport.Peer, cargo transport.Cargo, head transport.Head, body []byte) (Hop, error) {
	s, err := o.Endpoint.OpenInfer(ctx, to, cargo, head, body)
	if err != nil {
		return nil, err
	}
	return meshHop{s}, nil
}

type meshHop struct{ *transport.InferStream }

func (m meshHop) Head() transport.Answer { return m.Answer }

// Causes for which the gateway itself ends a request.
var (
	errLeft      = errors.New("the client has left")
	errStopping  = errors.New("this node stops")
	errNoContact = errors.New("contact with the region was lost")
)

// silence ends a request whose other side said nothing for so long.
type silence time.Duration

func (s silence) Error() string {
	return fmt.Sprintf("the model server said nothing for %v", time.Duration(s))
}

// watch ends a request's context when the other side is silent for too long. A
// whole answer has no limit in time, a pause has.
type watch struct {
	timer *time.Timer
	mu    sync.Mutex
	limit time.Duration // guarded by mu
}

func startWatch(cancel context.CancelCauseFunc, limit time.Duration) *watch {
	w := &watch{limit: limit}
	w.timer = time.AfterFunc(limit, func() {
		cancel(w.silence())
	})
	return w
}

func (w *watch) silence() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return silence(w.limit)
}

// heard begins a new pause of at most limit.
func (w *watch) heard(limit time.Duration) {
	w.mu.Lock()
	w.limit = limit
	w.mu.Unlock()
	w.timer.Reset(limit)
}

func (w *watch) stop() { w.timer.Stop() }

// target is one place that may answer a request: a replica in this region, or a
// front door of another one.
type target struct {
	region placement.RegionID
	node   placement.NodeID // of this region only
	task   placement.TaskID // of this region only
	// upstream is set when the replica is on this very node.
	upstream string
	doors    []transport.Peer
	policy   effective
	// evidence is the deployment's own class; empty for another region's.
	evidence placement.Evidence
	// key tells in-flight counts apart, rank orders localities, near first.
	key  string
	rank int
}

// contactCheck is how often a request that waits for another region looks at
// the state of the link: the answer "unknown" comes from there and never waits
// for a transport's timeout.
const contactCheck = 200 * time.Millisecond

// inContact cancels a request once its region is out of contact, until stop.
func (g *Gateway) inContact(region placement.RegionID, cancel context.CancelCauseFunc) (stop func()) {
	if region == g.cfg.Region {
		return func() {}
	}
	over := make(chan struct{})
	done := make(chan struct{})
	go func() { // ends with stop, which its caller defers
		defer close(done)
		tick := time.NewTicker(contactCheck)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				if !g.cfg.Peers.Link(region).Up {
					cancel(errNoContact)
					return
				}
			}
		}
	}()
	return func() { close(over); <-done }
}

// ask sends a request to a target and waits for the head of the answer.
func (g *Gateway) ask(ctx context.Context, t target, head transport.Head, body []byte) (Hop, error) {
	if t.upstream != "" {
		return g.local.ask(ctx, t.upstream, head, body)
	}
	err := error(&transport.UnreachableError{Err: errors.New("no front door of it is known")})
	cargo := transport.Cargo{Kind: transport.CargoInference, Policy: t.policy.policy}
	for _, door := range t.doors {
		var h Hop
		if h, err = g.cfg.Mesh.OpenInfer(ctx, door, cargo, head, body); err == nil {
			return h, nil
		}
		var unreachable *transport.UnreachableError
		if ctx.Err() != nil || !errors.As(err, &unreachable) {
			return nil, err
		}
	}
	return nil, err
}

// refusal turns the answer of a node that refused into an error; nil for an
// answer of a model server.
func refusal(a transport.Answer) *Error {
	if a.Code == "" {
		return nil
	}
	return &Error{
		Status: int(a.Status), Code: a.Code, Message: a.Message, RetryAfter: a.RetryAfter,
		NoRetry: a.Status < 500 && a.Status != 429 || residency.UnknownCode(a.Code),
	}
}

// failure says to the client what became of an attempt that gave no answer.
func (g *Gateway) failure(ctx context.Context, t target, model string, err error) *Error {
	var refused *Error
	var egress *transport.EgressError
	var refusal *residency.Refusal
	var unreachable *transport.UnreachableError
	var cut *transport.CutError
	var silent silence
	cause := context.Cause(ctx)
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(cause, &silent):
		return upstreamTimeout(silent)
	case errors.Is(cause, errNoContact):
		return regionUnknown(model, t.region)
	case errors.Is(cause, errStopping):
		return notReady()
	case errors.As(err, &refusal) && refusal.Unknown():
		return unknownLaw(refusal.Decision)
	case errors.As(err, &egress):
		return &Error{Status: 403, Code: "residency_not_permitted", NoRetry: true, Message: egress.Error(), Advice: egress.Hint()}
	case errors.As(err, &cut): // it was reached, and then broke off
		return upstreamCut(err)
	case errors.As(err, &unreachable) && t.region != g.cfg.Region:
		return regionUnknown(model, t.region)
	case errors.As(err, &unreachable), errors.Is(err, errNoServer):
		return noCapacity(model, "its replica cannot be reached")
	}
	return upstreamCut(err)
}

func notReady() *Error {
	return &Error{Status: 503, Code: "not_ready", Message: "this node is starting or stopping", RetryAfter: time.Second}
}
