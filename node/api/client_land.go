package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Submit lands a job. The client judges by itself, with the engine that every
// node runs, on the facts that its home pinned: if the body may come to home it
// goes there, else home is asked for a grant (it learns neither tag nor
// payload) and the body goes straight to a front door inside. No byte of a body
// leaves before the server has accepted its header, and no bearer token is
// shown to another region.
func (c *Client) Submit(ctx context.Context, job *JobFile, o SubmitOptions) (*Submitted, error) {
	if o.IdempotencyKey == "" {
		o.IdempotencyKey = newKey()
	}
	body, err := job.Body()
	if err != nil {
		return nil, fmt.Errorf("submit: %w", err)
	}
	me, dir, err := c.known(ctx)
	if err != nil {
		return nil, err
	}
	regions, _ := job.Tag.Names() // sites are known at home only, which judges them
	for _, name := range regions {
		if !slices.ContainsFunc(dir.Regions, func(r DirectoryRegion) bool { return string(r.Region) == name }) {
			return nil, unknownRegion(name)
		}
	}
	l, err := c.newLanding(ctx, job, me, dir)
	if err != nil {
		return nil, err
	}
	// What is unknown from here may be known at home, which has its sites' names:
	// home judges by the header, and asks for the body only if it may come.
	if here := l.court.enter(l.layers, nil); here.Verdict != residency.Refused {
		out, err := c.submitTo(ctx, c.home, job, body, o)
		var p *Problem
		if !errors.As(err, &p) || p.Code != CodeMisdirected {
			if out != nil {
				out.Landed = dir.Home
			}
			return out, err
		}
		l.only = doorRegions(p.Doors) // home knows better where; where is lawful is judged here
	}
	return c.land(ctx, l, job, body, o)
}

// What a client remembers for a stream of submits. Being wrong by so much is
// harmless: the server judges again, and home's own answer (421) is believed.
const (
	directoryFor = 2 * time.Second
	whoamiFor    = 30 * time.Second
)

// known is who the caller is and what home knows, asked for at most so often.
func (c *Client) known(ctx context.Context) (*Whoami, *Directory, error) {
	now := c.cfg.Now()
	c.mu.Lock()
	me, dir := c.me, c.directory
	if now.Sub(c.meAt) > whoamiFor {
		me = nil
	}
	if now.Sub(c.fetched) > directoryFor {
		dir = nil
	}
	c.mu.Unlock()
	var err error
	if me == nil {
		if me, err = c.Whoami(ctx); err != nil {
			return nil, nil, err
		}
		c.mu.Lock()
		c.me, c.meAt = me, now
		c.mu.Unlock()
	}
	if dir == nil {
		if dir, err = c.Directory(ctx); err != nil {
			return nil, nil, err
		}
	}
	return me, dir, nil
}

// landing is one submit on its way to a region.
type landing struct {
	court  court
	layers []placement.Layer
	found  finding
	only   []placement.RegionID // if not nil, the regions that home named
}

func (c *Client) newLanding(ctx context.Context, job *JobFile, me *Whoami, dir *Directory) (*landing, error) {
	atlas, err := c.atlasOf(ctx, dir)
	if err != nil {
		return nil, err
	}
	places := make([]place, 0, len(atlas.Regions))
	var home place
	for i, r := range atlas.Regions {
		at := place{Region: r, doors: dir.Regions[i].Doors, link: dir.Regions[i].Link, self: r.Self}
		if r.Self {
			home = at
		}
		places = append(places, at)
	}
	atlas.Law.On = residency.DateOf(c.cfg.Now())
	l := &landing{
		court:  court{law: atlas.Law, home: home},
		layers: []placement.Layer{{Origin: residency.OriginJob, Tag: job.Tag.Wire()}},
	}
	l.layers = placement.WithLayer(l.layers, residency.OriginToken, me.Residency)
	l.layers = placement.WithLayer(l.layers, residency.OriginTenant, me.TenantResidency)
	l.found = l.court.survey(l.layers, places)
	return l, nil
}

// land submits outside home: with a grant, at the first lawful region that
// takes it.
func (c *Client) land(ctx context.Context, l *landing, job *JobFile, body []byte, o SubmitOptions) (*Submitted, error) {
	var last error
	for _, at := range l.found.reachable() {
		if at.self || len(at.doors) == 0 || l.only != nil && !slices.Contains(l.only, at.ID) {
			continue
		}
		grant, err := c.Grant(ctx, GrantRequest{Audience: at.ID, PolicyHash: policyHash(job.Tag.Wire()), IdempotencyKey: o.IdempotencyKey})
		if err != nil {
			return nil, err
		}
		d, err := c.foreignDoor(at.ID, grant)
		if err != nil {
			return nil, err
		}
		out, err := c.submitTo(ctx, d, job, body, o)
		if err == nil {
			out.Landed, out.Granted = at.ID, true
			return out, nil
		}
		// Another region is tried only if this one surely did not accept it.
		if !surelyRefused(err) {
			return nil, err
		}
		last = err
	}
	if last != nil {
		return nil, last
	}
	return nil, l.court.refusal(l.layers, l.found)
}

