package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

func (o ListOptions) query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	if o.Limit > 0 {
		set("limit", strconv.Itoa(o.Limit))
	}
	set("cursor", o.Cursor)
	if o.Wait > 0 {
		set("wait", o.Wait.String())
		set("index", strconv.FormatUint(o.Index, 10))
	}
	if o.Stale {
		set("stale", "true")
	}
	set("status", string(o.Status))
	set("tenant", string(o.Tenant))
	set("node", string(o.Node))
	return q
}

func list[T any](ctx context.Context, c *Client, path string, o ListOptions) (*Page[T], error) {
	page := &Page[T]{}
	err := c.home.call(ctx, c.cfg.Timeout+o.Wait, request{method: http.MethodGet, path: Prefix + path, query: o.query(), out: page})
	if err != nil {
		return nil, err
	}
	return page, nil
}

func one[T any](ctx context.Context, c *Client, method, path string, in any) (*T, error) {
	out := new(T)
	if err := c.ask(ctx, method, path, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

func seg[S ~string](s S) string { return "/" + url.PathEscape(string(s)) }

// Status is the region at a glance.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return one[Status](ctx, c, http.MethodGet, "/status", nil)
}

// Whoami is who the token is to the region.
func (c *Client) Whoami(ctx context.Context) (*Whoami, error) {
	return one[Whoami](ctx, c, http.MethodGet, "/whoami", nil)
}

// GPUs lists the devices of the region.
func (c *Client) GPUs(ctx context.Context, o ListOptions) (*Page[GPU], error) {
	return list[GPU](ctx, c, "/gpus", o)
}

// Tasks lists the live tasks of the region, of every tenant.
func (c *Client) Tasks(ctx context.Context, o ListOptions) (*Page[placement.Task], error) {
	return list[placement.Task](ctx, c, "/tasks", o)
}

// PlanDefrag asks for at most so many moves that bring free GPUs together.
func (c *Client) PlanDefrag(ctx context.Context, moves int) (*DefragReport, error) {
	return one[DefragReport](ctx, c, http.MethodGet, "/gpus/defrag?moves="+strconv.Itoa(moves), nil)
}

// Nodes lists the nodes of the region.
func (c *Client) Nodes(ctx context.Context, o ListOptions) (*Page[placement.Node], error) {
	return list[placement.Node](ctx, c, "/nodes", o)
}

// Node is one node with its tasks.
func (c *Client) Node(ctx context.Context, n placement.NodeID) (*NodeDetail, error) {
	return one[NodeDetail](ctx, c, http.MethodGet, "/nodes"+seg(n), nil)
}

// Cordon keeps new tasks off a node.
func (c *Client) Cordon(ctx context.Context, n placement.NodeID) (*placement.Node, error) {
	return one[placement.Node](ctx, c, http.MethodPost, "/nodes"+seg(n)+"/cordon", nil)
}

// Resume ends a cordon or a drain.
func (c *Client) Resume(ctx context.Context, n placement.NodeID) (*placement.Node, error) {
	return one[placement.Node](ctx, c, http.MethodPost, "/nodes"+seg(n)+"/resume", nil)
}

// RemoveNode ends a node's membership; its running tasks become lost.
func (c *Client) RemoveNode(ctx context.Context, n placement.NodeID) error {
	return c.ask(ctx, http.MethodDelete, "/nodes"+seg(n), nil, nil)
}

// PlanDrain shows every task's fate; nothing is changed.
func (c *Client) PlanDrain(ctx context.Context, n placement.NodeID, r DrainRequest) (*DrainReport, error) {
	return one[DrainReport](ctx, c, http.MethodPost, "/nodes"+seg(n)+"/drain?plan=true", r)
}

// Drain asks for a node to be emptied and returns at once.
func (c *Client) Drain(ctx context.Context, n placement.NodeID, r DrainRequest) (*DrainReport, error) {
	return one[DrainReport](ctx, c, http.MethodPost, "/nodes"+seg(n)+"/drain", r)
}

// DrainSet asks for several nodes to be emptied together and returns at once;
// with plan nothing is changed, and every task's fate is shown.
func (c *Client) DrainSet(ctx context.Context, r DrainSetRequest, plan bool) (*DrainSetReport, error) {
	path := "/nodes/drain"
	if plan {
		path += "?plan=true"
	}
	return one[DrainSetReport](ctx, c, http.MethodPost, path, r)
}

// DrainStatus is how far a drain has come. With a wait it returns when
// something changed since the given index.
func (c *Client) DrainStatus(ctx context.Context, n placement.NodeID, o ListOptions) (*DrainReport, error) {
	out := &DrainReport{}
	err := c.home.call(ctx, c.cfg.Timeout+o.Wait, request{method: http.MethodGet, path: Prefix + "/nodes" + seg(n) + "/drain", query: o.query(), out: out})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// CreateNodeToken makes a join token, shown once.
func (c *Client) CreateNodeToken(ctx context.Context, r NodeTokenRequest) (*NodeToken, error) {
	return one[NodeToken](ctx, c, http.MethodPost, "/nodes/tokens", r)
}

// Regions lists this region and its peers.
func (c *Client) Regions(ctx context.Context, o ListOptions) (*Page[RegionStatus], error) {
	return list[RegionStatus](ctx, c, "/regions", o)
}

// Region is one region.
func (c *Client) Region(ctx context.Context, r placement.RegionID) (*RegionStatus, error) {
	return one[RegionStatus](ctx, c, http.MethodGet, "/regions"+seg(r), nil)
}

// InviteRegion makes an invitation for a region of that name, shown once.
func (c *Client) InviteRegion(ctx context.Context, r placement.RegionID) (*Invitation, error) {
	return one[Invitation](ctx, c, http.MethodPost, "/regions"+seg(r)+"/invite", nil)
}

// JoinRegion answers an invitation; the fingerprint is the inviting region's,
// as the two operators compared it.
func (c *Client) JoinRegion(ctx context.Context, r JoinRegionRequest) (*JoinRegionResult, error) {
	return one[JoinRegionResult](ctx, c, http.MethodPost, "/regions/join", r)
}

// ApproveRegion pins a region that answered an invitation.
func (c *Client) ApproveRegion(ctx context.Context, r placement.RegionID, fingerprint string) (*RegionStatus, error) {
	return one[RegionStatus](ctx, c, http.MethodPost, "/regions"+seg(r)+"/approve", ApproveRequest{Fingerprint: fingerprint})
}

// LeaveRegion ends a federation; dead is the operator's word that the other
// side is gone.
func (c *Client) LeaveRegion(ctx context.Context, r placement.RegionID, dead bool) error {
	path := "/regions" + seg(r)
	if dead {
		path += "?dead=true"
	}
	return c.ask(ctx, http.MethodDelete, path, nil, nil)
}

// TrustPolicy is the policy that the region's operator hands to auditors; need is
// how many witnesses have to cosign, 0 for a majority of those possible.
func (c *Client) TrustPolicy(ctx context.Context, need int) (string, error) {
	q := url.Values{}
	if need > 0 {
		q.Set("quorum", strconv.Itoa(need))
	}
	res, err := c.home.send(ctx, request{method: http.MethodGet, path: Prefix + "/ledger/policy", query: q})
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, ledger.MaxPolicy+1))
	if err != nil {
		return "", fmt.Errorf("read the trust policy: %w", err)
	}
	if _, err := ledger.ParsePolicy(text); err != nil {
		return "", fmt.Errorf("the region's trust policy: %w", err)
	}
	return string(text), nil
}

