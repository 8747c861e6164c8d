package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// SubmitOptions say how a job is submitted.
type SubmitOptions struct {
	// IdempotencyKey makes a repetition return the first job; one is made at
	// random if it is empty.
	IdempotencyKey string
}

// Submitted is an accepted job and where its body was sent.
type Submitted struct {
	Job    placement.Job
	Landed placement.RegionID // whose front door took the body
	// Granted: it was landed outside home, with a grant.
	Granted bool
}

// LogOptions say which part of a job's output is wanted.
type LogOptions struct {
	Follow bool
	From   int64 // offset in bytes
	Task   placement.TaskID
}

// Jobs lists the jobs of the region that the token may see.
func (c *Client) Jobs(ctx context.Context, o ListOptions) (*Page[placement.Job], error) {
	return list[placement.Job](ctx, c, "/jobs", o)
}

// Job is one job, by its id or a unique prefix. A job that was landed in
// another region is read there, with a grant of home.
func (c *Client) Job(ctx context.Context, id placement.JobID) (*placement.Job, error) {
	return c.WaitJob(ctx, id, 0, 0)
}

// WaitJob is the job as soon as it changed after the given index, or after the
// wait.
func (c *Client) WaitJob(ctx context.Context, id placement.JobID, index uint64, wait time.Duration) (*placement.Job, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	job := &placement.Job{}
	o := ListOptions{Wait: wait, Index: index}
	err = d.call(ctx, c.cfg.Timeout+wait, request{method: http.MethodGet, path: Prefix + "/jobs" + seg(id), query: o.query(), out: job})
	if err != nil {
		return nil, err
	}
	return job, nil
}

// Explain says why a job is where it is, or why it waits.
func (c *Client) Explain(ctx context.Context, id placement.JobID) (*Explanation, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &Explanation{}
	err = d.call(ctx, c.cfg.Timeout, request{method: http.MethodGet, path: Prefix + "/jobs" + seg(id) + "/explain", out: out})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Logs is a job's output, raw. The caller closes it; a follower ends when the
// job has, or when the context does.
func (c *Client) Logs(ctx context.Context, id placement.JobID, o LogOptions) (io.ReadCloser, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	if o.Follow {
		q.Set("follow", "true")
	}
	if o.From > 0 {
		q.Set("from", strconv.FormatInt(o.From, 10))
	}
	if o.Task != "" {
		q.Set("task", string(o.Task))
	}
	res, err := d.send(ctx, request{method: http.MethodGet, path: Prefix + "/jobs" + seg(id) + "/logs", query: q})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Outputs are the files that a job's task left: of its newest one, unless another
// is named.
func (c *Client) Outputs(ctx context.Context, id placement.JobID, task placement.TaskID) (*JobOutputs, error) {
	res, err := c.getOutput(ctx, id, task, "/outputs")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return readOutputs(res.Body)
}

// Output reads one of them. What is read is compared with its digest: only when it
// ended with io.EOF it was the file. The caller closes it.
func (c *Client) Output(ctx context.Context, id placement.JobID, task placement.TaskID, file placement.Output) (io.ReadCloser, error) {
	res, err := c.getOutput(ctx, id, task, "/outputs/"+file.Digest)
	if err != nil {
		return nil, err
	}
	return holdTo(file, res.Body), nil
}

func (c *Client) getOutput(ctx context.Context, id placement.JobID, task placement.TaskID, what string) (*http.Response, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	if task != "" {
		q.Set("task", string(task))
	}
	return d.send(ctx, request{method: http.MethodGet, path: Prefix + "/jobs" + seg(id) + what, query: q})
}

// StopJob asks for a job to end and returns it as it stands.
func (c *Client) StopJob(ctx context.Context, id placement.JobID, reason string) (*placement.Job, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	path := Prefix + "/jobs" + seg(id)
	if reason != "" {
		path += "?reason=" + url.QueryEscape(reason)
	}
	job := &placement.Job{}
	if err := d.call(ctx, c.cfg.Timeout, request{method: http.MethodDelete, path: path, out: job}); err != nil {
		return nil, err
	}
	return job, nil
}

// CheckRequest is what a dry run needs to know of a job: what it asks for and
// where it may go, never its command or its environment.
type CheckRequest struct {
	Residency string              `json:"residency"` // wire form
	Kind      placement.Kind      `json:"kind"`
	Type      placement.JobType   `json:"type,omitempty"`
	Resources placement.Resources `json:"resources"`
	Priority  int                 `json:"priority,omitempty"`
	Site      string              `json:"site,omitempty"`
	Node      placement.NodeID    `json:"node,omitempty"`
	Image     string              `json:"image,omitempty"`
	Gang      int                 `json:"gang,omitempty"`
	Spread    placement.Spread    `json:"spread,omitempty"`
	Avoid     []string            `json:"avoid,omitempty"`
	// MaxRuntime lets it in before what waits, if it ends in time.
	MaxRuntime placement.Duration `json:"max_runtime,omitempty"`
}

// Check asks whether a job would be placed, where, and why not. Nothing is
// submitted.
func (c *Client) Check(ctx context.Context, job *JobFile) (*CheckReport, error) {
	return one[CheckReport](ctx, c, http.MethodPost, "/jobs/check", checkOf(job))
}

// checkOf is what a dry run needs of a job, and nothing else.
func checkOf(job *JobFile) CheckRequest {
	s := job.Spec
	return CheckRequest{
		Residency: job.Tag.Wire(), Kind: s.Kind, Type: s.Type, Resources: s.Resources, Priority: s.Priority,
		Site: s.Site, Node: s.NodeName, Image: s.Image, Gang: s.Members, Spread: s.Spread, Avoid: s.Avoid, MaxRuntime: s.MaxRuntime,
	}
}

// Directory is what the home region knows about the mesh. It is fetched over
// the verified connection to home.
func (c *Client) Directory(ctx context.Context) (*Directory, error) {
	signed, err := one[SignedDirectory](ctx, c, http.MethodGet, "/directory", nil)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.directory, c.fetched = &signed.Directory, c.cfg.Now()
	c.mu.Unlock()
	return &signed.Directory, nil
}

// Grant asks home for the permission to submit one job to another region, or to
// read and stop one there.
func (c *Client) Grant(ctx context.Context, r GrantRequest) (*Grant, error) {
	return one[Grant](ctx, c, http.MethodPost, "/grants", r)
}
