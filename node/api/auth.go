package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// CallerKind is how a caller proved who it is.
type CallerKind string

// The kinds of callers.
const (
	CallerAnonymous CallerKind = "anonymous"
	CallerToken     CallerKind = "token"   // a bearer token of this region
	CallerGrant     CallerKind = "grant"   // a statement of another region's home, for one job
	CallerNode      CallerKind = "node"    // a certificate of this region
	CallerForeign   CallerKind = "foreign" // a certificate of another region
)

// Caller is who asks, decided once per request: by the certificate on the
// connection or by the Authorization header, never by anything else.
type Caller struct {
	Kind   CallerKind
	Region placement.RegionID
	Node   placement.NodeID // of certificates
	Role   placement.NodeRole
	Token  *state.Token
	Grant  *GrantClaims
	Tenant placement.TenantID
	// Actor is the opaque id that the ledger keeps.
	Actor string
}

// Verb is what an operation does, and so who may use it.
type Verb string

// The verbs. Those of the mesh listener are for certificates only.
const (
	VerbPublic  Verb = "public"  // everybody: it shows nothing that is not public
	VerbAny     Verb = "any"     // every valid token
	VerbRead    Verb = "read"    // every role; jobs of the own tenant unless the role sees all
	VerbSubmit  Verb = "submit"  // submitter, admin; a grant for one job
	VerbStop    Verb = "stop"    // submitter (own tenant), operator, admin; a grant
	VerbReach   Verb = "reach"   // into running tasks: as stop, and never by a grant
	VerbOperate Verb = "operate" // operator, admin
	VerbAdmin   Verb = "admin"   // admin
	VerbAudit   Verb = "audit"   // auditor
	VerbNode    Verb = "node"    // a node of the own region
	VerbVoter   Verb = "voter"   // a voter of the own region
	VerbPeer    Verb = "peer"    // an active peer region
)

// roleVerbs are the verbs of each role.
func roleVerbs(r state.Role) []Verb {
	switch r {
	case state.RoleViewer:
		return []Verb{VerbAny, VerbRead}
	case state.RoleAuditor:
		return []Verb{VerbAny, VerbRead, VerbAudit}
	case state.RoleSubmitter:
		return []Verb{VerbAny, VerbRead, VerbSubmit, VerbStop, VerbReach}
	case state.RoleOperator:
		return []Verb{VerbAny, VerbRead, VerbStop, VerbReach, VerbOperate}
	case state.RoleAdmin:
		return []Verb{VerbAny, VerbRead, VerbSubmit, VerbStop, VerbReach, VerbOperate, VerbAdmin}
	}
	return nil
}

// may reports whether a token holds a role with the verb.
func (c *Caller) may(v Verb) bool {
	return c.Token != nil && slices.ContainsFunc(c.Token.Roles, func(r state.Role) bool { return slices.Contains(roleVerbs(r), v) })
}

// seesAll reports whether the caller sees the jobs of every tenant.
func (c *Caller) seesAll() bool {
	return c.Kind == CallerNode || c.Token != nil && slices.ContainsFunc(c.Token.Roles, func(r state.Role) bool {
		return r == state.RoleOperator || r == state.RoleAuditor || r == state.RoleAdmin
	})
}

// sees reports whether the caller may know of a job.
func (c *Caller) sees(j *placement.Job) bool {
	switch c.Kind {
	case CallerToken, CallerNode:
		return c.seesAll() || j.Tenant == c.Tenant && j.Origin == ""
	case CallerGrant:
		return j.Origin == c.Region && j.Tenant == c.Tenant && c.Grant.covers(j)
	case CallerForeign:
		return j.Origin == c.Region
	}
	return false
}

// covers reports whether a grant reaches a job: the one that it names, or the
// one that was made with it. Another job of the same tenant it does not reach.
func (g *GrantClaims) covers(j *placement.Job) bool {
	if g.Job != "" {
		return g.Job == j.ID
	}
	return g.ID != "" && g.ID == j.Grant
}

// stops reports whether the caller may end a job that it sees.
func (c *Caller) stops(j *placement.Job) bool {
	if c.Kind == CallerToken && !c.may(VerbOperate) {
		return c.may(VerbStop) && j.Tenant == c.Tenant && j.Origin == ""
	}
	return c.sees(j)
}

// appCaller reads the Authorization header of a request to the app listener.
func (s *Server) appCaller(r *http.Request, v *state.View) (*Caller, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return &Caller{Kind: CallerAnonymous}, nil
	}
	scheme, value, _ := strings.Cut(header, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return s.tokenCaller(r.Context(), strings.TrimSpace(value), v)
	case strings.EqualFold(scheme, GrantScheme):
		return s.grantCaller(strings.TrimSpace(value), v)
	}
	return nil, newProblem(http.StatusUnauthorized, CodeBadToken, "the Authorization header has the scheme "+quoteWord(scheme), "send Authorization: Bearer TOKEN")
}

