package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// Region is a founded region and its agents.
type Region struct {
	Name        string
	Country     string
	Token       string // of its founder: every role
	CA          string // path of the file that its clients verify with
	Fingerprint string
	Agents      []*Agent

	world *World
}

// Found founds a region by `sovmesh region init` and starts its first agent.
func (w *World) Found(ctx context.Context, name, country string) (*Region, error) {
	r, err := w.Init(ctx, name, country)
	if err != nil {
		return nil, err
	}
	return r, r.Agents[0].Start(ctx)
}

// Init founds a region and starts nothing.
func (w *World) Init(ctx context.Context, name, country string) (*Region, error) {
	a, err := w.add(name, name+"-n1")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Config      string `json:"config"`
		CA          string `json:"ca"`
		TokenFile   string `json:"token_file"`
		Fingerprint string `json:"fingerprint"`
	}
	err = w.ask(ctx, nil, &doc, "region", "init", name, "--country", country, "--operator", "operator of "+name,
		"--operator-home", country, "--operator-parent", "none", "--assurance", "location=documented", "--assurance", "operator=documented",
		"--node", a.Name, "--data", a.Data, "--listen", a.Addr)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(doc.TokenFile)
	if err != nil {
		return nil, err
	}
	a.Config = doc.Config
	if err := w.share(a.Config); err != nil {
		return nil, err
	}
	return &Region{
		Name: name, Country: country, Token: strings.TrimSpace(string(token)), CA: doc.CA, Fingerprint: doc.Fingerprint,
		Agents: []*Agent{a}, world: w,
	}, nil
}

// Grow lets nodes join by real join tokens, one after the other, until the
// region has n, and returns once each of them takes requests.
func (r *Region) Grow(ctx context.Context, n int) error {
	for len(r.Agents) < n {
		a, err := r.world.add(r.Name, fmt.Sprintf("%s-n%d", r.Name, len(r.Agents)+1))
		if err != nil {
			return err
		}
		var made api.NodeToken
		if err := r.world.ask(ctx, r.Environment(r.Agents[0]), &made, "node", "token", "create", "--name", a.Name); err != nil {
			return err
		}
		config := fmt.Sprintf("node: %s\ndata: %s\nlisten: %s\njoin: %s\n", a.Name, a.Data, a.Addr, made.Token)
		if err := errors.Join(os.WriteFile(a.Config, []byte(config), 0o600), r.world.share(a.Config)); err != nil {
			return err
		}
		r.Agents = append(r.Agents, a)
		if err := a.Start(ctx); err != nil {
			return err
		}
	}
	return r.Whole(ctx)
}

// votersMax is how many nodes of a region vote unless it was told otherwise.
const votersMax = 3

// Whole returns once the region has a leader, every agent of it is in contact,
// and the first three vote. Before that a region of three may be one of two
// voters, which stands the loss of none. That a node votes shows in its data
// directory: the region's keys are handed to members of the raft configuration
// only.
func (r *Region) Whole(ctx context.Context) error {
	c, err := r.Client(r.Agents[0])
	if err != nil {
		return err
	}
	defer c.Close()
	return Until(ctx, func(ctx context.Context) string {
		nodes, err := c.Nodes(ctx, api.ListOptions{})
		if err != nil {
			return err.Error()
		}
		well := 0
		for _, n := range nodes.Items {
			if n.Contact == placement.ContactAlive && n.Inventory.Reported.Unix() > 0 && len(n.Inventory.Drivers) > 0 {
				well++
			}
		}
		if well < len(r.Agents) {
			return fmt.Sprintf("%d of %d nodes of %s are in contact", well, len(r.Agents), r.Name)
		}
		for _, a := range r.Agents[:min(len(r.Agents), votersMax)] {
			if _, err := os.Stat(filepath.Join(a.Data, "ca.pem")); err != nil {
				return fmt.Sprintf("%s does not vote yet: %v", a.Name, err)
			}
		}
		return ""
	})
}

// Environment makes the command line speak to an agent of the region, as its
// founder.
func (r *Region) Environment(a *Agent) []string {
	return []string{"SOVMESH_ADDR=" + a.API, "SOVMESH_TOKEN=" + r.Token, "SOVMESH_CA=" + r.CA}
}

// Run runs the command line against an agent of the region.
func (r *Region) Run(ctx context.Context, a *Agent, input string, args ...string) (Result, error) {
	return r.world.Command(ctx, r.Environment(a), input, args...)
}

// Client is a client of one agent, as the region's founder.
func (r *Region) Client(a *Agent) (*api.Client, error) {
	ca, err := os.ReadFile(r.CA)
	if err != nil {
		return nil, err
	}
	return api.NewClient(api.ClientConfig{Addr: a.API, Token: r.Token, CA: ca})
}

// Leader is the agent that leads the region, once one does.
func (r *Region) Leader(ctx context.Context) (*Agent, error) {
	var found *Agent
	clients := make([]*api.Client, len(r.Agents))
	for i, a := range r.Agents {
		c, err := r.Client(a)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		clients[i] = c
	}
	err := Until(ctx, func(ctx context.Context) string {
		why := "no agent of " + r.Name + " leads"
		for i, a := range r.Agents {
			if a.PID() == 0 || !Running(a.PID()) {
				continue
			}
			n, err := clients[i].Node(ctx, placement.NodeID(a.Name))
			switch {
			case err != nil:
				why = err.Error()
			case n.Leader:
				found = a
				return ""
			}
		}
		return why
	})
	return found, err
}

// Others are the region's agents but one.
func (r *Region) Others(but *Agent) []*Agent {
	var out []*Agent
	for _, a := range r.Agents {
		if a != but {
			out = append(out, a)
		}
	}
	return out
}

// Federate joins two regions as their operators do, with the command line: one
// invites, the other joins, the first approves; each confirms the fingerprint
// that founding the other region showed. It returns once both are in contact.
func (w *World) Federate(ctx context.Context, a, b *Region) error {
	var invitation api.Invitation
	if err := w.ask(ctx, a.Environment(a.Agents[0]), &invitation, "region", "invite", b.Name); err != nil {
		return err
	}
	var joined api.JoinRegionResult
	if err := w.ask(ctx, b.Environment(b.Agents[0]), &joined, "region", "join", "--code", invitation.Code, "--confirm-fingerprint", a.Fingerprint); err != nil {
		return err
	}
	var approved api.RegionStatus
	if err := w.ask(ctx, a.Environment(a.Agents[0]), &approved, "region", "approve", b.Name, "--confirm-fingerprint", b.Fingerprint); err != nil {
		return err
	}
	return errors.Join(a.sees(ctx, b), b.sees(ctx, a))
}

// sees returns once every running agent of the region is in contact with the
// other region.
func (r *Region) sees(ctx context.Context, other *Region) error {
	for _, a := range r.Agents {
		c, err := r.Client(a)
		if err != nil {
			return err
		}
		defer c.Close()
		err = Until(ctx, func(ctx context.Context) string {
			s, err := c.Region(ctx, placement.RegionID(other.Name))
			switch {
			case err != nil:
				return a.Name + ": " + err.Error()
			case s.Link != api.LinkUp || s.Summary == nil:
				return fmt.Sprintf("%s has link %s to %s", a.Name, s.Link, other.Name)
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}
