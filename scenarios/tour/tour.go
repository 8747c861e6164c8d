// Package tour plays a tour on a running mesh and checks every step of it: it
// is the demonstration, and a test of the whole from outside.
//
// The rule that must hold: a check asserts what it saw, through the doors that
// users have (the API's client, plain HTTPS, the files that a region wrote),
// and never through the mesh's own memory. A step that could not be judged has
// failed.
//
// The mesh has three regions, of FR, DE and US, and only the German one has
// H200 devices; see [Regions]. `sovmesh demo` plays it.
package tour

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/scenarios/devmesh"
)

// The regions of the tour.
const (
	france  placement.RegionID = "fra-1"
	germany placement.RegionID = "ber-1"
	america placement.RegionID = "iad-1"
)

// Regions are those that the tour needs.
func Regions() []devmesh.Region {
	return []devmesh.Region{
		{Name: france, Country: "FR", Devices: devmesh.DefaultDevices},
		{Name: germany, Country: "DE", Devices: "sim:8xH200"},
		{Name: america, Country: "US", Devices: devmesh.DefaultDevices},
	}
}

// Check is one step and what came of it.
type Check struct {
	Title string `json:"title"`
	Typed string `json:"typed"` // what a person would type, or what was sent
	Seen  string `json:"seen"`
	OK    bool   `json:"ok"`
	TookM int64  `json:"took_ms"`
}

// step is a check to be made.
type step struct {
	title, typed string
	play         func(*player, context.Context) (seen string, err error)
}

// stepWithin bounds one step.
const stepWithin = 45 * time.Second

// player holds what steps share.
type player struct {
	mesh       *devmesh.Mesh
	fr, de, us *api.Client
	home       *devmesh.Node // that fr talks to
	ends       []func()      // undone in reverse at the end
	model      placement.JobID
}

// Play makes all checks, one after the other, and tells each to show as soon as
// it is made. A failed one does not keep the next from being tried.
func Play(ctx context.Context, m *devmesh.Mesh, show func(Check)) ([]Check, error) {
	p := &player{mesh: m, home: m.Nodes(france)[0]}
	defer p.end()
	for r, c := range map[placement.RegionID]**api.Client{france: &p.fr, germany: &p.de, america: &p.us} {
		var err error
		if *c, err = p.client(m.Nodes(r)[0]); err != nil {
			return nil, err
		}
	}
	var out []Check
	for _, s := range steps() {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		c := p.make(ctx, s)
		out = append(out, c)
		show(c)
	}
	return out, nil
}

func (p *player) make(ctx context.Context, s step) Check {
	ctx, cancel := context.WithTimeout(ctx, stepWithin)
	defer cancel()
	begin := time.Now()
	seen, err := s.play(p, ctx)
	c := Check{Title: s.title, Typed: s.typed, Seen: seen, OK: err == nil, TookM: time.Since(begin).Milliseconds()}
	if err != nil {
		c.Seen = err.Error()
		if seen != "" {
			c.Seen = seen + "; but " + c.Seen
		}
	}
	return c
}

func (p *player) end() {
	for i := len(p.ends) - 1; i >= 0; i-- {
		p.ends[i]()
	}
}

// client is somebody at that node's region: cut off when the region is.
func (p *player) client(n *devmesh.Node) (*api.Client, error) {
	cfg := p.mesh.Access(n)
	cfg.Dial = p.mesh.Dial(n.Region)
	c, err := api.NewClient(cfg)
	if err == nil {
		p.ends = append(p.ends, c.Close)
	}
	return c, err
}

// steps are the tour, in order.
func steps() []step {
	var all []step
	for _, some := range [][]step{placing(), refusing(), streaming(), cutting(), losing(), draining(), ruling()} {
		all = append(all, some...)
	}
	return all
}

func read(text string) (*api.JobFile, error) {
	return api.ReadJob([]byte(text), api.JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())})
}

// submit reads a job file and lands it.
func submit(ctx context.Context, c *api.Client, text string) (*api.Submitted, error) {
	job, err := read(text)
	if err != nil {
		return nil, err
	}
	return c.Submit(ctx, job, api.SubmitOptions{})
}

// until follows a job until it is as wanted.
func until(ctx context.Context, c *api.Client, id placement.JobID, want func(*placement.Job) bool) (*placement.Job, error) {
	var index uint64
	last := "never seen"
	for {
		j, err := c.WaitJob(ctx, id, index, 2*time.Second)
		if err != nil {
			return nil, fmt.Errorf("job %s: %w (it was %s)", id, err, last)
		}
		if want(j) {
			return j, nil
		}
		if j.Status.Terminal() {
			return j, fmt.Errorf("job %s is %s: %s", id, j.Status, j.Reason)
		}
		index, last = j.Index, string(j.Status)+" "+j.Reason
		if ctx.Err() != nil {
			return j, fmt.Errorf("job %s was still %s", id, last)
		}
	}
}

func is(s placement.JobStatus) func(*placement.Job) bool {
	return func(j *placement.Job) bool { return j.Status == s }
}

// run submits a job and waits until it is complete.
func run(ctx context.Context, c *api.Client, text string) (*api.Submitted, *placement.Job, error) {
	s, err := submit(ctx, c, text)
	if err != nil {
		return nil, nil, err
	}
	j, err := until(ctx, c, s.Job.ID, is(placement.JobComplete))
	return s, j, err
}

func output(ctx context.Context, c *api.Client, id placement.JobID) (string, error) {
	logs, err := c.Logs(ctx, id, api.LogOptions{})
	if err != nil {
		return "", fmt.Errorf("logs of %s: %w", id, err)
	}
	defer logs.Close()
	data, err := io.ReadAll(io.LimitReader(logs, 1<<20))
	return string(data), err
}

// eventually asks until the answer is yes; what says no is the last error.
func eventually(ctx context.Context, within time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", within, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// secret is a word that can be looked for.
func secret() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return "secret-" + hex.EncodeToString(b[:])
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

var errSilent = errors.New("nothing was answered")
