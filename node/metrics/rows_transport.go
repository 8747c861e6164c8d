package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/gossip"
)

func transportRows() []row[transport.Stats] {
	type S = transport.Stats
	return []row[S]{
		gauge("transport_connections", "QUIC connections open now, both ways.", func(s S) int { return s.Connections }),
		counter("transport_connections_accepted_total", "Connections that peers opened.", func(s S) uint64 { return s.Accepted }),
		counter("transport_dials_total", "Connections that this node tried to open.", func(s S) uint64 { return s.Dials }),
		counter("transport_dial_failures_total", "Of those, the ones that failed.", func(s S) uint64 { return s.DialFailures }),
		counter("transport_retries_total", "Stale connections replaced before anything was sent.", func(s S) uint64 { return s.Retries }),
		counter("transport_gossip_packets_total", "Gossip packets handed on.", func(s S) uint64 { return s.Packets }),
		counter("transport_gossip_packets_dropped_total", "Gossip packets lost because their reader was slow.", func(s S) uint64 { return s.PacketsDropped }),
		counter("transport_garbage_total", "Datagrams, hellos and heads not in their format.", func(s S) uint64 { return s.Garbage }),
		counter("transport_streams_unclaimed_total", "Streams that no part of this node took.", func(s S) uint64 { return s.Unclaimed }),
		newRow("transport_egress_total", "Crossings of the region's border that the residency guard judged.", prometheus.CounterValue, []string{"verdict"}, func(s S, put func(float64, ...string)) {
			put(float64(s.EgressPermitted), "permitted")
			put(float64(s.EgressRefused), "refused")
		}),
		counter("transport_infer_streams_total", "Inference streams that peers opened here.", func(s S) uint64 { return s.InferServed }),
		counter("transport_infer_streams_cut_total", "Of those, the ones that ended by a cut.", func(s S) uint64 { return s.InferCut }),
	}
}

// pool is one reading of the gossip pool.
type pool struct {
	gossip.Stats
	members map[gossip.State]int
	behind  int
}

func (m *Metrics) readPool() pool {
	p := pool{Stats: m.cfg.Pool.Stats(), members: map[gossip.State]int{}}
	for _, member := range m.cfg.Pool.Members() {
		p.members[member.State]++
		p.behind += bit(member.Behind)
	}
	return p
}

func gossipRows() []row[pool] {
	return []row[pool]{
		newRow("gossip_members", "Other nodes of the region, as gossip sees them; a hint, not membership.", prometheus.GaugeValue, []string{"state"}, func(p pool, put func(float64, ...string)) {
			spread([]gossip.State{gossip.Alive, gossip.Suspect, gossip.Dead, gossip.Left}, p.members, put)
		}),
		gauge("gossip_members_behind", "Members of whom an older record is held than they speak of.", func(p pool) int { return p.behind }),
		gauge("gossip_queue_messages", "Messages that wait to be gossiped.", func(p pool) int { return p.Queued }),
		counter("gossip_records_total", "Records of other nodes taken in.", func(p pool) uint64 { return p.Records }),
		counter("gossip_records_refused_total", "Records that did not verify.", func(p pool) uint64 { return p.RecordsRefused }),
		counter("gossip_claims_refused_total", "Of those, records that claimed other than their certificate says.", func(p pool) uint64 { return p.ClaimsRefused }),
		counter("gossip_pulls_total", "Records asked for because they had not come by themselves.", func(p pool) uint64 { return p.Pulls }),
		counter("gossip_garbage_total", "Messages not in their format.", func(p pool) uint64 { return p.Garbage }),
		counter("gossip_dropped_total", "Messages lost because the pool was too slow.", func(p pool) uint64 { return p.Dropped }),
		counter("gossip_errors_total", "Errors that the membership library reported.", func(p pool) uint64 { return p.Errors }),
		counter("gossip_joins_total", "Attempts to join members that were missing.", func(p pool) uint64 { return p.Joins }),
		counter("gossip_join_failures_total", "Of those, the ones that failed.", func(p pool) uint64 { return p.JoinFailures }),
	}
}
