package node

import (
	"net"
	"net/http"

	"github.com/sovmesh/sovmesh/node/metrics"
	"github.com/sovmesh/sovmesh/placement"
)

func (n *Node) buildMetrics() (err error) {
	cfg := metrics.DefaultConfig()
	cfg.Region, cfg.Self, cfg.Version, cfg.Role = n.who.Region, n.who.Node, n.cfg.Program, n.who.Role
	if n.group != nil {
		cfg.Replica = n.group
	}
	cfg.Endpoint, cfg.Pool, cfg.Log = n.endpoint, n.gossip, n.logOf("metrics")
	cfg.Gateway, cfg.Runner, cfg.Links, cfg.Node = n.countGateway, n.countTasks, n.countLinks, n.countSelf
	cfg.Receipts, cfg.GPUs = n.countReceipts, n.countGPUs
	n.metrics, err = metrics.New(cfg)
	return err
}

// metricsHandler serves /metrics to every role that may read; with MetricsOpen
// also to scrapers on this machine without a token. What each device does is
// shown to roles that see the jobs of all tenants alone.
func (n *Node) metricsHandler() http.Handler {
	open := n.metrics.Handler()
	return guardMetrics(open, n.server.Readers(open, n.metrics.Full()), n.cfg.MetricsOpen)
}

// dcgmHandler serves /metrics/dcgm to those who may see every tenant's load.
func (n *Node) dcgmHandler() http.Handler {
	return guardMetrics(nil, n.server.Readers(nil, n.metrics.DCGM()), false)
}

func (n *Node) countGPUs() metrics.GPUs {
	s := n.devices.state()
	out := metrics.GPUs{Down: s.Down != "", DriverVersion: s.DriverVersion, Faults: s.Faults}
	for _, d := range s.Devices {
		g := metrics.GPU{Device: d, XIDs: map[uint64]uint64{}, LastXID: s.LastXID[d.UUID]}
		if sample, ok := s.Samples[d.UUID]; ok {
			g.Sample = &sample
		}
		for key, n := range s.XIDs {
			if key.uuid == d.UUID {
				g.XIDs[key.xid] = n
			}
		}
		out.Devices = append(out.Devices, g)
	}
	return out
}

func guardMetrics(open, guarded http.Handler, openToLoopback bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "metrics are read with GET", http.StatusMethodNotAllowed)
		case openToLoopback && fromLoopback(r):
			open.ServeHTTP(w, r)
		default:
			guarded.ServeHTTP(w, r)
		}
	})
}

// fromLoopback reports whether the connection comes from this machine. Headers
// that a proxy writes are not asked: whoever speaks to us can write them.
func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (n *Node) countSelf() metrics.Node {
	out := metrics.Node{Ready: n.isReady() == nil, Refused: n.devices.Refused() != ""}
	if c := n.credential.Current(); c != nil && c.Leaf != nil {
		out.MeshUntil = c.Leaf.NotAfter
	}
	if s := n.serving.Current(); s != nil && s.Leaf != nil {
		out.AppUntil = s.Leaf.NotAfter
	}
	return out
}

// countGateway adds up what the gateway keeps apart by tenant and model: those
// are the tenants' own.
func (n *Node) countGateway() metrics.Gateway {
	out := metrics.Gateway{Running: n.gateway.InFlight()}
	for _, c := range n.gateway.Snapshot() {
		out.Answered += c.Answered
		out.Refused += c.Refused
		out.Cut += c.Cut
		out.Uncounted += c.Uncounted
		out.PromptTokens += c.PromptTokens
		out.CompletionTokens += c.CompletionTokens
	}
	return out
}

func (n *Node) countReceipts() metrics.Receipts {
	s := n.receipts.Stats()
	return metrics.Receipts{Kept: s.Kept, Dropped: s.Dropped, Recovered: s.Recovered, Missing: s.Missing, Segments: s.Segments, Waiting: s.Waiting}
}

func (n *Node) countTasks() metrics.Runner {
	out := metrics.Runner{Tasks: map[placement.TaskStatus]int{}, Strays: len(n.runner.Strays()), Faulty: n.runner.Problem() != nil}
	moved, still := n.runner.MoveCounts()
	out.Still = still
	for _, m := range moved {
		out.Moves = append(out.Moves, metrics.Moves{Mode: string(m.Mode), Outcome: m.Outcome, Count: m.Count})
	}
	for _, t := range n.runner.Tasks() {
		out.Tasks[t.Status]++
		if t.Stopping {
			out.Stopping++
		}
		if t.Unsaved {
			out.Unsaved++
		}
	}
	return out
}

// countLinks are the federated regions; a worker, which has no ledger, is in
// contact with none.
func (n *Node) countLinks() []metrics.Link {
	view := n.ledger.View()
	own := ""
	if pack := view.Pack(); pack != nil {
		own = pack.Hash()
	}
	var out []metrics.Link
	for _, r := range view.Regions() {
		if r.Self || r.State != placement.PeerActive {
			continue
		}
		k, _ := n.links.get(r.ID)
		out = append(out, metrics.Link{Peer: r.ID, Up: k.up, RTT: k.rtt, Since: k.since, SamePack: n.links.pack(r.ID) == own})
	}
	return out
}
