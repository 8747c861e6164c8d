package gossip

import "sync/atomic"

// counters are what a pool counts; [Pool.Stats] reads them.
type counters struct {
	records, recordsRefused, claimsRefused atomic.Uint64
	garbage, dropped, errors               atomic.Uint64
	joins, joinFailures, pulls             atomic.Uint64
}

// Stats are counts since the pool was built.
type Stats struct {
	Records        uint64 // records of others taken in
	RecordsRefused uint64 // records that did not verify
	ClaimsRefused  uint64 // of those, by what they claim against their certificate
	Garbage        uint64 // messages, metas and states not in their format
	Dropped        uint64 // messages lost because the pool was too slow
	Errors         uint64 // errors that memberlist logged
	Joins          uint64 // attempts to join whoever was missing
	JoinFailures   uint64
	Pulls          uint64 // records asked for because they did not come
	Queued         int    // messages waiting to be gossiped
}

// Stats reads the counters; each is exact, the whole is not one instant.
func (p *Pool) Stats() Stats {
	c := &p.counts
	return Stats{
		Records: c.records.Load(), RecordsRefused: c.recordsRefused.Load(), ClaimsRefused: c.claimsRefused.Load(),
		Garbage: c.garbage.Load(), Dropped: c.dropped.Load(), Errors: c.errors.Load(),
		Joins: c.joins.Load(), JoinFailures: c.joinFailures.Load(), Pulls: c.pulls.Load(),
		Queued: p.queue.NumQueued() + p.notices.NumQueued(),
	}
}
