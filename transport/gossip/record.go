package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// RecordContext is the context under which records are signed.
const RecordContext = "sovmesh/inventory/1"

// recordsMax bounds the records held; a region has fewer nodes.
const recordsMax = 16384

// recordKept is how long the record of a node that is gone is kept.
const recordKept = 24 * time.Hour

// Record is what a node says about itself, signed by it.
type Record struct {
	Node     placement.NodeID
	Version  uint64 // inventory.version of the payload
	SignedAt time.Time
	Payload  []byte // JSON of a placement.Node

	packed []byte
	hash   [8]byte // of the statement
}

// Statement is the signed form, to be passed on to whoever wants proof.
func (r Record) Statement() string {
	text, _ := unpack(r.packed)
	return text
}

// newer reports whether r should take the place of old. The time of the signature
// decides, which nobody but the signer can set and which lies no minute ahead:
// were it the version, a record that once gave a version from the far future
// would stand in the way of all that follow.
func (r Record) newer(old Record) bool {
	if !r.SignedAt.Equal(old.SignedAt) {
		return r.SignedAt.After(old.SignedAt)
	}
	return r.Version > old.Version
}

// claims are the fields of a payload that the pool looks at. Those without a
// type are for the region's ledger to say: a node that says them is refused.
type claims struct {
	Name      placement.NodeID   `json:"name"`
	Region    placement.RegionID `json:"region"`
	Inventory struct {
		Version uint64 `json:"version"`
	} `json:"inventory"`

	Country     json.RawMessage `json:"country"`
	Subdivision json.RawMessage `json:"subdivision"`
	Operator    json.RawMessage `json:"operator"`
	Claims      json.RawMessage `json:"claims"`
	Assurance   json.RawMessage `json:"assurance"`
	Facts       json.RawMessage `json:"facts"`
}

// ErrClaim is wrapped when a record says what its signer's certificate does not.
var ErrClaim = errors.New("the record claims what its certificate does not")

// readClaims checks a payload against who signed it.
func readClaims(payload []byte, signer identity.ID) (claims, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return claims{}, fmt.Errorf("read an inventory record: %w", err)
	}
	if c.Name != signer.Node {
		return claims{}, fmt.Errorf("%w: it names node %.80q, and %s signed it", ErrClaim, c.Name, signer)
	}
	if c.Region != signer.Region {
		return claims{}, fmt.Errorf("%w: it names region %.80q, and %s signed it", ErrClaim, c.Region, signer)
	}
	for _, said := range []json.RawMessage{c.Country, c.Subdivision, c.Operator, c.Claims, c.Assurance, c.Facts} {
		if said != nil {
			return claims{}, fmt.Errorf("%w: %s declares facts of its region, which only the region's ledger does", ErrClaim, signer)
		}
	}
	return c, nil
}

// open verifies a statement and gives the record in it.
func (p *Pool) open(statement string, packed []byte) (Record, error) {
	payload, signer, at, err := identity.Open(statement, RecordContext, p.cfg.Verifier, p.cfg.Now())
	if err != nil {
		return Record{}, err
	}
	if signer.Region != p.cfg.Region {
		return Record{}, fmt.Errorf("%w: %s is not of this region", ErrClaim, signer)
	}
	c, err := readClaims(payload, signer)
	if err != nil {
		return Record{}, err
	}
	return Record{Node: signer.Node, Version: c.Inventory.Version, SignedAt: at, Payload: payload,
		packed: packed, hash: hashOf([]byte(statement))}, nil
}

// Publish signs the node's own record and sends it to the pool, now or once Run
// has begun. The payload is the JSON of a placement.Node that names this node
// and region; a change must raise its inventory.version.
func (p *Pool) Publish(payload []byte) error {
	cred := p.cfg.Credential.Current()
	if cred == nil {
		return errors.New("publish an inventory record: this node has no certificate yet")
	}
	if cred.ID.Node != p.cfg.Self || cred.ID.Region != p.cfg.Region {
		return fmt.Errorf("publish an inventory record: the certificate is of %s", cred.ID)
	}
	c, err := readClaims(payload, cred.ID)
	if err != nil {
		return err
	}
	now := p.cfg.Now()
	statement, err := identity.Sign(cred, RecordContext, payload, now)
	if err != nil {
		return err
	}
	packed, err := pack(statement)
	if err != nil {
		return err
	}
	meta := MetaOf(c.Inventory.Version, statement)
	p.mu.Lock()
	p.signer, p.meta = cred, meta
	p.records[p.cfg.Self] = Record{Node: p.cfg.Self, Version: c.Inventory.Version, SignedAt: now,
		Payload: slices.Clone(payload), packed: packed, hash: meta.Hash}
	list := p.list
	p.mu.Unlock()
	if list == nil {
		return nil // who joins hears of it, and asks for it
	}
	for i, b := range split(kindPiece, p.cfg.Self, meta.Hash, packed) {
		p.broadcast(pieceName(meta.Hash, i), b)
	}
	p.announce()
	return nil
}

