package state

import (
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// issueGrant records that a job may be submitted to another region.
func (s *State) issueGrant(c *call, k IssueGrant) *Refused {
	c.subject = clip(k.ID)
	switch {
	case !validID(k.ID):
		return refuse("grant.id", "let the program choose it", "%q is no id of a grant", clip(k.ID))
	case s.grants.has(k.ID):
		return refuse("grant.exists", "issue another", "grant %s exists already", k.ID)
	case s.Region(k.Audience) == nil || s.Region(k.Audience).State != placement.PeerActive:
		return refuse("peer.unknown", "federate with it first", "region %s is no active peer", clip(string(k.Audience)))
	case !k.Expires.After(s.Clock) || len(k.PolicyHash) > maxFact || !placement.ValidName(string(k.Tenant)):
		return refuse("grant.expires", "issue it for a time to come", "the grant would have expired already, or is not well formed")
	}
	if k.LawPack != s.Active {
		return refuse("law.stale", "ask again", "the grant was made under law pack %s, and the region decides by another now", clip(k.LawPack))
	}
	if _, refused := s.peerPack(s.Region(k.Audience)); refused != nil {
		return refused
	}
	s.putGrant(k.ID, &Grant{ID: k.ID, Issued: true, Tenant: k.Tenant, Audience: k.Audience, Policy: k.PolicyHash, LawPack: k.LawPack, Expires: k.Expires.UTC()})
	c.show(ledger.ShownRegion, string(k.Audience))
	c.id = k.ID
	return nil
}

// putGrant keeps the newest grants. They are dropped by number, never by time:
// a wrong clock cannot make a consumed grant forgotten.
func (s *State) putGrant(key string, g *Grant) {
	s.Fifo++
	g.Seq = s.Fifo
	s.grants.put(key, g)
	s.fifoGrants.put(seqKey(g.Seq), key)
	for s.fifoGrants.len() > maxKeys {
		seq, old, _ := s.fifoGrants.min()
		s.fifoGrants.delete(seq)
		s.grants.delete(old)
	}
}

// useGrant quotes the leaf by which another region admitted a job under a grant
// of this one, once. Whether it did is that region's word: both ledgers show it.
func (s *State) useGrant(c *call, k UseGrant) *Refused {
	c.subject = opaqueJob(k.Job)
	g, ok := s.grants.get(k.ID)
	switch {
	case !validID(k.ID) || !ok || !g.Issued:
		return refuse("grant.unknown", "quote the grants that this region issued", "no grant %q was issued here, or it is long forgotten", clip(k.ID))
	case g.Audience != k.Region:
		return refuse("grant.foreign", "only the region that a grant is for speaks of it", "grant %s is not for region %s", g.ID, clip(string(k.Region)))
	case g.Job != "":
		return refuse("grant.quoted", "a grant is used once", "grant %s let job %s in, and its leaf is quoted already", g.ID, g.Job)
	case !k.Job.Valid() || k.Job.Home() != k.Region:
		return refuse("job.home", "the region that takes a body chooses the id", "job %q is not of region %s", clip(string(k.Job)), k.Region)
	case k.PeerLeaf.Hash == ledger.Hash{}:
		return refuse("grant.leaf", "name the leaf by its hash", "no leaf of region %s is named", k.Region)
	}
	used := *g
	used.Job = k.Job
	s.grants.put(g.ID, &used)
	c.show(ledger.ShownRegion, string(k.Region))
	c.show(ledger.ShownGrant, g.ID)
	c.showPeerLeaf(k.Region, k.PeerLeaf)
	c.id = g.ID
	return nil
}

// Grant is a grant issued or consumed here; nil if unknown.
func (v *View) Grant(id string) *Grant {
	g, _ := v.grants.get(id)
	return g
}

// Grants are the grants issued or consumed here, the newest 100,000.
func (v *View) Grants() []*Grant { return v.grants.values() }

// GrantsUsed are the grants of another region that were consumed here after a
// raft index and that ended after a time, oldest first.
func (v *View) GrantsUsed(home placement.RegionID, after uint64, since time.Time) (used []*Grant) {
	v.newestGrants(func(key string, g *Grant) bool {
		if g.Issued || g.Index == 0 {
			return true
		}
		if g.Index <= after {
			return false
		}
		if g.Leaf > 0 && g.Expires.After(since) && key == grantKey(home, g.ID) {
			used = append(used, g)
		}
		return true
	})
	slices.Reverse(used)
	return used
}

// grantsApart is how far the ends of two grants may lie apart in the other order
// than they were recorded: all have the same short life, and clocks differ.
const grantsApart = 10 * time.Minute

// GrantOpen reports whether a grant for a region that ended after a time has no
// leaf quoted: it was not used, or it is not known yet.
func (v *View) GrantOpen(to placement.RegionID, since time.Time) (open bool) {
	v.newestGrants(func(_ string, g *Grant) bool {
		open = g.Issued && g.Audience == to && g.Job == "" && g.Expires.After(since)
		return !open && g.Expires.After(since.Add(-grantsApart))
	})
	return open
}

// newestGrants visits the grants, the newest first.
func (v *View) newestGrants(visit func(key string, g *Grant) bool) {
	v.fifoGrants.descend(func(_ string, key string) bool {
		g, ok := v.grants.get(key)
		return !ok || visit(key, g)
	})
}
