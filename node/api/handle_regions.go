package api

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

func (s *Server) regionStatus(v *state.View, r *placement.Region) RegionStatus {
	name, l := s.link(r.ID)
	out := RegionStatus{Region: *r, Link: name, Since: l.Since, RTTMS: float64(l.RTT.Microseconds()) / 1000, Summary: l.Summary}
	if r.ID == s.cfg.Region {
		out.Nodes = len(v.Nodes())
		out.Witnesses = v.Witnesses()
	}
	return out
}

func listRegions(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	if o.Wait == 0 {
		o.Stale = true // what is known of others is as old as the contact anyway
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	all := []RegionStatus{}
	for _, r := range v.Regions() {
		all = append(all, s.regionStatus(v, r))
	}
	return answerPage(c, o, v, all, func(r RegionStatus) string { return string(r.ID) })
}

func (c *call) findRegion(v *state.View) (*placement.Region, error) {
	name := c.r.PathValue("name")
	if r := v.Region(placement.RegionID(name)); r != nil {
		return r, nil
	}
	return nil, newProblem(http.StatusNotFound, CodeNotFound, "there is no region "+quoteWord(name), "list them: sovmesh region list")
}

func getRegion(s *Server, c *call) error {
	r, err := c.findRegion(c.view)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, s.regionStatus(c.view, r))
}

func (s *Server) answerRegion(c *call, v *state.View, id placement.RegionID) error {
	r := v.Region(id)
	if r == nil {
		return newProblem(http.StatusNotFound, CodeNotFound, "there is no region "+quoteWord(string(id)), "list them: sovmesh region list")
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, s.regionStatus(v, r))
}

// setRegionPolicy changes the export and import rules. A rule must be readable
// under the active law pack before it is proposed.
func setRegionPolicy(s *Server, c *call) error {
	var in RegionPolicyRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	if in == (RegionPolicyRequest{}) {
		return &InputError{Code: CodeBody, Message: "neither export, import nor a witness is given", Help: "send one of them; an empty text removes a rule"}
	}
	if err := s.changeWitnesses(c, in); err != nil {
		return err
	}
	if in.Export == nil && in.Import == nil {
		return s.answerRegion(c, s.cfg.Ledger.View(), s.cfg.Region)
	}
	for _, rule := range []*string{in.Export, in.Import} {
		if rule == nil || *rule == "" {
			continue
		}
		tag, err := residency.ParseWire(*rule, c.view.Pack(), residency.DateOf(s.now()))
		if err != nil {
			return err
		}
		*rule = tag.Wire()
	}
	_, v, err := c.propose(state.SetRegionPolicy{Export: in.Export, Import: in.Import}, c.caller.Actor)
	if err != nil {
		return err
	}
	return s.answerRegion(c, v, s.cfg.Region)
}

// inviteRegion makes a code for the operator of another region. The ledger
// keeps its hash alone.
func inviteRegion(s *Server, c *call) error {
	name := placement.RegionID(c.r.PathValue("name"))
	if !placement.ValidName(string(name)) || name == s.cfg.Region {
		return &InputError{Code: CodeUsage, Message: quoteWord(string(name)) + " cannot name another region", Help: "use its name: lower-case letters, digits and hyphens"}
	}
	a, err := s.authority()
	if err != nil {
		return err
	}
	invite, err := identity.NewInvite(a.Bundle(), appAddresses(c.view), s.now(), InviteLife)
	if err != nil {
		return fmt.Errorf("invite region %s: %w", name, err)
	}
	hash := invite.Hash()
	if _, _, err := c.propose(state.InviteRegion{Region: name, Hash: hex.EncodeToString(hash[:]), Expires: invite.Expires}, c.caller.Actor); err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, Invitation{Region: name, Code: invite.Encode(), Fingerprint: invite.Fingerprint, ExpiresAt: invite.Expires})
}