// announce has the own meta told; several changes at once are told as one.
func (p *Pool) announce() {
	select {
	case p.told <- struct{}{}:
	default:
	}
}

// smallPool is the size up to which a change is announced twice. memberlist sends
// an alive message four times for every digit of the pool's size: among ten that
// misses somebody once in a hundred times, who then waits for the next push/pull.
const smallPool = 32

// announceUntil tells the pool the own meta whenever it has changed. memberlist
// waits until it has sent it, for a second at most.
func (p *Pool) announceUntil(ctx context.Context, list *memberlist.Memberlist) {
	again := time.NewTimer(0)
	defer again.Stop()
	for repeat := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-p.told:
			repeat = false
		case <-again.C:
			if repeat {
				continue
			}
			repeat = true
		}
		if err := list.UpdateNode(p.cfg.GossipInterval * 5); err != nil {
			p.cfg.Log.Debug("gossip meta", "err", err)
		}
		if !repeat && p.size() <= smallPool {
			again.Reset(passEvery)
		}
	}
}

// resign renews the signature when the certificate was renewed: nodes that come
// later could not verify the old one.
func (p *Pool) resign() {
	p.mu.Lock()
	own, ok := p.records[p.cfg.Self]
	stale := ok && p.signer != p.cfg.Credential.Current()
	p.mu.Unlock()
	if !stale {
		return
	}
	if err := p.Publish(own.Payload); err != nil {
		p.cfg.Log.Warn("sign the inventory record anew", "err", err)
	}
}

// accept verifies a packed statement, which a member speaks of by its hash, and
// keeps it if it is news. What has another hash is not that member's fault.
func (p *Pool) accept(node placement.NodeID, hash [8]byte, packed []byte) {
	statement, err := unpack(packed)
	if err != nil || hashOf([]byte(statement)) != hash {
		p.counts.garbage.Add(1)
		return
	}
	r, err := p.open(statement, packed)
	if err == nil && r.Node != node {
		err = fmt.Errorf("%w: %s speaks of it and %s signed it", ErrClaim, node, r.Node)
	}
	if err != nil {
		p.refused(node, err)
		return
	}
	p.mu.Lock()
	old, have := p.records[node]
	news := node != p.cfg.Self && (!have || r.newer(old)) && (have || len(p.records) < recordsMax)
	if news {
		p.keepLocked(r)
	}
	p.mu.Unlock()
	if news {
		p.counts.records.Add(1)
	}
}

// refused counts and tells of a record that is not believed. It is not asked for
// again soon, so that a liar fills no log.
func (p *Pool) refused(node placement.NodeID, err error) {
	p.counts.recordsRefused.Add(1)
	if errors.Is(err, ErrClaim) {
		p.counts.claimsRefused.Add(1)
	}
	p.mu.Lock()
	if l := p.late[node]; l != nil {
		l.pass, l.asked, l.next = false, false, time.Now().Add(pullRest)
	}
	p.mu.Unlock()
	p.cfg.Log.Warn("an inventory record was refused", "node", node, "err", err)
}

// keepLocked puts a record in the place of the one held; mu is held.
func (p *Pool) keepLocked(r Record) {
	p.records[r.Node] = r
	if l := p.late[r.Node]; l != nil && l.hash == r.hash {
		delete(p.late, r.Node)
	}
}

// dropLocked lets go of a node and its record; mu is held.
func (p *Pool) dropLocked(node placement.NodeID) {
	if m := p.members[node]; m != nil && m.present() {
		p.present--
	}
	delete(p.members, node)
	delete(p.records, node)
	delete(p.late, node)
}

// Records gives the records held, the own one included, by node.
func (p *Pool) Records() []Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Record, 0, len(p.records))
	for _, r := range p.records {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return out
}

// Record gives the record held of one node.
func (p *Pool) Record(node placement.NodeID) (Record, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.records[node]
	return r, ok
}

// Forget drops what is held of a node that was removed from the region.
func (p *Pool) Forget(node placement.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(node)
}
