package tour

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/scenarios/devmesh"
)

// losing takes the leader of a region away while jobs come in.
func losing() []step {
	return []step{
		{"the leader of France is lost while submits go on", "(its sockets close without a goodbye) sovmesh --context fra-1 job run ..., one after the other", (*player).loseLeader},
	}
}

// submitWithin is the patience of a client.
const submitWithin = 10 * time.Second

func (p *player) loseLeader(ctx context.Context) (string, error) {
	lead, other, err := leaderOf(p.mesh.Nodes(france))
	if err != nil {
		return "", err
	}
	c, err := p.client(other)
	if err != nil {
		return "", err
	}
	var accepted []placement.JobID
	var slowest time.Duration
	after := 0 // accepted since the leader was lost
	for after < 25 {
		if len(accepted) == 25 {
			if err := p.mesh.Kill(lead); err != nil {
				return "", err
			}
		}
		one, cancel := context.WithTimeout(ctx, submitWithin)
		begin := time.Now()
		s, err := submit(one, c, `{kind: process, residency: FR, command: [/bin/true]}`)
		cancel()
		if err != nil {
			return "", fmt.Errorf("submit %d failed after %s: %w", len(accepted)+1, ms(time.Since(begin)), err)
		}
		slowest = max(slowest, time.Since(begin))
		accepted = append(accepted, s.Job.ID)
		if len(accepted) > 25 {
			after++
		}
	}
	p.fr, p.home = c, other // the tour's French client had the lost node as its own, perhaps
	if err := p.kept(ctx, c, accepted); err != nil {
		return "", err
	}
	begin := time.Now()
	if err := p.mesh.Restart(ctx, lead); err != nil {
		return "", err
	}
	err = eventually(ctx, 20*time.Second, func() error {
		n, err := c.Node(ctx, lead.Name)
		if err == nil && n.Contact != placement.ContactAlive {
			err = fmt.Errorf("%s is %s", lead.Name, n.Contact)
		}
		return err
	})
	return fmt.Sprintf("%s was lost after 25 submits; all %d were accepted, the slowest in %s; none is missing, none ran twice; it is back after %s", lead.Name, len(accepted), ms(slowest), ms(time.Since(begin))), err
}

// kept checks that every accepted job is known, and was started once at most.
func (p *player) kept(ctx context.Context, c *api.Client, accepted []placement.JobID) error {
	for _, id := range accepted {
		why, err := c.Explain(ctx, id)
		if err != nil {
			return fmt.Errorf("an accepted job is missing: %w", err)
		}
		if len(why.Tasks) > 1 {
			return fmt.Errorf("job %s has %d tasks", id, len(why.Tasks))
		}
	}
	return nil
}

// leaderOf is the node that leads, and one that does not.
func leaderOf(nodes []*devmesh.Node) (lead, other *devmesh.Node, err error) {
	for _, n := range nodes {
		if n.Leads() {
			lead = n
		} else {
			other = n
		}
	}
	if lead == nil || other == nil {
		return nil, nil, errors.New("no node leads")
	}
	return lead, other, nil
}
