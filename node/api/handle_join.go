package api

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// createNodeToken makes a join token. The ledger keeps its hash alone.
func createNodeToken(s *Server, c *call) error {
	var in NodeTokenRequest
	if err := c.readOptional(&in); err != nil {
		return err
	}
	a, err := s.authority()
	if err != nil {
		return err
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	t, err := identity.NewJoinToken(a.Bundle(), in.Node, appAddresses(v), s.now(), JoinTokenLife)
	if err != nil {
		return &InputError{Code: CodeBody, Message: err.Error(), Help: "name the node with lower-case letters, digits and hyphens"}
	}
	hash := t.Hash()
	if _, _, err := c.propose(state.CreateJoinToken{Hash: hex.EncodeToString(hash[:]), Node: in.Node, Expires: t.Expires}, c.caller.Actor); err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, NodeToken{Token: t.Encode(), Node: in.Node, ExpiresAt: t.Expires})
}

// appAddresses are host:port of the app listeners of the voters.
func appAddresses(v *state.View) []string {
	var out []string
	for _, n := range v.Nodes() {
		u, err := url.Parse(n.API)
		if err == nil && u.Host != "" && n.Role == placement.RoleVoter && len(out) < 8 {
			out = append(out, u.Host)
		}
	}
	return out
}

// joinNode admits a node by its token. The certificate is issued only after
// the command that consumes the token was committed, so a token that is shown
// twice, to whichever voter, admits one node.
func joinNode(s *Server, c *call) error {
	var in JoinRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	t, err := identity.ParseJoinToken(in.Token)
	if err != nil {
		return newProblem(http.StatusUnauthorized, "token.invalid", err.Error(), "copy the token whole, or create a new one: sovmesh node token create")
	}
	if err := s.checkJoin(t, in); err != nil {
		return err
	}
	a, err := s.authority()
	if err != nil {
		return err
	}
	hash := t.Hash()
	if !c.view.JoinTokenValid(hex.EncodeToString(hash[:]), s.now()) {
		if _, err := s.fresh(c.r.Context()); err != nil { // it may be newer than this node's state
			return err
		}
		// Anybody may knock here: who holds no open token costs the ledger nothing.
		if !s.cfg.Ledger.View().JoinTokenValid(hex.EncodeToString(hash[:]), s.now()) {
			return newProblem(http.StatusUnauthorized, "token.spent", "this join token was used already, has expired, or never existed", "create a new one: sovmesh node token create")
		}
	}
	if err := ownHosts(s.cfg.Ledger.View(), in.Node, placement.HostOf(in.API), in.Hosts); err != nil {
		return err
	}
	node := placement.Node{ID: in.Node, Site: in.Site, QUIC: in.QUIC, API: in.API, Inventory: in.Inventory}
	if _, _, err := c.propose(state.JoinNode{TokenHash: hex.EncodeToString(hash[:]), Node: node}, "node:"+string(in.Node)); err != nil {
		return err
	}
	out, err := s.certify(c, a, in)
	if err != nil {
		return err
	}
	s.cfg.Log.Info("a node joined", "node", in.Node, "role", out.Role)
	return c.writeJSON(http.StatusCreated, out)
}

func (s *Server) checkJoin(t identity.JoinToken, in JoinRequest) error {
	switch {
	case t.Region != s.cfg.Region || t.Mesh != s.cfg.Mesh:
		return newProblem(http.StatusUnauthorized, "token.foreign", "the join token is for region "+string(t.Region)+", and this is "+string(s.cfg.Region), "join at the addresses that the token names")
	case t.Expired(s.now()):
		return newProblem(http.StatusUnauthorized, CodeExpiredToken, "the join token expired", "create a new one: sovmesh node token create")
	case !placement.ValidName(string(in.Node)):
		return &InputError{Code: CodeBody, Message: quoteWord(string(in.Node)) + " cannot name a node", Help: "use lower-case letters, digits and hyphens"}
	case t.Node != "" && t.Node != in.Node:
		return newProblem(http.StatusUnauthorized, "token.name", fmt.Sprintf("the join token admits node %s, not %s", t.Node, in.Node), "join with that name")
	case len(in.CSR) == 0 || len(in.ServingCSR) == 0 || len(in.Hosts) == 0:
		return &InputError{Code: CodeBody, Message: "the join has no certificate requests, or no hosts", Help: "send csr, serving_csr and hosts"}
	case !strings.HasPrefix(in.API, "https://") || in.QUIC == "":
		return &InputError{Code: CodeBody, Message: "the join names no addresses", Help: "send quic as host:port and api as https://host:port"}
	}
	return nil
}

// certify gives an admitted node all that it needs to speak.
func (s *Server) certify(c *call, a Authority, in JoinRequest) (*JoinAnswer, error) {
	ctx := c.r.Context()
	chain, serial, notAfter, err := a.IssueNode(ctx, in.CSR, in.Node)
	if err != nil {
		return nil, &InputError{Code: CodeBody, Message: "the certificate request is not acceptable: " + err.Error(), Help: "make a fresh ECDSA P-256 key; the node's name is free again after: sovmesh node remove " + string(in.Node)}
	}
	serving, err := a.IssueServing(ctx, in.ServingCSR, in.Hosts)
	if err != nil {
		return nil, &InputError{Code: CodeBody, Message: "the serving certificate request is not acceptable: " + err.Error(), Help: "send DNS names and IP addresses as hosts"}
	}
	_, v, err := c.propose(state.IssueCertificate{Node: in.Node, Serial: serial, NotAfter: notAfter, SHA256: digestOf(chain)}, "node:"+string(in.Node))
	if err != nil {
		return nil, err
	}
	bundle, err := a.Bundle().Marshal()
	if err != nil {
		return nil, err
	}
	out := &JoinAnswer{
		Region: s.cfg.Region, Mesh: s.cfg.Mesh, Chain: chain, ServingChain: serving, Bundle: bundle,
		ServingCA: a.ServingCA(), Keyring: a.Keyring(), Voters: []NodeAddress{}, Index: v.Index(),
	}
	for _, n := range v.Nodes() {
		if n.ID == in.Node {
			out.Role = n.Role
		} else if n.Role != placement.RoleWorker {
			out.Voters = append(out.Voters, NodeAddress{Node: n.ID, Role: n.Role, QUIC: n.QUIC, API: n.API})
		}
	}
	return out, nil
}
