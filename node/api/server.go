package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Ledger is the region's replicated state as the API uses it. A command that
// Apply refused is part of the result, not an error.
type Ledger interface {
	Propose(ctx context.Context, c state.Command, actor string) (state.Result, error)
	// ProposeRaw takes a command that another node of the region encoded.
	ProposeRaw(ctx context.Context, raw []byte) (state.Result, error)
	// View is what this node has applied; it may be behind the leader.
	View() *state.View
	// Wait returns a view whose index is beyond after.
	Wait(ctx context.Context, after uint64) (*state.View, error)
	// ReadIndex is an index that every acknowledged write is at or below.
	ReadIndex(ctx context.Context) (uint64, error)
	Leader() (placement.NodeID, bool)
}

// Tasks are the tasks of this node: its runner.
type Tasks interface {
	Logs(ctx context.Context, task placement.TaskID, from int64, follow bool) (io.ReadCloser, error)
	// Outputs are the files that a task left, and OpenOutput reads one by its digest.
	Outputs(ctx context.Context, task placement.TaskID) (*placement.OutputList, error)
	OpenOutput(ctx context.Context, task placement.TaskID, digest string) (io.ReadCloser, error)
}

// Authority is the region's certificate authority; voters have one.
type Authority interface {
	IssueNode(ctx context.Context, csr []byte, node placement.NodeID) (chain [][]byte, serial string, notAfter time.Time, err error)
	IssueServing(ctx context.Context, csr []byte, hosts []string) ([][]byte, error)
	Bundle() identity.Bundle
	ServingCA() string
	// Secrets is the CA's state, handed to voters only.
	Secrets() ([]byte, error)
	// LogSecrets are the secret keys of the region's log, handed to voters only;
	// nil where there are none.
	LogSecrets() []byte
	// Unseal opens a secret that was sealed to the region for one purpose.
	Unseal(purpose, sealed string) ([]byte, error)
	// Keyring is the gossip keys, primary first.
	Keyring() [][]byte
}

// Link is the contact with another region.
type Link struct {
	Up      bool
	Since   time.Time
	RTT     time.Duration
	Summary *placement.RegionSummary // the last one received; nil if none
}

// Links tell how other regions are reached: fed by node, from link state.
type Links interface {
	Region(placement.RegionID) Link
}

// Config is what a [Server] is built from.
type Config struct {
	Region placement.RegionID
	Mesh   string
	Self   placement.NodeID
	// Version of the program, shown in status.
	Version string

	// Ledger is nil on a worker: its App passes requests on to Voters.
	Ledger Ledger
	// LedgerFiles is this replica's ledger on disk; it may give nil until that
	// is open. Nil where none is kept.
	LedgerFiles func() LedgerFiles
	// OldLedger is the log that the region had after so many recoveries, fewer
	// than now, as far as this node has it. Nil where none is kept.
	OldLedger func(restarts int) (LedgerFiles, error)
	// LedgerState is how complete the ledger is, here and in the region; nil
	// where none is kept.
	LedgerState func() LedgerState
	// Witness is this region's part as a witness of the logs of others; nil where
	// no state is held.
	Witness Witness
	// Segments are the inference receipts that this node keeps; nil where it keeps
	// none. Receipts answers about one of them, and knows its callers itself.
	Segments Segments
	Receipts http.Handler
	// Signing is how far the own log is signed and witnessed; nil where no state
	// is held.
	Signing func() Signing
	// Voters are nodes that hold the region's state, best first; asked on
	// workers, for every request.
	Voters func() []transport.Peer
	// Peers is the QUIC endpoint.
	Peers Mesh
	// Tasks is this node's runner.
	Tasks Tasks
	// Inside reaches into the tasks of this node; nil where it runs none.
	Inside Inside
	// Moves takes the streams of tasks that are moved to this node; nil where it
	// runs none.
	Moves Moves
	// Note keeps what this node noted of a task of its own in the ledger.
	Note func(ctx context.Context, n placement.TaskNote) error
	// Devices is what this node knows of its devices; nil where it watches none.
	Devices Devices
	// Authority is nil where there is no CA: then certificates are not issued here.
	Authority func() Authority
	Links     Links
	// Votes reports whether raft's configuration has the node as a voter; the CA
	// is handed to nobody else, and to nobody if it is nil.
	Votes func(placement.NodeID) bool
	// Keyring is the gossip keys that this node holds.
	Keyring Keyrings
	// Credential signs statements; Verifier opens those of others.
	Credential *identity.Source
	Verifier   *identity.Verifier
	// Refused are the forged certificate chains that this node was shown, as PEM
	// by the hex of their SHA-256; nil: none are kept.
	Refused func() map[string][]byte
	// Ready reports whether the node takes requests; nil: always.
	Ready func() error
	// Dial opens TCP connections to front doors of other regions while
	// federating; nil means the operating system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is the node's clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger

	// WriteTimeout bounds a proposal; ForeignTimeout an answer of another
	// region: beyond it the answer is unknown.
	WriteTimeout, ForeignTimeout time.Duration
	// WitnessWait is how long evidence waits for the witnesses of what it ends with.
	WitnessWait time.Duration
	// StreamsMax is how many event streams and log followers run at once.
	StreamsMax int
}

