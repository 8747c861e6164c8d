package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// What a grant may cover.
const (
	grantSubmit = "submit"
	grantRead   = "read"
	grantLogs   = "logs"
	grantStop   = "stop"
)

// directory is what a client needs to judge and land by itself, signed.
func directory(s *Server, c *call) error {
	dir := Directory{Home: s.cfg.Region, Mesh: s.cfg.Mesh, LawPack: c.view.Pack().Hash(), Issued: s.now().Truncate(time.Second), Regions: []DirectoryRegion{}}
	for _, at := range s.places(c.view) {
		r := at.Region
		dir.Regions = append(dir.Regions, DirectoryRegion{
			Region: r.ID, Facts: r.Facts, Doors: slices.Clone(at.doors), ServingCA: r.ServingCA, Link: at.link,
			Import: r.Import, Export: r.Export, LawPack: r.LawPack,
		})
	}
	payload, err := json.Marshal(dir)
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	statement, err := s.sign(ContextDirectory, payload)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, SignedDirectory{Directory: dir, Statement: []byte(statement)})
}

func (s *Server) sign(context string, payload []byte) (string, error) {
	if s.cfg.Credential == nil || s.cfg.Credential.Current() == nil {
		return "", newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node has no certificate to sign with yet", "ask again in a moment").retry(time.Second)
	}
	return identity.Sign(s.cfg.Credential.Current(), context, payload, s.now())
}

// grants gives one job the permission to go to another region. It sees neither
// the tag nor the payload: the policy's hash binds both to what the client
// judged, and the other region judges again.
func grants(s *Server, c *call) error {
	var in GrantRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	peer := c.view.Region(in.Audience)
	switch {
	case peer == nil || peer.Self || peer.State != placement.PeerActive:
		return newProblem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("there is no federated region %s", quoteWord(string(in.Audience))), "list them: sovmesh region list")
	case in.Job == "" && (!isHash(in.PolicyHash) || in.IdempotencyKey == "" || len(in.IdempotencyKey) > MaxIdempotency):
		return &InputError{Code: CodeBody, Message: "a grant for a submit names the hash of the policy and an idempotency key", Help: "send policy_hash (hex SHA-256 of the wire form) and idempotency_key"}
	case in.Job != "" && !in.Job.Valid():
		return &InputError{Code: CodeBody, Message: quoteWord(string(in.Job)) + " is no whole job id", Help: "send the id as the submit answered it"}
	}
	if in.Job == "" && !c.caller.may(VerbSubmit) {
		return newProblem(http.StatusForbidden, CodeRole, "the token "+c.caller.Token.ID+" may not submit", "ask an administrator for a token of role submitter")
	}
	claims, err := s.grantClaims(c, in, peer)
	if err != nil {
		return err
	}
	if in.Job == "" {
		// Home records that it let a job go, and how many go: reads are not recorded.
		res, _, err := c.propose(state.IssueGrant{ID: claims.ID, Tenant: claims.Tenant, Audience: claims.Audience, PolicyHash: claims.PolicyHash, LawPack: claims.LawPack, Expires: claims.Expires}, c.caller.Actor)
		if err != nil {
			return err
		}
		claims.Leaf = s.leafOf(res)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	statement, err := s.sign(ContextGrant, payload)
	if err != nil {
		return err
	}
	at := s.placeOf(c.view, peer)
	if len(at.doors) == 0 {
		return newProblem(http.StatusServiceUnavailable, CodePeerUnknown, "no front door of region "+string(in.Audience)+" is known", "wait until it was heard of: sovmesh region list").retry(5 * time.Second)
	}
	return c.writeJSON(http.StatusCreated, Grant{Region: in.Audience, URL: at.doors[0], CAPEM: peer.ServingCA, Grant: statement, ExpiresAt: claims.Expires})
}