// joinRegion answers an invitation. The operator has compared the inviter's
// fingerprint: only the bundle that has it is pinned.
func joinRegion(s *Server, c *call) error {
	var in JoinRegionRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	invite, err := identity.ParseInvite(in.Code)
	switch {
	case err != nil:
		return newProblem(http.StatusUnauthorized, "invite.invalid", err.Error(), "copy the code whole, or ask for another")
	case !identity.FingerprintEqual(in.Fingerprint, invite.Fingerprint):
		return newProblem(http.StatusBadRequest, CodeFingerprint, "the fingerprint that you compared is not that of the invitation", "ask the other operator by another way, and type what they read to you")
	case invite.Expired(s.now()):
		return newProblem(http.StatusUnauthorized, "invite.expired", "the invitation expired", "ask for another")
	case invite.Region == s.cfg.Region || invite.Mesh != s.cfg.Mesh:
		return newProblem(http.StatusConflict, "invite.foreign", fmt.Sprintf("the invitation is of %s, and this is %s", invite.TrustDomain(), identity.TrustDomain(s.cfg.Region, s.cfg.Mesh)), "federate with another region of the same mesh")
	}
	own, err := s.card(c.view)
	if err != nil {
		return err
	}
	// Recorded here before we show ourselves there: whatever breaks off in
	// between leaves a region that nobody has approved.
	record := func(r placement.Region) error {
		_, _, err := c.propose(state.PutPeer{Region: r}, c.caller.Actor)
		return err
	}
	peer, err := s.answerInvite(c.r.Context(), invite, own, record)
	if err != nil {
		return err
	}
	_, v, err := c.propose(state.ApprovePeer{Region: peer.ID, Fingerprint: peer.Fingerprint}, c.caller.Actor)
	if err != nil {
		return err
	}
	a, err := s.authority()
	if err != nil {
		return err
	}
	out := JoinRegionResult{Region: peer.ID, Fingerprint: a.Bundle().Fingerprint()}
	if r := v.Region(peer.ID); r != nil {
		out.State = r.State
	}
	return c.writeJSON(http.StatusOK, out)
}

// read checks a card and turns it into what the ledger records. Fingerprint and
// serving CA come from the bundle, whatever the card says: the fingerprint that
// operators compare covers both.
func (k RegionCard) read(mesh string, now time.Time) (identity.Bundle, placement.Region, error) {
	var r placement.Region
	b, err := identity.ParseBundle(k.Bundle, identity.MaxBundle)
	switch {
	case err != nil:
		return b, r, &InputError{Code: CodeBody, Message: "the region's bundle cannot be read: " + err.Error(), Help: "is the other region of another version?"}
	case !placement.ValidName(string(k.Region)) || k.Mesh != mesh || b.TrustDomain != identity.TrustDomain(k.Region, k.Mesh):
		return b, r, &InputError{Code: CodeBody, Message: fmt.Sprintf("the bundle is of %s, the card of region %s", b.TrustDomain, quoteWord(string(k.Region))), Help: "federate regions of one mesh, each under its own name"}
	case len(k.FrontDoors) == 0 || len(k.FrontDoors) > 64:
		return b, r, &InputError{Code: CodeBody, Message: "the card has no front doors, or too many", Help: "send 1 to 64"}
	}
	r = placement.Region{
		ID: k.Region, Mesh: k.Mesh, Facts: k.Facts, State: placement.PeerJoining, Bundle: k.Bundle,
		Fingerprint: b.Fingerprint(), ServingCA: servingPEM(b), LawPack: k.LawPack,
		LogKey: k.LogKey, WitnessKey: k.WitnessKey,
	}
	for _, d := range k.FrontDoors {
		d.Node = "" // no node names cross a border
		r.FrontDoors = append(r.FrontDoors, d)
	}
	if err := b.Validate(); err != nil {
		return b, r, err
	}
	return b, r, k.checkKeys(b, now)
}