// DefaultConfig has the bounds.
func DefaultConfig() Config {
	return Config{Version: "dev", WriteTimeout: 10 * time.Second, ForeignTimeout: 800 * time.Millisecond, WitnessWait: 3 * time.Second, StreamsMax: 256}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("api: "+what))
		}
	}
	need(placement.ValidName(string(c.Region)), fmt.Sprintf("Region %q is no region name", c.Region))
	need(placement.ValidName(string(c.Self)), fmt.Sprintf("Self %q is no node name", c.Self))
	need(identity.ValidMesh(c.Mesh), fmt.Sprintf("Mesh %q is no mesh name", c.Mesh))
	need(c.Ledger != nil || c.Voters != nil, "Ledger is missing, and without Voters nobody else can answer")
	need(c.Peers != nil, "Peers is missing: hand in the QUIC endpoint")
	need(c.Log != nil, "Log is missing")
	need(c.WriteTimeout > 0 && c.ForeignTimeout > 0 && c.StreamsMax > 0, "the bounds must be positive: begin with DefaultConfig")
	return errors.Join(errs...)
}

// Server answers both listeners of a node. It starts nothing; its handlers end
// with their requests.
type Server struct {
	cfg      Config
	ops      []operation
	mesh     *MeshClient
	tags     tags
	admits   admissions
	facts    factCache
	bearers  bearers
	app      http.Handler
	quic     http.Handler
	openapi  []byte
	streams  chan struct{} // one place for each stream
	tunnels  places        // of connections to services that go through here
	standing standing      // those that this node judged
	turn     atomic.Uint64 // counts them, for those that are as near as others
	lately   lately        // what the quorum said of its index, for connections to services
	seed     maphash.Seed  // parts what is passed on
	reads    auditReads
	ahead    ahead
	waitsMu  sync.Mutex
	waits    map[placement.RegionID]int // questions of peers that wait; guarded by waitsMu
}

// New builds the handlers.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, mesh: NewMeshClient(cfg.Peers), seed: maphash.MakeSeed(), streams: make(chan struct{}, cfg.StreamsMax), waits: map[placement.RegionID]int{}}
	s.ops = operations()
	var err error
	if s.openapi, err = document(s.ops); err != nil {
		return nil, err
	}
	s.app = s.routes(onApp)
	s.quic = s.routes(onMesh)
	return s, nil
}

// App serves the control plane to operators and applications, on the TCP
// listener: bearer tokens, grants, join tokens and invitations. Serve it with
// [NewAppServer]: HTTP/1.1 alone lets a refusal leave a body unread.
func (s *Server) App() http.Handler { return s.app }

// Mesh serves nodes and regions, over HTTP/3 with mutual TLS: the caller is
// whoever the certificate names.
func (s *Server) Mesh() http.Handler { return s.quic }

// NewAppServer is the HTTP server of an app listener. It speaks HTTP/1.1 only,
// because on a shared HTTP/2 connection a body that is pushed at us would be
// read into memory before it was judged. The caller listens with TLS
// configured by [AppTLS].
func NewAppServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: h, Protocols: protocols,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// now is the node's clock, in UTC.
func (s *Server) now() time.Time { return s.cfg.Now().UTC() }

// view is the state as this node has it.
func (s *Server) view() (*state.View, error) {
	if s.cfg.Ledger == nil {
		return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node holds no state of its region", "ask a voter: sovmesh node list").retry(time.Second)
	}
	v := s.cfg.Ledger.View()
	if v == nil || v.Self() == nil {
		return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node has nothing of its region yet", "wait a moment: after a start it reads its log and catches up; only where there is no region at all: sovmesh region init NAME").retry(time.Second)
	}
	return v, nil
}