// SetRegionPolicy sets the export and import rules, and outside witnesses.
func (c *Client) SetRegionPolicy(ctx context.Context, r RegionPolicyRequest) (*RegionStatus, error) {
	return one[RegionStatus](ctx, c, http.MethodPut, "/regions/policy", r)
}

// Tenants lists the tenants that were set.
func (c *Client) Tenants(ctx context.Context, o ListOptions) (*Page[state.Tenant], error) {
	return list[state.Tenant](ctx, c, "/tenants", o)
}

// SetTenant creates or changes a tenant.
func (c *Client) SetTenant(ctx context.Context, t state.Tenant) (*state.Tenant, error) {
	return one[state.Tenant](ctx, c, http.MethodPut, "/tenants"+seg(t.ID), t)
}

// LawPacks lists the law packs that the region holds.
func (c *Client) LawPacks(ctx context.Context, o ListOptions) (*Page[LawPackInfo], error) {
	return list[LawPackInfo](ctx, c, "/law", o)
}

// LawTables are the tables of one pack.
func (c *Client) LawTables(ctx context.Context, hash string) (*LawTables, error) {
	return one[LawTables](ctx, c, http.MethodGet, "/law"+seg(hash), nil)
}

// ImportLaw brings a pack into the region without activating it.
func (c *Client) ImportLaw(ctx context.Context, tables map[string][]byte) (*LawPackInfo, error) {
	return one[LawPackInfo](ctx, c, http.MethodPost, "/law", LawTables{Tables: tables})
}

// ActivateLaw makes a held pack the one that decides.
func (c *Client) ActivateLaw(ctx context.Context, hash string) (*LawPackInfo, error) {
	return one[LawPackInfo](ctx, c, http.MethodPost, "/law"+seg(hash)+"/activate", nil)
}

// Tokens lists the bearer tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context, o ListOptions) (*Page[state.Token], error) {
	return list[state.Token](ctx, c, "/tokens", o)
}

// CreateToken makes a bearer token; its secret is shown this once.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (*NewToken, error) {
	return one[NewToken](ctx, c, http.MethodPost, "/tokens", r)
}

// RevokeToken ends a token at once.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.ask(ctx, http.MethodDelete, "/tokens"+seg(id), nil, nil)
}

// JoinNode answers a join token: the client needs no bearer token, and a TLS
// configuration of [PinnedTLS]. A second use of a token is refused.
func (c *Client) JoinNode(ctx context.Context, r JoinRequest) (*JoinAnswer, error) {
	return one[JoinAnswer](ctx, c, http.MethodPost, "/nodes/join", r)
}

// DialJoin is a client for the region that a join token names, at the given
// one of its addresses.
func DialJoin(t identity.JoinToken, address string, cfg ClientConfig) (*Client, error) {
	cfg.Addr, cfg.Token, cfg.CA = "https://"+address, "", nil
	cfg.TLS = PinnedTLS(t.ServingPin, t.TrustDomain(), cfg.Now)
	return NewClient(cfg)
}

// Card is what the region says about itself to a region that it invited.
func (c *Client) Card(ctx context.Context) (*RegionCard, error) {
	return one[RegionCard](ctx, c, http.MethodGet, "/federation/bundle", nil)
}

// Federate answers an invitation at the inviting region.
func (c *Client) Federate(ctx context.Context, r FederationJoin) (*JoinRegionResult, error) {
	return one[JoinRegionResult](ctx, c, http.MethodPost, "/federation/join", r)
}

// Ready reports whether the node takes requests.
func (c *Client) Ready(ctx context.Context) error {
	err := c.home.call(ctx, c.cfg.Timeout, request{method: http.MethodGet, path: "/readyz"})
	var p *Problem
	if errors.As(err, &p) && p.Code == CodeInternal {
		p.Code = CodeUnavailable
	}
	return err
}
