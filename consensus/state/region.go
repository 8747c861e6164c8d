package state

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func (s *State) initRegion(c *call, k InitRegion) *Refused {
	c.subject = string(k.Region.ID)
	switch {
	case s.self != nil:
		return refuse("region.exists", "join it instead: sovmesh node token create", "this ledger already belongs to region %s", s.self.ID)
	case !placement.ValidName(string(k.Region.ID)):
		return refuse("region.name", "use lower-case letters, digits and hyphens", "%q is no name of a region", k.Region.ID)
	case !placement.ValidName(string(k.Node.ID)):
		return refuse("node.name", "use lower-case letters, digits and hyphens", "%q is no name of a node", k.Node.ID)
	case !validDigest(k.Certificate):
		return refuse("node.certificate", "send the SHA-256 of the certificate's DER in hex", "the certificate of node %s has no such digest", k.Node.ID)
	case k.Voters != 0 && k.Voters != 3 && k.Voters != 5:
		return refuse("region.voters", "choose 3 or 5", "%d voters are not possible", k.Voters)
	case k.Limits.Pending < 0 || k.Limits.Terminal < 0 || k.Limits.Bytes < 0:
		return refuse("region.limits", "leave them out for the defaults", "limits cannot be negative")
	}
	if refused := checkRegion(&k.Region); refused != nil {
		return refused
	}
	if refused := checkNode(&k.Node); refused != nil {
		return refused
	}
	pack, err := residency.LoadPack(k.LawPack)
	if err != nil {
		return refusedBy(err)
	}
	for _, tag := range []string{k.Region.Export, k.Region.Import} {
		if refused := checkTag(c, tag, pack); refused != nil {
			return refused
		}
	}
	s.packs.put(pack.Hash(), pack)
	s.Active = pack.Hash()
	s.Voters = max(k.Voters, defaultVoters)
	s.Limits = Limits{Pending: orDefault(k.Limits.Pending, defaultPending), Terminal: orDefault(k.Limits.Terminal, defaultTerminal), Bytes: orDefault(k.Limits.Bytes, defaultBytes)}
	region := k.Region
	region.Self, region.State, region.ApprovedAt, region.LawPack = true, placement.PeerActive, s.Clock, s.Active
	s.putSelf(&region)
	c.showRegion(&region)
	c.show(ledger.ShownExport, region.Export)
	c.show(ledger.ShownImport, region.Import)
	if k.Node.Serial != "" {
		c.show(ledger.ShownCertificate, certificateText(clip(k.Node.Serial), k.Node.NotAfter, k.Certificate))
	}
	node := k.Node
	node.Region, node.Role, node.State, node.Contact = region.ID, placement.RoleVoter, placement.NodeReady, placement.ContactAlive
	node.ContactAt, node.JoinedAt, node.Used, node.Drain, node.Cleared = s.Clock, s.Clock, placement.Usage{}, nil, nil
	s.nodes.put(string(node.ID), &node)
	c.id = string(region.ID)
	return nil
}

func orDefault[N int | int64](v, fallback N) N {
	if v == 0 {
		return fallback
	}
	return v
}

func (s *State) putSelf(r *placement.Region) {
	s.self = r
	s.regions.put(string(r.ID), r)
}

// Bounds of what a region may say about itself. They keep every leaf that
// quotes its facts within a log entry.
const (
	maxBundle    = 64 << 10
	maxSealKey   = 4 << 10
	maxServingCA = 64 << 10
	maxDoors     = 32
	maxClaims    = 64
	maxFact      = 128 // bytes of any one word
)