func servingPEM(b identity.Bundle) string {
	var out strings.Builder
	for _, c := range b.ServingRoots {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Builder never fails
	}
	return out.String()
}

// answerInvite fetches the inviter's card over a connection pinned by the
// invitation, checks its bundle against the fingerprint, and sends ours.
func (s *Server) answerInvite(ctx context.Context, invite identity.Invite, own *RegionCard, record func(placement.Region) error) (placement.Region, error) {
	var none placement.Region
	last := errors.New("the invitation names no address")
	for _, addr := range invite.Addresses {
		client, err := NewClient(ClientConfig{
			Addr: "https://" + addr, TLS: s.pinned(invite), Dial: s.cfg.Dial, Now: s.cfg.Now, Timeout: 10 * time.Second,
		})
		if err != nil {
			return none, err
		}
		peer, err := s.exchange(ctx, client, invite, own, record)
		client.Close()
		if err == nil {
			return peer, nil
		}
		if CodeOf(err) != CodePeerUnknown {
			return none, err
		}
		last = err
	}
	return none, last
}

func (s *Server) pinned(invite identity.Invite) *tls.Config {
	return PinnedTLS(invite.ServingPin, invite.TrustDomain(), s.cfg.Now)
}

func (s *Server) exchange(ctx context.Context, client *Client, invite identity.Invite, own *RegionCard, record func(placement.Region) error) (placement.Region, error) {
	card, err := client.Card(ctx)
	if err != nil {
		return placement.Region{}, err
	}
	bundle, peer, err := card.read(s.cfg.Mesh, s.now())
	if err != nil {
		return peer, err
	}
	if err := invite.CheckBundle(bundle); err != nil {
		return peer, newProblem(http.StatusBadGateway, "peer.impostor", err.Error(), "do not federate: somebody else answers at that address")
	}
	if err := record(peer); err != nil {
		return peer, err
	}
	_, err = client.Federate(ctx, FederationJoin{Code: invite.Encode(), Region: *own})
	return peer, err
}

// card is what this region says about itself at federation.
func (s *Server) card(v *state.View) (*RegionCard, error) {
	a, err := s.authority()
	if err != nil {
		return nil, err
	}
	bundle, err := a.Bundle().Marshal()
	if err != nil {
		return nil, fmt.Errorf("write the region's bundle: %w", err)
	}
	self := v.Self()
	proof := ""
	if self.LogKey != "" && s.cfg.Credential != nil {
		if proof, err = s.proveKeys(self); err != nil {
			return nil, fmt.Errorf("vouch for the keys of the region's log: %w", err)
		}
	}
	return &RegionCard{
		Region: self.ID, Mesh: s.cfg.Mesh, Facts: self.Facts, Bundle: bundle, ServingCA: a.ServingCA(),
		FrontDoors: s.frontDoors(v), LawPack: v.Pack().Hash(),
		LogKey: self.LogKey, WitnessKey: self.WitnessKey, KeyProof: proof,
	}, nil
}

// frontDoors are the addresses of voters and standbys, without their names.
func (s *Server) frontDoors(v *state.View) []placement.FrontDoor {
	out := []placement.FrontDoor{}
	for _, n := range v.Nodes() {
		if n.Role != placement.RoleWorker && n.State == placement.NodeReady && n.QUIC != "" && len(out) < 8 {
			out = append(out, placement.FrontDoor{QUIC: n.QUIC, API: n.API})
		}
	}
	return out
}

// federationBundle is public: it proves nothing before two operators compared
// its fingerprint.
func federationBundle(s *Server, c *call) error {
	card, err := s.card(c.view)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, card)
}

