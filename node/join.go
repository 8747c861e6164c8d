package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Join makes the node a member of the region that its join token names, and
// fills the empty data directory with what the region gave it. The token is
// spent by a raft command there: a second use is refused. A directory that
// already has an identity is left as it is.
func Join(ctx context.Context, cfg Config, deps Deps) error {
	dir := dataDir(cfg.Data)
	if _, ok, err := dir.whoami(); err != nil || ok {
		return err
	}
	if cfg.Join == "" {
		return &api.InputError{
			Code: "input.join", Message: cfg.Data + " is empty and no join token was given",
			Help: fmt.Sprintf("make one on a voter with: sovmesh node token create --name %s, or found a region with: sovmesh region init", cfg.Node),
		}
	}
	token, err := identity.ParseJoinToken(cfg.Join)
	if err != nil {
		return &api.InputError{Code: "input.join", Message: "the join token cannot be read: " + err.Error(), Help: "copy all of it, without line breaks; or make another one: sovmesh node token create"}
	}
	if err := mayJoin(token, cfg.Node, deps.now()); err != nil {
		return err
	}
	keys, err := newKeys()
	if err != nil {
		return err
	}
	inventory := takeInventory(ctx, cfg, deps, 1)
	inventory.Devices = firstDevices(ctx, deps)
	answer, err := askToJoin(ctx, token, deps, api.JoinRequest{
		Token: token.Encode(), Node: cfg.Node, CSR: keys.nodeCSR, ServingCSR: keys.servingCSR, Hosts: cfg.hosts(),
		QUIC: cfg.QUIC, API: cfg.API, Site: cfg.Site, Inventory: inventory,
	})
	if err != nil {
		return err
	}
	return admit(dir, token, cfg.Node, keys, answer)
}

// mayJoin refuses here already what the region would refuse, in its words.
func mayJoin(token identity.JoinToken, node placement.NodeID, now time.Time) error {
	again := "make another one: sovmesh node token create --name " + string(node)
	switch {
	case token.Node != "" && token.Node != node:
		return &api.Problem{Status: http.StatusUnauthorized, Code: "token.name", Detail: fmt.Sprintf("the join token is for node %s, this one is called %s", token.Node, node), Advice: "give the node that name, or " + again}
	case token.Expired(now):
		return &api.Problem{Status: http.StatusUnauthorized, Code: api.CodeExpiredToken, Detail: "the join token expired at " + token.Expires.Format("15:04:05 MST"), Advice: again}
	}
	return nil
}

// askToJoin tries the token's addresses in turn. Only an address that did not
// answer is followed by another: a refusal is final.
func askToJoin(ctx context.Context, token identity.JoinToken, deps Deps, req api.JoinRequest) (*api.JoinAnswer, error) {
	var errs []error
	for _, address := range token.Addresses {
		client, err := api.DialJoin(token, address, api.ClientConfig{Dial: deps.Dial, Now: deps.Now})
		if err != nil {
			return nil, err
		}
		answer, err := client.JoinNode(ctx, req)
		client.Close()
		if err == nil {
			return answer, nil
		}
		var problem *api.Problem
		if errors.As(err, &problem) && problem.Status < 500 {
			return nil, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return nil, fmt.Errorf("no voter of %s let this node join: %w", token.Region, errors.Join(errs...))
}

// admit checks that the answer comes from the region that the token pins and
// keeps it.
func admit(dir dataDir, token identity.JoinToken, node placement.NodeID, keys keys, a *api.JoinAnswer) error {
	bundle, err := identity.ParseBundle(a.Bundle, bundleMax)
	if err != nil {
		return err
	}
	if err := token.CheckBundle(bundle); err != nil {
		return err
	}
	cred, serving, err := keys.certified(a.Chain, a.ServingChain)
	if err != nil {
		return err
	}
	if want := (identity.ID{Region: token.Region, Mesh: token.Mesh, Node: node}); cred.ID != want {
		return fmt.Errorf("the region certified %s, not %s; do not trust it, and ask its operator", cred.ID, want)
	}
	return firstError(
		storeCertificates(dir, cred, serving),
		dir.writeJSON(fileKeyring, api.Keyring{Keys: a.Keyring}),
		dir.writeJSON(fileBundles, map[string][]byte{bundle.TrustDomain: a.Bundle}),
		dir.writeJSON(fileIdentity, whoami{Version: 1, Region: token.Region, Mesh: token.Mesh, Node: node, Role: a.Role, Voters: a.Voters}),
	)
}
