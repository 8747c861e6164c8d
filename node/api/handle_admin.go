package api

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

func whoami(s *Server, c *call) error {
	k := c.caller
	out := Whoami{Region: s.cfg.Region, Mesh: s.cfg.Mesh, Node: s.cfg.Self, Kind: string(k.Kind), Roles: []state.Role{}, Tenant: k.Tenant}
	if k.Token != nil {
		out.ID, out.Roles, out.Residency, out.AllowAny, out.ExpiresAt = k.Token.ID, k.Token.Roles, k.Token.Residency, k.Token.AllowAny, k.Token.Expires
	}
	if t := c.view.Tenant(k.Tenant); t != nil {
		out.TenantResidency = t.Residency
	}
	return c.writeJSON(http.StatusOK, out)
}

func listTenants(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(slices.Clone(v.Tenants()), func(t *state.Tenant) bool { return !c.caller.seesAll() && t.ID != c.caller.Tenant })
	return answerPage(c, o, v, all, func(t *state.Tenant) string { return string(t.ID) })
}

func setTenant(s *Server, c *call) error {
	var in state.Tenant
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	id := placement.TenantID(c.r.PathValue("tenant"))
	if in.ID != "" && in.ID != id {
		return &InputError{Code: CodeBody, Message: fmt.Sprintf("the body names tenant %s, the path %s", quoteWord(string(in.ID)), quoteWord(string(id))), Help: "name one tenant"}
	}
	in.ID = id
	var err error
	if in.Residency, err = s.canonical(c, in.Residency); err != nil {
		return err
	}
	_, v, err := c.propose(state.SetTenant{Tenant: in}, c.caller.Actor)
	if err != nil {
		return err
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, v.Tenant(id))
}

// canonical reads a narrowing tag under the active pack; empty stays empty.
func (s *Server) canonical(c *call, wire string) (string, error) {
	if wire == "" {
		return "", nil
	}
	tag, err := residency.ParseWire(wire, c.view.Pack(), residency.DateOf(s.now()))
	if err != nil {
		return "", err
	}
	return tag.Wire(), nil
}

func listLaw(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	all := []LawPackInfo{}
	for _, p := range v.Packs() {
		all = append(all, LawPackInfo{Hash: p.Hash(), Active: p.Hash() == v.Pack().Hash()})
	}
	slices.SortFunc(all, func(a, b LawPackInfo) int { return cmp.Compare(a.Hash, b.Hash) })
	return answerPage(c, o, v, all, func(p LawPackInfo) string { return p.Hash })
}

func (c *call) findPack(v *state.View) (*residency.Pack, error) {
	hash := c.r.PathValue("hash")
	if p := v.PackByHash(hash); p != nil {
		return p, nil
	}
	return nil, newProblem(http.StatusNotFound, CodeNotFound, "this region holds no law pack "+quoteWord(hash), "list them: sovmesh law list")
}

func getLaw(_ *Server, c *call) error {
	p, err := c.findPack(c.view)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, LawTables{Hash: p.Hash(), Tables: p.Tables()})
}

// importLaw reads the tables here, so that a broken pack is refused with its
// line, before it is proposed.
func importLaw(s *Server, c *call) error {
	var in LawTables
	if err := c.readJSON(&in, MaxLawBytes); err != nil {
		return err
	}
	p, err := residency.LoadPack(in.Tables)
	if err != nil {
		return err
	}
	if in.Hash != "" && in.Hash != p.Hash() {
		return &InputError{Code: CodeBody, Message: "the tables hash to " + p.Hash() + ", not to the hash that was sent", Help: "send the tables whole"}
	}
	_, v, err := c.propose(state.ImportLawPack{Tables: in.Tables}, c.caller.Actor)
	if err != nil {
		return err
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusCreated, LawPackInfo{Hash: p.Hash(), Active: v.Pack().Hash() == p.Hash()})
}

func activateLaw(s *Server, c *call) error {
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	p, err := c.findPack(v)
	if err != nil {
		return err
	}
	if _, v, err = c.propose(state.ActivateLawPack{Hash: p.Hash()}, c.caller.Actor); err != nil {
		return err
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, LawPackInfo{Hash: p.Hash(), Active: v.Pack().Hash() == p.Hash()})
}

func listTokens(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	all := []state.Token{}
	for _, t := range v.Tokens() {
		shown := *t
		shown.Hash = "" // it finds the token; nobody needs to see it
		all = append(all, shown)
	}
	return answerPage(c, o, v, all, func(t state.Token) string { return t.ID })
}

const tokenLife = 24 * time.Hour

// createToken makes a bearer token. Its secret is in this one answer and
// nowhere else: the ledger keeps a hash.
func createToken(s *Server, c *call) error {
	var in TokenRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	if len(in.Roles) == 0 || in.TTL < 0 || time.Duration(in.TTL) > 10*365*24*time.Hour {
		return &InputError{Code: CodeBody, Message: "a token has at least one role, and a life of at most ten years", Help: "send roles, of viewer, submitter, operator, auditor, admin"}
	}
	for _, r := range in.Roles {
		if roleVerbs(r) == nil {
			return &InputError{Code: CodeBody, Message: "there is no role " + quoteWord(string(r)), Help: "choose of viewer, submitter, operator, auditor, admin"}
		}
	}
	wire, err := s.canonical(c, in.Residency)
	if err != nil {
		return err
	}
	secret := identity.NewBearer(s.cfg.Region)
	hash := identity.HashBearer(secret)
	now := s.now()
	life := time.Duration(in.TTL)
	if life == 0 {
		life = tokenLife
	}
	t := state.Token{
		ID: newKey()[:16], Hash: hex.EncodeToString(hash[:]), Roles: in.Roles, Residency: wire, AllowAny: in.AllowAny,
		Tenant: pick(in.Tenant == "", "default", in.Tenant), Expires: now.Add(life), CreatedAt: now,
	}
	_, v, err := c.propose(state.CreateToken{Token: t}, c.caller.Actor)
	if err != nil {
		return err
	}
	t.Hash = ""
	c.index(v.Index())
	return c.writeJSON(http.StatusCreated, NewToken{Token: t, Secret: secret})
}

func revokeToken(s *Server, c *call) error {
	_, v, err := c.propose(state.RevokeToken{ID: c.r.PathValue("id")}, c.caller.Actor)
	var refused *state.Refused
	if errors.As(err, &refused) && refused.Code == "token.unknown" {
		// It is the one that was named, not the caller's own.
		return newProblem(http.StatusNotFound, CodeNotFound, refused.Message, refused.Advice)
	}
	if err != nil {
		return err
	}
	c.index(v.Index())
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
