// Package gateway is the OpenAI-compatible front of a node: it chooses a replica
// that the request's residency permits, passes the answer on as it comes, and
// counts what was used.
//
// The rule that must hold: no byte of a prompt leaves the set of regions that
// the key's, the tenant's, the header's and the deployment's tags permit
// together, also on retry and failover. Headers are judged before the body is
// read, and the node that executes judges again. An answer that was cut is
// passed on as cut: [DONE] is never invented.
//
// node mounts [Gateway.Handler] under /v1/ and gives [Gateway.ServeInfer] to the
// endpoint. The package decides nothing about who a caller is: that is the API's.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// Views gives the region's state as this node last saw it.
type Views interface{ View() *state.View }

// Caller is who sent a request, as the API's bearer check found it.
type Caller struct {
	ID     string // opaque, of the token; for logs
	Tenant placement.TenantID
	// Tag is the key's own residency in wire form, empty when it has none. A
	// header narrows it and never widens it.
	Tag string
	// AllowAny: the key has the permission residency.any.
	AllowAny bool
}

// Peers is what this node knows of other regions beyond the ledger.
type Peers interface {
	// Models are the names in the region's last summary.
	Models(placement.RegionID) []string
	// Doors are nodes there that take requests, the best first.
	Doors(placement.RegionID) []transport.Peer
	// Link is how the region was last reached.
	Link(placement.RegionID) Link
}

// Link is the state of contact with another region. A region that is not up is
// unknown, never gone.
type Link struct {
	Up  bool
	RTT time.Duration
}

// Config is what a [Gateway] is built from.
type Config struct {
	Region placement.RegionID
	Node   placement.NodeID

	Views Views
	Mesh  Mesh
	Peers Peers
	// Auth finds out who calls, from the headers alone.
	Auth func(*http.Request) (Caller, *Error)
	// Models dials a model server on this node; addr is host:port on loopback.
	Models func(ctx context.Context, addr string) (net.Conn, error)
	// Shared says which deployments all tenants may call, of this region and of
	// its peers. Without it those of the tenant "default" are.
	Shared func(*placement.Job) bool
	// Receipts keeps a receipt of each answer; nil keeps none.
	Receipts Receipts

	Now func() time.Time
	Log *slog.Logger

	// BodyMax bounds a request's body, in bytes.
	BodyMax int64
	// HeaderTimeout is how long a model server may take until the first byte of
	// its answer. A client's x-stainless-timeout shortens it.
	HeaderTimeout time.Duration
	// IdleTimeout is the longest pause within an answer. There is no limit to
	// the whole.
	IdleTimeout time.Duration
	// Attempts is how many replicas are tried for one request.
	Attempts int
}

// DefaultConfig has the limits that SDKs expect.
func DefaultConfig() Config {
	return Config{
		Shared:        func(j *placement.Job) bool { return j.Tenant == "default" },
		Now:           time.Now,
		BodyMax:       transport.InferBodyMax,
		HeaderTimeout: 600 * time.Second,
		IdleTimeout:   60 * time.Second,
		Attempts:      3,
	}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("gateway: "+what))
		}
	}
	need(placement.ValidName(string(c.Region)), fmt.Sprintf("Region %q is no region name", c.Region))
	need(placement.ValidName(string(c.Node)), fmt.Sprintf("Node %q is no node name", c.Node))
	need(c.Views != nil, "Views is missing")
	need(c.Mesh != nil, "Mesh is missing")
	need(c.Peers != nil, "Peers is missing")
	need(c.Auth != nil, "Auth is missing: without it nobody is known")
	need(c.Models != nil, "Models is missing: hand in a dialer of model servers")
	need(c.Shared != nil, "Shared is missing")
	need(c.Now != nil && c.Log != nil, "Now or Log is missing")
	need(c.BodyMax > 0 && c.BodyMax <= transport.InferBodyMax, fmt.Sprintf("BodyMax must lie between 1 and %d", transport.InferBodyMax))
	need(c.HeaderTimeout > 0 && c.IdleTimeout > 0, "HeaderTimeout and IdleTimeout must be positive")
	need(c.Attempts > 0, "Attempts must be positive")
	return errors.Join(errs...)
}

// Gateway serves the OpenAI-compatible surface of one node.
type Gateway struct {
	cfg     Config
	local   *local
	catalog catalogs
	flights flights
	usage   counters

	mu      sync.Mutex
	stopped bool           // guarded by mu
	running sync.WaitGroup // Add under mu
	stop    chan struct{}  // closed with stopped
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Gateway{cfg: cfg, local: newLocal(cfg.Models), stop: make(chan struct{})}, nil
}

// Run waits for ctx to end, then ends every request in progress as a cut one,
// waits for them, and closes the connections to model servers.
func (g *Gateway) Run(ctx context.Context) error {
	<-ctx.Done()
	g.mu.Lock()
	if !g.stopped {
		g.stopped = true
		close(g.stop)
	}
	g.mu.Unlock()
	g.running.Wait()
	g.local.client.CloseIdleConnections()
	return nil
}

// begin enters a request; leave must be called when it is over. It reports
// false once the gateway has stopped.
func (g *Gateway) begin(ctx context.Context) (context.Context, context.CancelCauseFunc, func(), bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil, nil, nil, false
	}
	g.running.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	g.running.Go(func() {
		select {
		case <-g.stop:
			cancel(errStopping)
		case <-over:
		}
	})
	leave := func() {
		close(over)
		cancel(nil)
		g.running.Done()
	}
	return ctx, cancel, leave, true
}

// Handler is everything under /v1/.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", g.infer)
	mux.HandleFunc("POST /v1/completions", g.infer)
	mux.HandleFunc("POST /v1/embeddings", g.infer)
	mux.HandleFunc("GET /v1/models", g.listModels)
	mux.HandleFunc("GET /v1/models/{id...}", g.showModel)
	mux.HandleFunc("GET /v1/receipts/{id}", g.showReceipt)
	mux.HandleFunc("GET /api/v1/receipts/{id}", g.showReceipt)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		g.head(w)
		refuseUnread(w, r, notFound(clean(r.Method+" "+r.URL.Path, 200)))
	})
	return mux
}