func isHash(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// grantClaims narrows the grant by what home knows: the tenant, its token, and
// home's export rule must permit the other region.
func (s *Server) grantClaims(c *call, in GrantRequest, peer *placement.Region) (*GrantClaims, error) {
	now := s.now()
	claims := &GrantClaims{
		ID: newKey(), Home: s.cfg.Region, Tenant: c.caller.Tenant, Audience: in.Audience, PolicyHash: in.PolicyHash,
		IdempotencyKey: in.IdempotencyKey, Job: in.Job, Expires: now.Add(GrantLife).Truncate(time.Millisecond),
		AllowAny: c.caller.Token.AllowAny, LawPack: c.view.Pack().Hash(), Verbs: []string{grantSubmit, grantRead, grantLogs, grantStop},
	}
	if in.Job != "" {
		claims.Verbs = []string{grantRead, grantLogs}
		if c.caller.may(VerbStop) {
			claims.Verbs = append(claims.Verbs, grantStop)
		}
	}
	add := func(o residency.Origin, wire string) {
		if wire != "" {
			claims.Layers = append(claims.Layers, placement.Layer{Origin: o, Tag: wire})
		}
	}
	add(residency.OriginToken, c.caller.Token.Residency)
	if t := c.view.Tenant(c.caller.Tenant); t != nil {
		add(residency.OriginTenant, t.Residency)
	}
	claims.Layers = placement.Across(claims.Layers, c.view.Self(), peer)
	if len(claims.Layers) == 0 {
		return claims, nil
	}
	at := s.court(c.view)
	if d := at.run(claims.Layers, s.placeOf(c.view, peer)); !d.Permitted() {
		return nil, problemOfDecision(d.Decision, fmt.Sprintf("the %s's rule %s does not permit region %s: %s", d.Layer, d.Tag, in.Audience, d.Reason), "choose another region, or ask an administrator")
	}
	return claims, nil
}

// grantCaller opens a grant that the home of a foreign tenant signed. The
// signer is believed through the bundle pinned for its region; whether the
// grant was used before is for Apply to decide.
func (s *Server) grantCaller(statement string, v *state.View) (*Caller, error) {
	bad := func(format string, args ...any) error {
		return newProblem(http.StatusUnauthorized, CodeGrant, "the grant is not acceptable: "+fmt.Sprintf(format, args...), "ask the home region for another: our client does so by itself")
	}
	if s.cfg.Verifier == nil {
		return nil, bad("this node verifies none")
	}
	now := s.now()
	payload, signer, _, err := identity.Open(statement, ContextGrant, s.cfg.Verifier, now)
	if err != nil {
		return nil, bad("%v", err)
	}
	claims := &GrantClaims{}
	if err := strictJSON(payload, claims); err != nil {
		return nil, bad("its claims cannot be read")
	}
	peer := v.Region(signer.Region)
	switch {
	case signer.Region != claims.Home:
		return nil, bad("region %s signed it in the name of %s", signer.Region, claims.Home)
	case peer == nil || peer.Self || peer.State != placement.PeerActive:
		return nil, bad("region %s is no active peer of this one", signer.Region)
	case claims.Audience != s.cfg.Region:
		return nil, bad("it is for region %s, and this is %s", claims.Audience, s.cfg.Region)
	case !now.Before(claims.Expires):
		return nil, bad("it expired at %s", claims.Expires.UTC().Format(time.RFC3339))
	case claims.Expires.After(now.Add(GrantLife + identity.MaxSkew)):
		return nil, bad("it is good for longer than a grant may be")
	case !placement.ValidName(string(claims.Tenant)) || claims.ID == "":
		return nil, bad("it names no tenant, or has no id")
	case claims.LawPack == "":
		return nil, bad("it does not say by which law pack region %s decided", claims.Home)
	}
	return &Caller{
		Kind: CallerGrant, Region: claims.Home, Grant: claims,
		Tenant: placement.TenantID(string(claims.Home) + "/" + string(claims.Tenant)), Actor: "grant:" + claims.ID,
	}, nil
}

// checkGranted binds a granted submit to the policy and the key that home signed.
func (s *Server) checkGranted(c *call, sub submission) error {
	g := c.caller.Grant
	if g == nil {
		return nil
	}
	if g.Job != "" || g.PolicyHash != policyHash(sub.tag.Wire()) || g.IdempotencyKey != sub.key {
		return newProblem(http.StatusUnauthorized, CodeGrant, "the grant was made for another job: its policy or its idempotency key differs", "submit what the grant was asked for, with the same Idempotency-Key")
	}
	return nil
}