// fresh is a view that holds every write acknowledged before the call.
func (s *Server) fresh(ctx context.Context) (*state.View, error) {
	if _, err := s.view(); err != nil {
		return nil, err
	}
	index, err := s.cfg.Ledger.ReadIndex(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the region's index: %w", err)
	}
	return s.atLeast(ctx, index)
}

// lately is the index that the quorum gave last, for what begins often.
type lately struct {
	mu    sync.Mutex
	index uint64    // guarded by mu
	asked time.Time // guarded by mu; when the question was sent
}

// latelyAge is how old the quorum's word may be that lets a connection begin.
const latelyAge = time.Second

// recent is a view that holds every write acknowledged latelyAge ago. A node that is
// cut off from its quorum has none.
func (s *Server) recent(ctx context.Context) (*state.View, error) {
	now := time.Now()
	s.lately.mu.Lock()
	index, age := s.lately.index, now.Sub(s.lately.asked)
	s.lately.mu.Unlock()
	if index > 0 && age >= 0 && age < latelyAge {
		return s.atLeast(ctx, index)
	}
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	s.lately.mu.Lock()
	defer s.lately.mu.Unlock()
	if now.After(s.lately.asked) {
		s.lately.index, s.lately.asked = v.Index(), now
	}
	return v, nil
}

// atLeast waits until this node has applied an index.
func (s *Server) atLeast(ctx context.Context, index uint64) (*state.View, error) {
	v := s.cfg.Ledger.View()
	for v == nil || v.Index() < index {
		var err error
		if v, err = s.cfg.Ledger.Wait(ctx, index-1); err != nil {
			return nil, fmt.Errorf("wait for index %d: %w", index, err)
		}
	}
	return v, nil
}

// propose commits a command and returns a view that contains it.
func (s *Server) propose(ctx context.Context, c state.Command, actor string) (state.Result, *state.View, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.WriteTimeout)
	defer cancel()
	res, err := s.cfg.Ledger.Propose(ctx, c, actor)
	if err != nil {
		return res, nil, fmt.Errorf("propose %s: %w", c.Kind(), err)
	}
	if err := res.Err(); err != nil {
		return res, nil, err
	}
	v, err := s.atLeast(ctx, res.Index)
	return res, v, err
}

// propose is [Server.propose] for a caller, who is told which leaf its write left:
// that of a refusal too.
func (c *call) propose(cmd state.Command, actor string) (state.Result, *state.View, error) {
	res, v, err := c.s.propose(c.r.Context(), cmd, c.at(actor))
	if now := c.s.cfg.Ledger.View(); res.Index > 0 && now != nil && now.Self() != nil {
		c.w.Header().Add(HeaderReceipt, now.ReceiptID(res.Leaf))
	}
	return res, v, err
}

// peerOf is where a node of the own region is reached.
func (s *Server) peerOf(n *placement.Node) transport.Peer {
	return transport.Peer{ID: identity.ID{Region: s.cfg.Region, Mesh: s.cfg.Mesh, Node: n.ID}, Addr: n.QUIC}
}

// doorOf is a front door of another region; ok is false if none is known.
func (s *Server) doorOf(r *placement.Region) (transport.Peer, bool) {
	for _, d := range r.FrontDoors {
		if d.QUIC != "" {
			return transport.Peer{ID: identity.ID{Region: r.ID, Mesh: s.cfg.Mesh}, Addr: d.QUIC}, true
		}
	}
	return transport.Peer{}, false
}

func (s *Server) link(r placement.RegionID) (string, Link) {
	if r == s.cfg.Region {
		return LinkSelf, Link{}
	}
	if s.cfg.Links == nil {
		return LinkUnknown, Link{}
	}
	l := s.cfg.Links.Region(r)
	return pick(l.Up, LinkUp, LinkUnknown), l
}

func (s *Server) authority() (Authority, error) {
	if s.cfg.Authority != nil {
		if a := s.cfg.Authority(); a != nil {
			return a, nil
		}
	}
	return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node does not hold the region's CA: voters do", "ask a voter: sovmesh node list").retry(time.Second)
}

// AppTLS is the TLS of an app listener: as the identity package made it, for
// HTTP/1.1 alone.
func AppTLS(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	conf.NextProtos = []string{"http/1.1"}
	return conf
}
