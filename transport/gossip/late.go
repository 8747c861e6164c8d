package gossip

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sovmesh/sovmesh/placement"
)

// How records travel: a node's alive message says by hash which record is its
// newest. The pieces of it are passed on a few times, which reaches nearly
// everybody within two seconds; whoever heard of a record and does not have it a
// second later asks for it. So a record costs each node a few packets when it
// changes and nothing when it does not, and nobody keeps or passes on what no
// member speaks of.

// Bounds and pauses of asking and answering.
const (
	// pullAfter is how long a record may take to come by itself.
	pullAfter = time.Second
	// pullEvery is the pause between two rounds of asking, pullsMax how many
	// records one round asks for.
	pullEvery = 100 * time.Millisecond
	pullsMax  = 20
	// pullRest bounds the pause before the same record is asked for again.
	pullRest = time.Minute
	// answerRate bounds what is sent to those who ask, in bytes a second, and at
	// once; an asker that forges another's name makes no more of it than that.
	answerRate = 128 << 10
	// crowdMax is how many records may be missing before none is passed on: when
	// a whole pool starts, everybody asks for each record once, and passing
	// everything on would take minutes.
	crowdMax = 32
	// passEvery is how soon after another a member's record is passed on: what
	// changes faster is asked for once it rests.
	passEvery = time.Second
)

// late is a record that a member speaks of and that is not held.
type late struct {
	hash  [8]byte
	pass  bool // whether its pieces are taken and passed on unasked
	asked bool
	tries int       // of asking; every other goes to the node itself
	first int       // 0 if the first of them does
	next  time.Time // when to ask
	parts [][]byte
	have  int
}

// speaksLocked takes in the meta that a member speaks of; mu is held.
func (p *Pool) speaksLocked(m *Member, meta Meta) {
	if meta == m.meta {
		return
	}
	now := time.Now()
	m.meta, m.InventoryVersion = meta, meta.Inventory
	if meta == (Meta{}) || p.records[m.Node].hash == meta.Hash {
		delete(p.late, m.Node)
		return
	}
	p.late[m.Node] = &late{hash: meta.Hash,
		pass:  now.Sub(m.heard) >= passEvery && len(p.late) < crowdMax,
		first: rand.IntN(2), next: now.Add(pullAfter + rand.N(pullAfter/2))}
	m.heard = now
}

// take puts a piece in its place. fresh says that it is to be passed on; whole is
// the packed statement when it was the last one missing.
func (p *Pool) take(f piece, asked bool) (fresh bool, whole []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.late[f.node]
	if l == nil || l.hash != f.hash || asked && !l.asked || !asked && !l.pass {
		return false, nil
	}
	if len(l.parts) != int(f.count) {
		l.parts, l.have = make([][]byte, f.count), 0
	}
	if l.parts[f.index] != nil {
		return false, nil
	}
	l.parts[f.index] = bytes.Clone(f.data)
	if l.have++; l.have == len(l.parts) {
		whole = bytes.Join(l.parts, nil)
		l.parts, l.have = nil, 0
	}
	return !asked, whole
}

// pullUntil asks for what is late until ctx ends.
func (p *Pool) pullUntil(ctx context.Context, list *memberlist.Memberlist) {
	for {
		rest := pullAfter
		for to, wants := range p.due() {
			p.counts.pulls.Add(uint64(len(wants)))
			_ = list.SendBestEffort(nodeAt(to), appendWants(nil, p.cfg.Self, wants)) // asked again if it is lost
			rest = pullEvery
		}
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// due lists what to ask for now, by whom to ask: the node that the record is of
// and, in turn, anybody, since one node could not answer all at once.
func (p *Pool) due() map[target][]want {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var out map[target][]want
	n := 0
	for node, l := range p.late {
		m := p.members[node]
		if now.Before(l.next) || m == nil || m.State != Alive {
			continue
		}
		to := m
		if (l.tries+l.first)%2 == 1 {
			to = p.anybodyLocked(m)
		}
		at := target{to.Node, to.Addr}
		if len(out[at]) >= wantsMax {
			continue
		}
		if out == nil {
			out = map[target][]want{}
		}
		out[at] = append(out[at], want{node, l.hash})
		l.asked, l.next = true, now.Add(min(pullAfter/2<<min(l.tries, 7), pullRest))
		l.tries++
		if n++; n == pullsMax {
			break
		}
	}
	return out
}

// anybodyLocked is some live member, or the given one; mu is held.
func (p *Pool) anybodyLocked(or *Member) *Member {
	tries := 0
	for _, m := range p.members { // in random order
		if tries++; m.State == Alive || tries == 8 {
			return m
		}
	}
	return or
}

type target struct {
	node placement.NodeID
	addr netip.AddrPort
}

func nodeAt(t target) *memberlist.Node {
	return &memberlist.Node{Name: string(t.node), Addr: t.addr.Addr().AsSlice(), Port: t.addr.Port()}
}

// answer sends what a live member asks for and is held, as far as the rate allows.
func (p *Pool) answer(asker placement.NodeID, wants []want) {
	p.mu.Lock()
	list, m := p.list, p.members[asker]
	var out [][]byte
	var to target
	if list != nil && m != nil && m.State == Alive {
		to = target{m.Node, m.Addr}
		now := time.Now()
		p.budget = min(answerRate, p.budget+int(now.Sub(p.budgetAt).Seconds()*answerRate))
		p.budgetAt = now
		for _, w := range wants {
			if r, ok := p.records[w.node]; ok && r.hash == w.hash && p.budget >= len(r.packed) {
				p.budget -= len(r.packed)
				out = append(out, split(kindAnswer, w.node, r.hash, r.packed)...)
			}
		}
	}
	p.mu.Unlock()
	for _, b := range out {
		_ = list.SendBestEffort(nodeAt(to), b) // asked for again if it is lost
	}
}
