package tour

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// cutting takes Germany off the network of the others.
func cutting() []step {
	return []step{
		{"Germany is cut off: France answers unknown in under a second", "(all packets between ber-1 and the others vanish) sovmesh --context fra-1 job check (residency: DE)", (*player).cut},
		{"both sides of the cut keep working", "sovmesh --context fra-1 job run (residency: FR) --wait; sovmesh --context ber-1 job run (residency: DE) --wait", (*player).bothSides},
		{"the border opens again: what was unknown is known", "sovmesh --context fra-1 region list", (*player).heal},
	}
}

// limit is how fast a node must say that it does not know.
const limit = time.Second

func (p *player) cut(ctx context.Context) (string, error) {
	// A long job that went there first: the cut must not end it.
	s, err := submit(ctx, p.fr, `{name: training, kind: process, residency: EU, resources: {gpus: 1, gpu_model: H200}, command: [/bin/sleep, "3600"]}`)
	if err != nil {
		return "", err
	}
	if _, err := until(ctx, p.fr, s.Job.ID, func(j *placement.Job) bool { return j.Status == placement.JobRunning && j.Region == germany }); err != nil {
		return "", err
	}
	p.mesh.Cut(germany, true)
	job, err := read(`{kind: process, residency: DE, command: [/bin/true]}`)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	report, err := p.fr.Check(ctx, job)
	took := time.Since(begin)
	if err != nil {
		return "", err
	}
	if report.Answer != api.CheckUnknown || took > limit {
		return "", fmt.Errorf("the check said %s (%s) after %s", report.Answer, report.Reason, ms(took))
	}
	err = eventually(ctx, 10*time.Second, func() error { return p.link(ctx, germany, api.LinkUnknown) })
	if err != nil {
		return "", err
	}
	fresh, err := p.client(p.mesh.Nodes(france)[0]) // each sovmesh that is typed is one
	if err != nil {
		return "", err
	}
	begin = time.Now()
	_, err = fresh.Submit(ctx, job, api.SubmitOptions{})
	submitted := time.Since(begin)
	if api.CodeOf(err) != api.CodePeerUnknown || submitted > limit {
		return "", fmt.Errorf("a submit said %v after %s", err, ms(submitted))
	}
	if _, err := until(ctx, p.fr, s.Job.ID, is(placement.JobUnknown)); err != nil {
		return "", err
	}
	return fmt.Sprintf("job check: %s after %s; job run: %s after %s; the job that runs there is unknown, not gone", report.Answer, ms(took), api.CodeOf(err), ms(submitted)), nil
}

// link reports whether France sees a region as wanted.
func (p *player) link(ctx context.Context, r placement.RegionID, want string) error {
	got, err := p.fr.Region(ctx, r)
	if err == nil && got.Link != want {
		err = fmt.Errorf("France sees %s as %s", r, got.Link)
	}
	return err
}

func (p *player) bothSides(ctx context.Context) (string, error) {
	_, here, err := run(ctx, p.fr, `{kind: process, residency: FR, command: [/bin/true]}`)
	if err != nil {
		return "", fmt.Errorf("in France: %w", err)
	}
	_, there, err := run(ctx, p.de, `{kind: process, residency: DE, command: [/bin/true]}`)
	if err != nil {
		return "", fmt.Errorf("in Germany: %w", err)
	}
	jobs, err := p.de.Jobs(ctx, api.ListOptions{Status: placement.JobRunning})
	if err != nil {
		return "", err
	}
	kept := 0
	for _, j := range jobs.Items {
		if j.Origin == france && j.Name == "training" || j.ID == p.model {
			kept++
		}
	}
	if kept != 2 {
		return "", fmt.Errorf("of France's two running jobs Germany runs %d", kept)
	}
	return fmt.Sprintf("%s in %s and %s in %s; what Germany runs for France goes on", here.Status, here.Region, there.Status, there.Region), nil
}

func (p *player) heal(ctx context.Context) (string, error) {
	p.mesh.Cut(germany, false)
	begin := time.Now()
	if err := eventually(ctx, 20*time.Second, func() error { return p.link(ctx, germany, api.LinkUp) }); err != nil {
		return "", err
	}
	up := time.Since(begin)
	jobs, err := p.fr.Jobs(ctx, api.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, j := range jobs.Items {
		if j.Name != "training" {
			continue
		}
		if _, err := until(ctx, p.fr, j.ID, is(placement.JobRunning)); err != nil {
			return "", err
		}
		if _, err := p.fr.StopJob(ctx, j.ID, "the tour goes on"); err != nil {
			return "", err
		}
		_, err := until(ctx, p.fr, j.ID, is(placement.JobStopped))
		return fmt.Sprintf("the link is up after %s; the job is running again as France sees it, and was stopped from there", ms(up)), err
	}
	return "", errors.New("France has forgotten the job")
}
