package tour

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// placing is where jobs go.
func placing() []step {
	return []step{
		{"a job tagged DE, submitted in France, runs in Germany", "sovmesh --context fra-1 job run (residency: DE) --wait", (*player).direct},
		{"an EU job runs near", "sovmesh --context fra-1 job run (residency: EU) --wait", (*player).near},
		{"an EU job that only Germany has the devices for is forwarded there", "sovmesh --context fra-1 job run (residency: EU, gpu_model: H200) --wait", (*player).forwarded},
		{"ANY,!US never reaches the US", "sovmesh --context REGION job run (residency: ANY,!US) --wait, twice in each region", (*player).notAmerica},
		{"Europe is no place in law", "sovmesh residency explain Europe", (*player).europe},
	}
}

// direct: home is France; it gives a grant and never sees the body.
func (p *player) direct(ctx context.Context) (string, error) {
	word := secret()
	s, j, err := run(ctx, p.fr, fmt.Sprintf(`{kind: process, residency: DE, command: [/bin/sh, -c, "echo $WORD"], env: {WORD: %s}}`, word))
	if err != nil {
		return "", err
	}
	if s.Landed != germany || !s.Granted || j.Region != germany || j.Hops != 0 {
		return "", fmt.Errorf("it landed in %s (granted %v), ran in %s after %d hops", s.Landed, s.Granted, j.Region, j.Hops)
	}
	text, err := output(ctx, p.fr, j.ID)
	if err != nil || text != word+"\n" {
		return "", fmt.Errorf("its output was %q, error %v", text, err)
	}
	if err := p.foundIn(germany, word); err != nil {
		return "", err
	}
	if err := p.notFoundIn(france, word); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s in %s; the body went there directly, with a grant: Germany's disks hold it, no file of the French nodes does", j.Status, j.Region), nil
}

func (p *player) near(ctx context.Context) (string, error) {
	s, j, err := run(ctx, p.fr, `{kind: process, residency: EU, command: [/bin/true]}`)
	if err != nil {
		return "", err
	}
	if s.Landed != france || j.Region != france || j.Hops != 0 {
		return "", fmt.Errorf("it landed in %s and ran in %s", s.Landed, j.Region)
	}
	return fmt.Sprintf("%s in %s, on %s, %d hops", j.Status, j.Region, j.Node, j.Hops), nil
}

func (p *player) forwarded(ctx context.Context) (string, error) {
	s, j, err := run(ctx, p.fr, `{kind: process, residency: EU, resources: {gpus: 1, gpu_model: H200}, command: [/bin/echo, trained]}`)
	if err != nil {
		return "", err
	}
	if s.Landed != france || j.EntryRegion != france || j.Region != germany || j.Hops != 1 {
		return "", fmt.Errorf("it entered %s, ran in %s after %d hops", j.EntryRegion, j.Region, j.Hops)
	}
	text, err := output(ctx, p.fr, j.ID)
	if err != nil || text != "trained\n" {
		return "", fmt.Errorf("its output, read in France, was %q, error %v", text, err)
	}
	return fmt.Sprintf("entered %s, ran in %s over QUIC, %d hop; its output was read in France", j.EntryRegion, j.Region, j.Hops), nil
}

func (p *player) notAmerica(ctx context.Context) (string, error) {
	word := secret()
	ran := map[placement.RegionID]int{}
	for _, c := range []*api.Client{p.us, p.fr, p.de, p.us, p.fr, p.de} {
		s, j, err := run(ctx, c, fmt.Sprintf(`{kind: process, residency: "ANY,!US", command: [/bin/true], env: {WORD: %s}}`, word))
		if err != nil {
			return "", err
		}
		if s.Landed == america || j.Region == america {
			return "", fmt.Errorf("job %s landed in %s and ran in %s", j.ID, s.Landed, j.Region)
		}
		ran[j.Region]++
	}
	if err := p.notFoundIn(america, word); err != nil {
		return "", err
	}
	return fmt.Sprintf("six jobs, two of them submitted in the US: %d ran in France, %d in Germany; no file of the American nodes holds a word of them", ran[france], ran[germany]), nil
}

// europe is refused twice: by the engine in the client, and by a node that is
// asked all the same.
func (p *player) europe(ctx context.Context) (string, error) {
	_, err := read(`{kind: process, residency: Europe, command: [/bin/true]}`)
	var bad *residency.Error
	if !errors.As(err, &bad) || !strings.Contains(bad.Help+bad.Message, "EEA") {
		return "", fmt.Errorf("the client said: %v", err)
	}
	status, body, err := p.rawSubmit(ctx, p.mesh.Nodes(france)[0], raw{tag: "Europe", expect: true, body: `{}`})
	if err != nil {
		return "", err
	}
	if status != 400 || !strings.Contains(body, "EEA") {
		return "", fmt.Errorf("a node answered %d %s", status, body)
	}
	return fmt.Sprintf("refused by the client and, with 400, by a node: %s; %s", bad.Message, bad.Help), nil
}
