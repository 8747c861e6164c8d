// Package metrics shows what a node counts to Prometheus.
//
// Two rules hold. Everything is read when it is asked for: a request, a task or
// a packet pays nothing for being counted here. And a scrape shows numbers, never
// names that belong to somebody: no tenant, job, model or node is a label. Labels
// are this region, its federated regions, and states from fixed lists, so the
// number of series is bounded by the number of peers. The one exception is for
// those who may see every tenant's jobs: what each device does, by its UUID.
//
// node wires its parts in and serves [Metrics.Handler] at /metrics; the alert
// rules and the dashboard in deploy/ are written against the names.
package metrics

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/gossip"
)

// Replica is the node's copy of its region's state.
type Replica interface {
	View() *state.View
	Leader() (placement.NodeID, bool)
	Health() error
	Peers() []consensus.Member
	LedgerStatus() (here store.Status, whole, voters int)
}

// Endpoint is the node's socket to its peers.
type Endpoint interface{ Stats() transport.Stats }

// Pool is the region's gossip as this node sees it.
type Pool interface {
	Stats() gossip.Stats
	Members() []gossip.Member
}

// Gateway is what the OpenAI-compatible front counted, over all tenants and models.
type Gateway struct {
	Running                        int // requests on their way now
	Answered, Refused, Cut         int64
	Uncounted                      int64 // whole answers without a word of tokens
	PromptTokens, CompletionTokens int64
}

// Receipts is what the node did about receipts of inference requests since it
// started.
type Receipts struct {
	Kept, Dropped      uint64
	Recovered, Missing uint64 // after a crash
	Segments           uint64 // committed
	Waiting            int    // segments that are closed and not committed
}

// Runner is what the node's runner holds.
type Runner struct {
	Tasks    map[placement.TaskStatus]int
	Stopping int // told to end, and not over yet
	Unsaved  int // whose record the disk did not take
	Strays   int // found running, and known to nobody
	Faulty   bool
	// Moves are those of running tasks since the node started; Still is how long the
	// last one that went away stood still.
	Moves []Moves
	Still time.Duration
}

// Moves counts moves of one mode (live, near-live) with one outcome (given, kept,
// taken, refused).
type Moves struct {
	Mode, Outcome string
	Count         uint64
}

// Link is the contact with one federated region.
type Link struct {
	Peer     placement.RegionID
	Up       bool
	RTT      time.Duration // of the last answer; zero if there was none
	Since    time.Time     // when Up last changed; zero if nothing was tried yet
	SamePack bool          // it decides by the law pack that this region decides by
}

// Node is what a node knows of itself.
type Node struct {
	Ready bool
	// Refused: the region refused its last report of what it has.
	Refused bool
	// MeshUntil and AppUntil are the ends of its two certificates.
	MeshUntil, AppUntil time.Time
}

// Config is where a scrape reads. Every function may be called at any time, by
// several goroutines, also before and after the node runs.
type Config struct {
	Region placement.RegionID
	Self   placement.NodeID
	// Version is the program's, Role the node's in its region.
	Version string
	Role    placement.NodeRole
	// Replica is nil on a worker: it shows nothing of the region's state.
	Replica  Replica
	Endpoint Endpoint
	Pool     Pool
	Gateway  func() Gateway
	// Receipts is nil where none are kept.
	Receipts func() Receipts
	Runner   func() Runner
	Links    func() []Link
	Node     func() Node
	// GPUs is nil where no devices are watched.
	GPUs func() GPUs
	Log  *slog.Logger
	// ScrapesMax is how many scrapes are answered at once; more get 503.
	ScrapesMax int
}

// DefaultConfig has the bounds.
func DefaultConfig() Config { return Config{Version: "dev", ScrapesMax: 4} }

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("metrics: "+what))
		}
	}
	need(placement.ValidName(string(c.Region)), fmt.Sprintf("Region %q is no region name", c.Region))
	need(placement.ValidName(string(c.Self)), fmt.Sprintf("Self %q is no node name", c.Self))
	need(c.Endpoint != nil && c.Pool != nil, "Endpoint and Pool must be given")
	need(c.Gateway != nil && c.Runner != nil && c.Links != nil && c.Node != nil, "Gateway, Runner, Links and Node must be given")
	need(c.Log != nil, "Log is missing")
	need(c.ScrapesMax > 0, "ScrapesMax must be positive: begin with DefaultConfig")
	return errors.Join(errs...)
}

// Metrics is a registry of its own: nothing that a library registers globally
// is shown.
type Metrics struct {
	cfg      Config
	registry *prometheus.Registry
	all      *prometheus.Registry // what only those see who see all: each device
	dcgm     *prometheus.Registry // the devices, as dcgm-exporter names them
}

// New registers what a node shows. It starts nothing.
func New(cfg Config) (*Metrics, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &Metrics{cfg: cfg, registry: prometheus.NewRegistry()}
	// Several nodes may be scraped for one region: the label lets a rule take
	// what all replicas say together.
	own := prometheus.WrapRegistererWith(prometheus.Labels{"region": string(cfg.Region)}, m.registry)
	all := []prometheus.Collector{
		table[Node]{cfg.Node, m.nodeRows()},
		table[transport.Stats]{cfg.Endpoint.Stats, transportRows()},
		table[pool]{m.readPool, gossipRows()},
		table[Gateway]{cfg.Gateway, gatewayRows()},
		table[Runner]{cfg.Runner, runnerRows()},
		table[[]Link]{cfg.Links, linkRows()},
	}
	if cfg.Receipts != nil {
		all = append(all, table[Receipts]{cfg.Receipts, receiptRows()})
	}
	if cfg.GPUs != nil {
		all = append(all, table[GPUs]{cfg.GPUs, gpuRows()})
	}
	if cfg.Replica != nil {
		all = append(all, table[replica]{m.readReplica, replicaRows()}, table[*state.View]{cfg.Replica.View, regionRows()}, table[*state.View]{cfg.Replica.View, lawRows()})
	}
	var errs []error
	for _, c := range all {
		errs = append(errs, own.Register(c))
	}
	errs = append(errs, m.registerGPUs())
	// These keep the names that every dashboard for Go programs knows.
	errs = append(errs, m.registry.Register(collectors.NewGoCollector()),
		m.registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
	return m, errors.Join(errs...)
}

// Gatherer reads everything once, as a scrape does.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Handler answers scrapes in the text format, or OpenMetrics if asked for. Who
// may ask is for the caller to decide.
func (m *Metrics) Handler() http.Handler { return m.serve(m.registry) }

// Full is Handler with what each device does, for those who may see the load of
// every tenant.
func (m *Metrics) Full() http.Handler { return m.serve(prometheus.Gatherers{m.registry, m.all}) }

// DCGM shows the devices as NVIDIA's dcgm-exporter names them, for the same.
func (m *Metrics) DCGM() http.Handler { return m.serve(m.dcgm) }

func (m *Metrics) serve(from prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(from, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(m.cfg.Log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // what can be read is worth more than nothing
		MaxRequestsInFlight: m.cfg.ScrapesMax,
		EnableOpenMetrics:   true,
	})
}
