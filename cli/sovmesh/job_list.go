package main

import (
	"context"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

// listDocument is what list commands answer with --json.
type listDocument[T any] struct {
	Items []T `json:"items"`
}

func (p *program) jobList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list jobs, the newest last", UsageText: "sovmesh job list --status pending",
		Description: "Jobs that this client landed in another region, with a grant, are not in the list:\ntheir home is the region that took them. Show one by the id that the submit\nanswered, as in sovmesh job show ber-1.01jd; it is read there, with a further grant.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "status", Usage: "only jobs in `STATUS`: pending, starting, running, complete, failed, stopped, lost, unknown"},
			&cli.StringFlag{Name: "tenant", Usage: "only jobs of tenant `T`"},
			&cli.StringFlag{Name: "node", Usage: "only jobs on `NODE`"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			status := placement.JobStatus(c.String("status"))
			if c.IsSet("status") && !validStatus(status) {
				return usage("write one of: pending, starting, running, complete, failed, stopped, lost, unknown", "no job has the status %s", quoteWord(string(status)))
			}
			o := api.ListOptions{Status: status, Tenant: placement.TenantID(c.String("tenant")), Node: placement.NodeID(c.String("node"))}
			return listing(p, c, o, (*api.Client).Jobs, func(w io.Writer, jobs []placement.Job) {
				t := p.table("ID", "NAME", "KIND", "STATUS", "REGION", "NODE", "AGE", "RESIDENCY", "REASON")
				for _, j := range jobs {
					t.add(string(j.ID), j.Name, string(j.Kind), string(j.Status), string(j.Region), string(j.Node), p.since(j.SubmittedAt), j.Residency, j.Reason)
				}
				t.write(w)
			})
		},
	}
}

func validStatus(s placement.JobStatus) bool {
	switch s {
	case placement.JobPending, placement.JobStarting, placement.JobRunning, placement.JobComplete,
		placement.JobFailed, placement.JobStopped, placement.JobLost, placement.JobUnknown:
		return true
	}
	return false
}

// listing is a command that lists: all pages, then a document or a table.
func listing[T any](p *program, c *cli.Context, o api.ListOptions, get func(*api.Client, context.Context, api.ListOptions) (*api.Page[T], error), text func(io.Writer, []T)) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	client, err := p.client(c)
	if err != nil {
		return err
	}
	defer client.Close()
	o.Limit = api.MaxPage
	items, err := collect(c.Context, func(ctx context.Context, o api.ListOptions) (*api.Page[T], error) { return get(client, ctx, o) }, o)
	if err != nil {
		return err
	}
	if jobs, ok := any(items).([]placement.Job); ok {
		docs := make([]placement.JobDocument, len(jobs))
		for i := range jobs {
			docs[i] = jobs[i].Document()
		}
		return p.show(listDocument[placement.JobDocument]{docs}, func(w io.Writer) { text(w, items) })
	}
	return p.show(listDocument[T]{items}, func(w io.Writer) { text(w, items) })
}