// tokenCaller looks a bearer token up by its hash. A token of another region is
// refused before: what was sent here by mistake is not even compared.
func (s *Server) tokenCaller(ctx context.Context, token string, v *state.View) (*Caller, error) {
	if err := s.ownToken(token); err != nil {
		return nil, err
	}
	hash := identity.HashBearer(token)
	t := v.Token(hex.EncodeToString(hash[:]))
	if t == nil { // it may be newer than this node's state
		if now, err := s.fresh(ctx); err == nil {
			t = now.Token(hex.EncodeToString(hash[:]))
		}
	}
	switch {
	case t == nil:
		return nil, newProblem(http.StatusUnauthorized, CodeBadToken, "the bearer token is not known in this region", "create one: sovmesh token create")
	case t.Revoked:
		return nil, newProblem(http.StatusUnauthorized, "token.revoked", "the bearer token was revoked", "ask an administrator for a new one")
	case !t.Expires.IsZero() && !s.now().Before(t.Expires):
		return nil, newProblem(http.StatusUnauthorized, CodeExpiredToken, "the bearer token expired", "ask an administrator for a new one")
	}
	return &Caller{Kind: CallerToken, Region: s.cfg.Region, Token: t, Tenant: t.Tenant, Actor: t.ID}, nil
}

// ownToken refuses a token that says itself that it is not of this region.
func (s *Server) ownToken(token string) error {
	region, ok := identity.RegionOfBearer(token)
	if !ok {
		return newProblem(http.StatusUnauthorized, CodeBadToken, "the bearer token is not one of this mesh", "create one: sovmesh token create")
	}
	if region != s.cfg.Region {
		return newProblem(http.StatusUnauthorized, CodeForeignToken, "the bearer token belongs to region "+string(region)+", and this is "+string(s.cfg.Region), "never send a token to another region; revoke it if that was a mistake: sovmesh token revoke ID")
	}
	return nil
}

// meshCaller is whom the certificate on an HTTP/3 connection names.
func (s *Server) meshCaller(r *http.Request, v *state.View) (*Caller, error) {
	id, ok := transport.PeerFrom(r.Context())
	if !ok {
		return nil, newProblem(http.StatusUnauthorized, CodeNoToken, "the connection shows no certificate", "speak to the app listener instead")
	}
	if id.Region == s.cfg.Region && id.Mesh == s.cfg.Mesh {
		c := &Caller{Kind: CallerNode, Region: id.Region, Node: id.Node, Actor: "node:" + string(id.Node)}
		if v != nil {
			n := v.Node(id.Node)
			if n == nil {
				return nil, newProblem(http.StatusForbidden, CodeRole, "node "+string(id.Node)+" does not belong to this region any more", "join it again: sovmesh node token create")
			}
			c.Role = n.Role
		}
		return c, nil
	}
	c := &Caller{Kind: CallerForeign, Region: id.Region, Node: id.Node, Actor: "region:" + string(id.Region)}
	if v != nil {
		if peer := v.Region(id.Region); peer == nil || peer.Self || peer.State != placement.PeerActive {
			return nil, newProblem(http.StatusForbidden, CodeForeignVerb, "region "+string(id.Region)+" is no active peer of this one", "federate first: sovmesh region invite NAME")
		}
	}
	return c, nil
}

// authorize decides whether the caller may use an operation.
func authorize(op *operation, c *Caller) error {
	switch c.Kind {
	case CallerAnonymous:
		if op.Verb == VerbPublic {
			return nil
		}
		return newProblem(http.StatusUnauthorized, CodeNoToken, "this needs a bearer token", "send one: --token, SOVMESH_TOKEN, or Authorization: Bearer TOKEN")
	case CallerToken:
		if op.Verb == VerbPublic || c.may(op.Verb) {
			return nil
		}
		return newProblem(http.StatusForbidden, CodeRole, "the token "+c.Token.ID+" may not "+string(op.Verb), "ask an administrator for a token with a role that may; see: sovmesh token create --help")
	case CallerGrant:
		if op.Grant != "" && slices.Contains(c.Grant.Verbs, op.Grant) {
			return nil
		}
		return newProblem(http.StatusForbidden, CodeRole, "the grant does not cover this", "a grant covers one job: its submit, read, logs and stop")
	case CallerNode:
		if op.Verb == VerbNode || op.Verb == VerbPublic || op.Verb == VerbVoter && c.Role == placement.RoleVoter {
			return nil
		}
		return newProblem(http.StatusForbidden, CodeRole, "node "+string(c.Node)+" may not "+string(op.Verb), "a node's certificate is no operator's token")
	case CallerForeign:
		if op.Foreign && (op.Verb == VerbPeer || op.Verb == VerbPublic) {
			return nil
		}
		return newProblem(http.StatusForbidden, CodeForeignVerb, "region "+string(c.Region)+" may not use this: a foreign certificate reserves, submits, and reads, logs and stops its own jobs, nothing else", "ask an operator of this region")
	}
	return newProblem(http.StatusForbidden, CodeRole, "nobody knows this caller", "send a token")
}