// federationJoin takes the answer to an invitation: the invited region becomes
// known, and a peer only when an operator approves it.
func federationJoin(s *Server, c *call) error {
	var in FederationJoin
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	invite, err := identity.ParseInvite(in.Code)
	if err != nil {
		return newProblem(http.StatusUnauthorized, "invite.invalid", err.Error(), "copy the code whole, or ask for another")
	}
	sum := invite.Hash()
	hash := hex.EncodeToString(sum[:])
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	known := v.Invite(hash)
	if known == nil || !s.now().Before(known.Expires) {
		return newProblem(http.StatusUnauthorized, "invite.spent", "the invitation is not open: it was used, expired, or never made here", "ask for another: sovmesh region invite NAME")
	}
	if known.Region != in.Region.Region {
		return newProblem(http.StatusUnauthorized, "invite.name", fmt.Sprintf("the invitation is for region %s, not %s", known.Region, quoteWord(string(in.Region.Region))), "join under the name that was invited")
	}
	_, peer, err := in.Region.read(s.cfg.Mesh, s.now())
	if err != nil {
		return err
	}
	if _, _, err := c.propose(state.PutPeer{Region: peer, InviteHash: hash}, "invite:"+hash[:12]); err != nil {
		return err
	}
	s.cfg.Log.Info("a region answered an invitation: an operator has to approve it", "region", in.Region.Region)
	return c.writeJSON(http.StatusAccepted, JoinRegionResult{Region: s.cfg.Region, State: placement.PeerJoining})
}

// approveRegion pins what a region said, if its bundle has the fingerprint that
// the operator compared.
func approveRegion(s *Server, c *call) error {
	var in ApproveRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	if !identity.ValidFingerprint(in.Fingerprint) {
		return &InputError{Code: CodeBody, Message: "the fingerprint is not whole", Help: "type all eight groups, as the other operator reads them to you"}
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	r, err := c.findRegion(v)
	if err != nil {
		return err
	}
	candidate := r
	if again := v.PendingPeer(r.ID); again != nil {
		candidate = again
	}
	if candidate.Fingerprint == "" {
		return newProblem(http.StatusConflict, "peer.state", fmt.Sprintf("region %s was invited and has not answered yet: there is nothing to approve", r.ID), "let its operator answer: sovmesh region join")
	}
	if !identity.FingerprintEqual(in.Fingerprint, candidate.Fingerprint) {
		return newProblem(http.StatusBadRequest, CodeFingerprint, "the fingerprint that you compared is not that of the region which answered", "do not approve: ask the other operator again, by another way")
	}
	_, v, err = c.propose(state.ApprovePeer{Region: r.ID, Fingerprint: candidate.Fingerprint}, c.caller.Actor)
	if err != nil {
		return err
	}
	return s.answerRegion(c, v, r.ID)
}

// leaveRegion ends a federation. An active peer that answers is left in the
// ordinary way; one that does not holds an unknown amount of what is ours, and
// only an operator's word that it is gone for good ends that.
func leaveRegion(s *Server, c *call) error {
	dead, err := boolQuery(c, "dead")
	if err != nil {
		return err
	}
	r, err := c.findRegion(c.view)
	if err != nil {
		return err
	}
	link, _ := s.link(r.ID)
	switch {
	case dead && link == LinkUp:
		return newProblem(http.StatusConflict, CodePeerAnswers, fmt.Sprintf("region %s answers: it is not gone", r.ID), "leave it without saying that it is dead: sovmesh region leave "+string(r.ID))
	case !dead && r.State == placement.PeerActive && link == LinkUnknown:
		return newProblem(http.StatusServiceUnavailable, CodePeerUnknown, fmt.Sprintf("region %s does not answer: what it holds of ours is unknown, and it cannot confirm", r.ID),
			"try again when it answers; if it is gone for good: sovmesh region leave "+string(r.ID)+" --peer-dead").retry(5 * time.Second)
	}
	_, v, err := c.propose(state.LeavePeer{Region: r.ID, Dead: dead}, c.caller.Actor)
	if err != nil {
		return err
	}
	return s.answerRegion(c, v, r.ID)
}