func checkRegion(r *placement.Region) *Refused {
	f := &r.Facts
	words := []string{f.Country, f.Subdivision, f.Operator.Home, f.Operator.Parent, f.Assurance.Location, f.Assurance.Operator, f.Assurance.AsOf, r.Fingerprint, r.Mesh}
	for name, value := range f.Claims {
		words = append(words, name, value) // in any order: only the count and the longest matter
	}
	tooLong := func(w string) bool { return len(w) > maxFact || !utf8.ValidString(w) }
	switch {
	case !placement.ValidName(string(r.ID)):
		return refuse("region.name", "use lower-case letters, digits and hyphens", "%q is no name of a region", r.ID)
	case len(f.Claims) > maxClaims || slices.ContainsFunc(words, tooLong) || len(f.Operator.Name) > 4*maxFact:
		return refuse("region.facts", "shorten them", "the facts of region %s are too long: at most %d claims, at most %d bytes each", r.ID, maxClaims, maxFact)
	case !keyOf(r.LogKey, LogOrigin(r.ID, r.Mesh, 0)) || !keyOf(r.WitnessKey, WitnessName(r.ID, r.Mesh)):
		return refuse("region.keys", "send verifier keys named after the region's log and witness", "the keys of region %s are those of somebody else", r.ID)
	case r.SealKey != "" && (!r.Self || len(r.SealKey) > maxSealKey):
		return refuse("region.keys", "leave it out", "what secrets are sealed with in region %s is for that region alone", r.ID)
	case len(r.Bundle) > maxBundle || len(r.ServingCA) > maxServingCA || len(r.FrontDoors) > maxDoors:
		return refuse("region.too-large", "shorten the bundle or the list of front doors", "what region %s says is too large", r.ID)
	}
	return nil
}

func checkTag(c *call, tag string, pack *residency.Pack) *Refused {
	if tag == "" {
		return nil
	}
	if len(tag) > maxTag {
		return refuse("tag.too-long", "name a group", "a tag of %d bytes is too long", len(tag))
	}
	if _, err := residency.ParseWire(tag, pack, residency.DateOf(c.now)); err != nil {
		return refusedBy(err)
	}
	return nil
}

func (s *State) setRegionPolicy(c *call, k SetRegionPolicy) *Refused {
	c.subject = string(s.self.ID)
	region := *s.self
	for _, change := range []struct{ from, to *string }{{k.Export, &region.Export}, {k.Import, &region.Import}} {
		if change.from == nil {
			continue
		}
		if refused := checkTag(c, *change.from, s.Pack()); refused != nil {
			return refused
		}
		*change.to = *change.from
	}
	c.show(ledger.ShownExport, region.Export)
	c.show(ledger.ShownImport, region.Import)
	s.putSelf(&region)
	return nil
}

func (s *State) importLawPack(c *call, k ImportLawPack) *Refused {
	pack, err := residency.LoadPack(k.Tables)
	if err != nil {
		return refusedBy(err)
	}
	c.subject, c.id = pack.Hash(), pack.Hash()
	if s.packs.len() >= 32 && !s.packs.has(pack.Hash()) {
		return refuse("law.too-many", "this region holds 32 packs already", "law pack %s would be one too many", pack.Hash())
	}
	s.packs.put(pack.Hash(), pack)
	c.show(ledger.ShownPack, pack.Hash())
	return nil
}

func (s *State) activateLawPack(c *call, k ActivateLawPack) *Refused {
	if !s.packs.has(k.Hash) {
		return refuse("law.unknown-pack", "import it first: sovmesh law import FILE", "this region does not hold law pack %s", clip(k.Hash))
	}
	c.subject, c.id = k.Hash, k.Hash
	c.show(ledger.ShownPack, k.Hash)
	s.Active = k.Hash
	region := *s.self
	region.LawPack = k.Hash
	s.putSelf(&region)
	return nil
}

func (s *State) setTenant(c *call, k SetTenant) *Refused {
	t := k.Tenant
	c.subject = ledger.Opaque(c.head.Salt, string(t.ID))
	if refused := s.nameTenant(t.ID); refused != nil {
		return refused
	}
	if refused := t.Quota.check(); refused != nil {
		return refused
	}
	if refused := checkTag(c, t.Residency, s.Pack()); refused != nil {
		return refused
	}
	s.tenants.put(string(t.ID), &t)
	c.show(ledger.ShownTag, t.Residency)
	c.id = string(t.ID)
	return nil
}

