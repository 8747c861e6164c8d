package state

import (
	"bytes"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

func (s *State) inviteRegion(c *call, k InviteRegion) *Refused {
	c.subject = string(k.Region)
	peer := s.Region(k.Region)
	switch {
	case !placement.ValidName(string(k.Region)):
		return refuse("region.name", "use lower-case letters, digits and hyphens", "%q is no name of a region", clip(string(k.Region)))
	case k.Region == s.self.ID:
		return refuse("peer.self", "name another region", "a region cannot federate with itself")
	case !validHash(k.Hash):
		return refuse("token.hash", "send the hex SHA-256 of the secret", "the invitation has no valid hash")
	case s.invites.has(k.Hash):
		return refuse("token.exists", "make another", "this invitation exists already")
	case !k.Expires.After(s.Clock):
		return refuse("token.expired", "give it a time to live", "the invitation would have expired already")
	case s.invites.len() >= 1000:
		return refuse("token.too-many", "wait until some expire", "1000 invitations are open")
	case peer != nil && peer.State == placement.PeerActive:
		return refuse("peer.exists", "leave it first: sovmesh region leave NAME", "region %s is a peer already", k.Region)
	}
	s.invites.put(k.Hash, &Invite{k.Region, k.Hash, k.Expires.UTC()})
	if peer == nil {
		s.regions.put(string(k.Region), &placement.Region{ID: k.Region, Mesh: s.self.Mesh, State: placement.PeerInvited})
	}
	c.id = string(k.Region)
	return nil
}

func (s *State) putPeer(c *call, k PutPeer) *Refused {
	r := k.Region
	c.subject = string(r.ID)
	if refused := checkRegion(&r); refused != nil {
		return refused
	}
	switch {
	case r.ID == s.self.ID:
		return refuse("peer.self", "name another region", "a region cannot federate with itself")
	case r.Fingerprint == "" || len(r.Bundle) == 0:
		return refuse("peer.bundle", "send the bundle and its fingerprint", "region %s has no bundle", r.ID)
	}
	if k.InviteHash != "" {
		invite := s.Invite(k.InviteHash)
		switch {
		case invite == nil:
			return refuse("invite.spent", "ask for a new invitation", "this invitation was used already, has expired, or never existed")
		case !s.Clock.Before(invite.Expires):
			return refuse("invite.expired", "ask for a new invitation", "this invitation expired at %s", invite.Expires.Format(time.RFC3339))
		case invite.Region != r.ID:
			return refuse("invite.name", "use the invitation made for this region", "this invitation is for region %s", invite.Region)
		}
		s.invites.delete(k.InviteHash)
	}
	r.Self, r.Export, r.Import, r.ApprovedAt = false, "", "", time.Time{}
	r.State = placement.PeerJoining
	if old := s.Region(r.ID); old != nil && old.State == placement.PeerActive {
		// What was pinned stays in force until an operator approves the new facts.
		s.pendingPeers.put(string(r.ID), &r)
	} else {
		s.regions.put(string(r.ID), &r)
	}
	c.showRegion(&r)
	c.id = string(r.ID)
	return nil
}

func (s *State) approvePeer(c *call, k ApprovePeer) *Refused {
	c.subject = string(k.Region)
	if k.Region == s.self.ID {
		return refuse("peer.self", "name another region", "a region cannot federate with itself")
	}
	put := s.PendingPeer(k.Region)
	if put == nil {
		put = s.Region(k.Region)
	}
	switch {
	case put == nil || put.Fingerprint == "":
		return refuse("peer.unknown", "invite or join it first", "region %s has not said yet who it is", clip(string(k.Region)))
	case put.State == placement.PeerActive && put.Fingerprint == k.Fingerprint:
		c.id = string(k.Region)
		return nil // approved before
	case put.State != placement.PeerJoining:
		return refuse("peer.state", "invite or join it again", "region %s is %s, there is nothing to approve", k.Region, put.State)
	case k.Fingerprint != put.Fingerprint:
		return refuse("peer.fingerprint", "compare the fingerprint with the other operator, over a channel you trust", "the fingerprint given is not that of the bundle that region %s sent", k.Region)
	}
	r := *put
	r.State, r.ApprovedAt = placement.PeerActive, s.Clock
	s.regions.put(string(r.ID), &r)
	s.pendingPeers.delete(string(r.ID))
	c.showRegion(&r)
	c.id = string(k.Region)
	return nil
}

func (s *State) updatePeer(c *call, k UpdatePeer) *Refused {
	c.subject = string(k.Region)
	old := s.Region(k.Region)
	if old == nil || old.Self || old.State != placement.PeerActive {
		return refuse("peer.unknown", "federate with it first", "region %s is no active peer", clip(string(k.Region)))
	}
	r := *old
	if len(k.FrontDoors) > maxDoors || len(k.LawPack) > maxFact {
		return refuse("region.too-large", "shorten the list of front doors", "what region %s says is too large", k.Region)
	}
	if k.FrontDoors != nil {
		r.FrontDoors = k.FrontDoors
	}
	if k.LawPack != "" {
		r.LawPack = k.LawPack
	}
	// A peer's roots are what two operators compared: whoever holds one key of
	// that region today must not be able to replace them.
	if len(k.Bundle) > 0 && !bytes.Equal(k.Bundle, old.Bundle) {
		return refuse("peer.bundle", "compare fingerprints again: sovmesh region invite, join, approve", "the bundle of region %s changes only with a new approval", k.Region)
	}
	s.regions.put(string(r.ID), &r)
	if k.LawPack != "" {
		c.show(ledger.ShownRegion, string(r.ID))
		c.show(ledger.ShownPack, clip(k.LawPack))
	}
	c.id = string(r.ID)
	return nil
}

func (s *State) leavePeer(c *call, k LeavePeer) *Refused {
	c.subject = string(k.Region)
	old := s.Region(k.Region)
	if old == nil || old.Self {
		return refuse("peer.unknown", "list them: sovmesh region list", "region %s is no peer", clip(string(k.Region)))
	}
	r := *old
	r.State = placement.PeerLeft
	if k.Dead {
		r.State = placement.PeerDead
	}
	s.regions.put(string(r.ID), &r)
	s.pendingPeers.delete(string(r.ID))
	for _, i := range s.invites.values() {
		if i.Region == k.Region {
			s.invites.delete(i.Hash)
		}
	}
	for _, res := range s.reservations.values() {
		if res.Home == k.Region && !res.Consumed {
			s.dropReservation(res)
		}
	}
	if k.Dead {
		s.loseForwarded(c, k.Region)
	}
	c.show(ledger.ShownRegion, string(r.ID))
	c.show(ledger.ShownState, string(r.State))
	c.id = string(k.Region)
	return nil
}

// loseForwarded ends the wait for jobs that ran in a region declared dead.
func (s *State) loseForwarded(c *call, region placement.RegionID) {
	var away []*jobRecord
	s.jobs.ascend("", func(_ string, r *jobRecord) bool {
		if r.Forward != nil && r.Forward.Region == region && r.Forward.State != placement.ForwardWaiting && !r.Status.Terminal() {
			away = append(away, r)
		}
		return true
	})
	for _, old := range away {
		r := *old
		fwd := *r.Forward
		fwd.State = placement.ForwardWaiting
		r.Forward = &fwd
		lost := &taskRecord{Task: placement.Task{Status: placement.TaskLost, Reason: "its region was declared dead"}}
		s.afterTask(c, &r, lost)
		s.putJob(c, &r)
	}
}
