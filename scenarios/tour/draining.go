package tour

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// draining empties a node of Germany.
func draining() []step {
	return []step{
		{"a drain is planned: every task's fate, and the one job that may not move", "sovmesh --context ber-1 node drain ber-1-n1 --plan", (*player).planDrain},
		{"the drain moves work inside its tag, each replacement before its stop", "sovmesh --context ber-1 node drain ber-1-n1", (*player).drain},
	}
}

const (
	drained  = placement.NodeID("ber-1-n1")
	pinned   = "vault"
	movables = 6
)

// planDrain first gives the node work: services of Germany, and one whose tag
// names this node's site.
func (p *player) planDrain(ctx context.Context) (string, error) {
	texts := []string{fmt.Sprintf(`{name: %s, kind: process, type: service, residency: "site:ber-1-site1", command: [/bin/sleep, "3600"]}`, pinned)}
	for i := range movables {
		texts = append(texts, fmt.Sprintf(`{name: web-%d, kind: process, type: service, residency: DE, command: [/bin/sleep, "3600"]}`, i+1))
	}
	for _, text := range texts {
		s, err := submit(ctx, p.de, text)
		if err != nil {
			return "", err
		}
		if _, err := until(ctx, p.de, s.Job.ID, is(placement.JobRunning)); err != nil {
			return "", err
		}
	}
	plan, err := p.de.PlanDrain(ctx, drained, api.DrainRequest{})
	if err != nil {
		return "", err
	}
	var moves, blocked []api.DrainTask
	for _, t := range plan.Tasks {
		switch t.Fate {
		case "move":
			moves = append(moves, t)
		case "blocked":
			blocked = append(blocked, t)
		}
	}
	if len(blocked) != 1 || plan.Blockers != 1 || blocked[0].Name != pinned || len(moves) == 0 {
		return "", fmt.Errorf("the plan moves %d, and %d are blocked: %+v", len(moves), plan.Blockers, plan.Tasks)
	}
	for _, t := range moves {
		if t.To == "" || t.To == drained {
			return "", fmt.Errorf("%s would move to %q", t.Name, t.To)
		}
	}
	return fmt.Sprintf("%d would move, first %s to %s; %s may not: %s", len(moves), moves[0].Name, moves[0].To, blocked[0].Name, blocked[0].Reason), nil
}

func (p *player) drain(ctx context.Context) (string, error) {
	before, err := p.de.Node(ctx, drained)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if _, err := p.de.Drain(ctx, drained, api.DrainRequest{Reason: "the tour"}); err != nil {
		return "", err
	}
	err = eventually(ctx, 20*time.Second, func() error {
		now, err := p.de.DrainStatus(ctx, drained, api.ListOptions{})
		if err != nil {
			return err
		}
		if len(now.Tasks) != 1 || now.Blockers != 1 || now.Tasks[0].Name != pinned {
			return fmt.Errorf("%d tasks are left, %d of them blocked", len(now.Tasks), now.Blockers)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	took := time.Since(begin)
	moved := 0
	for _, t := range before.Tasks {
		if !t.Status.Live() {
			continue
		}
		at, err := p.moved(ctx, t)
		if err != nil {
			return "", err
		}
		if at != drained {
			moved++
		}
	}
	if moved == 0 {
		return "", errors.New("nothing has moved")
	}
	_, err = p.de.Resume(ctx, drained)
	return fmt.Sprintf("%d services moved within Germany in %s, without a gap; %s runs on where its tag keeps it; the node was resumed", moved, ms(took), pinned), err
}

// moved is where a task's job runs now. A replacement must have run before the
// old task ended.
func (p *player) moved(ctx context.Context, old placement.Task) (placement.NodeID, error) {
	j, err := p.de.Job(ctx, old.Job)
	if err != nil {
		return "", err
	}
	if j.Status != placement.JobRunning || j.Region != germany {
		return "", fmt.Errorf("%s is %s in %s", j.Name, j.Status, j.Region)
	}
	why, err := p.de.Explain(ctx, old.Job)
	if err != nil || j.Name == pinned {
		return j.Node, err
	}
	for _, next := range why.Tasks {
		if next.Replaces != old.ID {
			continue
		}
		for _, t := range why.Tasks {
			if t.ID == old.ID && !t.EndedAt.IsZero() && t.EndedAt.Before(next.StartedAt) {
				return "", fmt.Errorf("%s stopped %s before its replacement ran", j.Name, ms(next.StartedAt.Sub(t.EndedAt)))
			}
		}
	}
	return j.Node, nil
}