// nameTenant judges the name that a quota or a tag is set for: a tenant of this
// region, one of a peer, or all tenants of a peer.
func (s *State) nameTenant(t placement.TenantID) *Refused {
	region := t.Region()
	if !t.Valid() && (t != placement.EveryTenant(region) || !placement.ValidName(string(region))) {
		return refuse("tenant.name", "use lower-case letters, digits and hyphens; of another region <region>/<tenant>, or <region>/* for all of its tenants", "%q is no name of a tenant", clip(string(t)))
	}
	if region == "" {
		return nil
	}
	if peer := s.Region(region); peer == nil || peer.Self {
		return refuse("peer.unknown", "list them: sovmesh region list", "region %s, whose tenant this would be, is no peer", clip(string(region)))
	}
	return nil
}

func (s *State) createToken(c *call, k CreateToken) *Refused {
	t := k.Token
	c.subject = clip(t.ID)
	switch {
	case !validID(t.ID):
		return refuse("token.id", "let the program choose it", "%q is no id of a token", clip(t.ID))
	case !validHash(t.Hash):
		return refuse("token.hash", "send the hex SHA-256 of the secret", "the token has no valid hash")
	case s.tokens.has(t.ID) || s.tokenHashes.has(t.Hash):
		return refuse("token.exists", "create it anew", "token %s exists already", t.ID)
	case len(t.Roles) == 0 || len(t.Roles) > 5 || slices.ContainsFunc(t.Roles, func(r Role) bool { return !r.valid() }):
		return refuse("token.role", "choose of viewer, submitter, operator, auditor, admin", "the token has no valid role")
	case t.Tenant != "" && !placement.ValidName(string(t.Tenant)):
		return refuse("tenant.name", "use lower-case letters, digits and hyphens", "%q is no name of a tenant", clip(string(t.Tenant)))
	}
	if refused := checkTag(c, t.Residency, s.Pack()); refused != nil {
		return refused
	}
	if t.Tenant == "" {
		t.Tenant = "default"
	}
	t.CreatedAt, t.Revoked, t.Expires = s.Clock, false, t.Expires.UTC()
	s.putToken(&t)
	c.show(ledger.ShownGranted, rolesText(t.Roles))
	c.show(ledger.ShownTag, t.Residency)
	c.id = t.ID
	return nil
}

func (s *State) putToken(t *Token) {
	s.tokens.put(t.ID, t)
	s.tokenHashes.put(t.Hash, t)
}

func (s *State) revokeToken(c *call, k RevokeToken) *Refused {
	old, ok := s.tokens.get(k.ID)
	c.subject = clip(k.ID)
	if !ok {
		return refuse("token.unknown", "list them: sovmesh token list", "there is no token %q", clip(k.ID))
	}
	t := *old
	t.Revoked = true
	s.putToken(&t)
	c.show(ledger.ShownState, "revoked")
	c.id = t.ID
	return nil
}

func (r Role) valid() bool {
	switch r {
	case RoleViewer, RoleSubmitter, RoleOperator, RoleAuditor, RoleAdmin:
		return true
	}
	return false
}

func (s *State) raiseVersion(c *call, k RaiseVersion) *Refused {
	if k.Version <= s.Version || k.Version > MaxVersion {
		return refuse("version.order", "the version only grows", "the state version is %d, this program knows up to %d", s.Version, MaxVersion)
	}
	var behind placement.NodeID
	s.nodes.ascend("", func(_ string, n *placement.Node) bool {
		if n.Role != placement.RoleWorker && n.Inventory.States < uint32(k.Version) {
			behind = n.ID
		}
		return behind == ""
	})
	if behind != "" {
		return refuse("version.behind", "upgrade it first", "node %s does not know state version %d", behind, k.Version)
	}
	s.Version = k.Version
	c.show(ledger.ShownVersion, strconv.Itoa(int(k.Version)))
	return nil
}

// validID takes the opaque ids that programs make: tokens, grants.
func validID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := 0; i < len(id); i++ {
		if c := id[i]; c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

func validHash(h string) bool {
	if len(h) != 64 {
		return false
	}
	_, err := hex.DecodeString(h)
	return err == nil
}

// clip shows a word of unknown origin in a message.
func clip(s string) string {
	const most = len("sha256:") + 64 // so that a law pack's name is whole
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// keyOf reports whether a verifier key, if there is one, has that name.
func keyOf(key, name string) bool {
	return key == "" || len(key) <= maxVerifierKey && strings.HasPrefix(key, name+"+") && !strings.ContainsAny(key, " \n\r")
}