// surelyRefused reports whether a submit certainly had no effect: an answer
// that refuses came, or no connection was made.
func surelyRefused(err error) bool {
	var p *Problem
	if !errors.As(err, &p) {
		return false
	}
	return residency.UnknownCode(p.Code) || p.Status == http.StatusMisdirectedRequest || p.Status == http.StatusForbidden || p.Status == http.StatusTooManyRequests
}

func doorRegions(doors []Door) []placement.RegionID {
	out := []placement.RegionID{}
	for _, d := range doors {
		out = append(out, d.Region)
	}
	return out
}

// submitTo sends the header, and the body once it is asked for.
func (c *Client) submitTo(ctx context.Context, d *door, job *JobFile, body []byte, o SubmitOptions) (*Submitted, error) {
	h := http.Header{}
	h.Set(HeaderResidency, job.Tag.Wire())
	h.Set(HeaderIdempotency, o.IdempotencyKey)
	h.Set("Expect", "100-continue")
	out := &Submitted{}
	err := d.call(ctx, c.cfg.Timeout, request{method: http.MethodPost, path: Prefix + "/jobs", header: h, in: body, out: &out.Job})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// foreignDoor is a front door of another region that a grant opens: verified by
// the serving CA that home pinned, and shown the grant, nothing else.
func (c *Client) foreignDoor(region placement.RegionID, g *Grant) (*door, error) {
	base, err := checkBase(g.URL)
	if err != nil {
		return nil, err
	}
	if len(g.CAPEM) == 0 {
		return nil, newProblem(http.StatusBadGateway, CodeGrant, "home gave a grant without the CA of "+string(region), "ask the operator to federate the two regions again")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := string(region) + " " + base + " " + g.CAPEM
	shared, ok := c.doors[key]
	if !ok {
		conf, err := tlsFor([]byte(g.CAPEM))
		if err != nil {
			return nil, err
		}
		shared = &door{region: region, base: base, http: c.httpClient(conf)}
		if len(c.doors) > 64 {
			clear(c.doors)
		}
		c.doors[key] = shared
	}
	return &door{region: region, base: base, others: c.otherDoors(region, base), http: shared.http, auth: GrantScheme + " " + g.Grant}, nil
}

// otherDoors are the region's front doors beside one, as home last listed them.
// The caller holds mu.
func (c *Client) otherDoors(region placement.RegionID, base string) (out []string) {
	if c.directory == nil {
		return nil
	}
	for _, r := range c.directory.Regions {
		if r.Region != region {
			continue
		}
		for _, url := range r.Doors {
			if other, err := checkBase(url); err == nil && other != base {
				out = append(out, other)
			}
		}
	}
	return out
}

// doorOf is where a job is read: home, or with a grant the region whose ledger
// accepted it.
func (c *Client) doorOf(ctx context.Context, id placement.JobID) (*door, error) {
	region, rest, ok := strings.Cut(string(id), ".")
	if !ok || rest == "" || !placement.ValidName(region) {
		return c.home, nil
	}
	home, err := c.homeRegion(ctx)
	if err != nil {
		return nil, err
	}
	if placement.RegionID(region) == home {
		return c.home, nil
	}
	c.mu.Lock()
	held, ok := c.grants[id]
	c.mu.Unlock()
	if ok && c.cfg.Now().Add(10*time.Second).Before(held.grant.ExpiresAt) {
		return held.door, nil
	}
	g, err := c.Grant(ctx, GrantRequest{Audience: placement.RegionID(region), Job: id})
	if err != nil {
		return nil, err
	}
	d, err := c.foreignDoor(placement.RegionID(region), g)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.grants) > 1024 {
		clear(c.grants)
	}
	c.grants[id] = cachedGrant{*g, d}
	return d, nil
}

func (c *Client) homeRegion(ctx context.Context) (placement.RegionID, error) {
	c.mu.Lock()
	dir := c.directory
	c.mu.Unlock()
	if dir == nil {
		var err error
		if dir, err = c.Directory(ctx); err != nil {
			return "", err
		}
	}
	return dir.Home, nil
}

func newKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
