package tour

import (
	"context"
	"fmt"

	"github.com/sovmesh/sovmesh/node/api"
)

// ruling is what a region's operator decides for all of its jobs.
func ruling() []step {
	return []step{
		{"a region's export rule holds for every job", "sovmesh --context fra-1 region policy --export FR", (*player).exportRule},
	}
}

func (p *player) exportRule(ctx context.Context) (string, error) {
	job, err := read(`{kind: process, residency: DE, command: [/bin/true]}`)
	if err != nil {
		return "", err
	}
	if r, err := p.fr.Check(ctx, job); err != nil || r.Answer != api.CheckPlaceable {
		return "", fmt.Errorf("before the rule a job tagged DE is %+v, error %v", r, err)
	}
	rule, none := "FR", ""
	if _, err := p.fr.SetRegionPolicy(ctx, api.RegionPolicyRequest{Export: &rule}); err != nil {
		return "", err
	}
	// Each sovmesh that is typed is a client of its own; one that stays goes by
	// what it knows for a moment.
	under, err := p.client(p.home)
	if err != nil {
		return "", err
	}
	_, refused := under.Submit(ctx, job, api.SubmitOptions{})
	_, err = p.fr.SetRegionPolicy(ctx, api.RegionPolicyRequest{Export: &none})
	if err != nil {
		return "", err
	}
	if api.ExitOf(refused) != api.ExitNotLawful {
		return "", fmt.Errorf("under the rule a job tagged DE, submitted in France, was answered: %v", refused)
	}
	without, err := p.client(p.home)
	if err != nil {
		return "", err
	}
	if _, _, err := run(ctx, without, `{kind: process, residency: DE, command: [/bin/true]}`); err != nil {
		return "", fmt.Errorf("after the rule: %w", err)
	}
	return fmt.Sprintf("under it a job tagged DE does not leave France (%s, exit 20: %s); without it, it runs in Germany", api.CodeOf(refused), refused), nil
}
