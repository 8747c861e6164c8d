package transport

import "sync/atomic"

// counters are what an endpoint counts; [Endpoint.Stats] reads them.
type counters struct {
	accepted, dials, dialFailures, retries    atomic.Uint64
	packets, packetsDropped, garbage          atomic.Uint64
	unclaimed, egressPermitted, egressRefused atomic.Uint64
	inferServed, inferCut                     atomic.Uint64
}

// Stats are counts since the endpoint was built.
type Stats struct {
	Accepted        uint64 // connections that peers opened
	Dials           uint64 // connections that this node tried to open
	DialFailures    uint64
	Retries         uint64 // stale connections replaced before anything was sent
	Packets         uint64 // gossip packets handed on
	PacketsDropped  uint64 // gossip packets lost because their reader was slow
	Garbage         uint64 // datagrams, hellos and heads not in their format
	Unclaimed       uint64 // streams that no part of this node took
	EgressPermitted uint64 // crossings that the guard permitted
	EgressRefused   uint64
	InferServed     uint64 // inference streams handed to the handler
	InferCut        uint64 // of those, ended by a cut
	Connections     int    // open now, both ways
}

// Stats reads the counters; each is exact, the whole is not one instant.
func (e *Endpoint) Stats() Stats {
	e.mu.Lock()
	open := len(e.conns)
	e.mu.Unlock()
	c := &e.counts
	return Stats{
		Accepted: c.accepted.Load(), Dials: c.dials.Load(), DialFailures: c.dialFailures.Load(),
		Retries: c.retries.Load(), Packets: c.packets.Load(), PacketsDropped: c.packetsDropped.Load(),
		Garbage: c.garbage.Load(), Unclaimed: c.unclaimed.Load(),
		EgressPermitted: c.egressPermitted.Load(), EgressRefused: c.egressRefused.Load(),
		InferServed: c.inferServed.Load(), InferCut: c.inferCut.Load(), Connections: open,
	}
}
