package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/simulate"
	"github.com/urfave/cli/v2"
)

const (
	formatWorld = "sovmesh"
	// maxJobsFile bounds a list of jobs.
	maxJobsFile = 256 << 20
	maxWorld    = 512 << 20
)

// worldFlags are those that ask about a region rather than a trace.
func worldFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "live", Usage: "the region that you are connected to, as it is now"},
		&cli.StringFlag{Name: "save", Usage: "`FILE` to keep the region in, for later"},
		&cli.StringSliceFlag{Name: "add", Usage: "`NODES`: 4x8xH100 (four of eight H100), 4x0 (without GPUs), 3xNODE (like that one)"},
		&cli.StringSliceFlag{Name: "remove", Usage: "`NODE` that is gone"},
		&cli.StringFlag{Name: "law-pack", Usage: "`FILE` of the law that is to decide, as law import takes it; default: the one in force"},
		&cli.StringFlag{Name: "at", Usage: "`DATE` (YYYY-MM-DD, UTC) on which it decides; default today"},
	}
}

// simulateWorld asks about a region, live or saved.
func (p *program) simulateWorld(c *cli.Context) error {
	drill := c.IsSet("law-pack") || c.IsSet("at")
	if drill && (c.IsSet("add") || c.IsSet("remove") || c.IsSet("jobs")) {
		return usage("ask one after the other", "a drill of the law and a change of nodes or jobs stand together")
	}
	var add []simulate.Addition
	for _, text := range c.StringSlice("add") {
		a, err := simulate.ParseAddition(text)
		if err != nil {
			return usage("see: sovmesh simulate --help", "--add: %s", err)
		}
		add = append(add, a)
	}
	more, err := readJobList(c.String("jobs"))
	if err != nil {
		return err
	}
	w, err := p.world(c)
	if err != nil {
		return err
	}
	if path := c.String("save"); path != "" {
		if err := saveWorld(w, path); err != nil {
			return err
		}
		fmt.Fprintf(p.err, "saved: %s\n", path)
	}
	if drill {
		return p.simulateLaw(c, w)
	}
	var remove []placement.NodeID
	for _, name := range c.StringSlice("remove") {
		remove = append(remove, placement.NodeID(name))
	}
	out, err := w.Change(p.now(), more, add, remove)
	if err != nil {
		return usage("list the nodes: sovmesh node list", "%s", err)
	}
	return p.show(out, func(to io.Writer) { p.writeWhatIf(to, out) })
}

// world is the region that the command is about.
func (p *program) world(c *cli.Context) (*simulate.World, error) {
	path := c.String("nodes")
	switch {
	case c.Bool("live") && path != "":
		return nil, usage("leave one of them out", "--live and --nodes stand together")
	case c.Bool("live"):
		client, err := p.client(c)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		return liveWorld(c.Context, client, p)
	case path == "":
		return nil, usage("name the file that --save wrote: --nodes FILE", "--nodes is missing")
	}
	data, err := readBounded(path, maxWorld)
	if err != nil {
		return nil, err
	}
	w, err := simulate.ReadWorld(bytes.NewReader(data), path)
	return w, asInput(err)
}

// asInput makes an error of a file one of input.
func asInput(err error) error {
	if bad, ok := err.(*simulate.FormatError); ok {
		return &api.InputError{Code: "input.world", Message: bad.Error(), Help: bad.Hint()}
	}
	return err
}

// liveWorld reads what an operator sees of the region.
func liveWorld(ctx context.Context, client *api.Client, p *program) (*simulate.World, error) {
	atlas, err := client.Atlas(ctx)
	if err != nil {
		return nil, err
	}
	all := api.ListOptions{Limit: api.MaxPage}
	// The tasks come first: who may not see them all is told before the rest is read.
	tasks, err := collect(ctx, client.Tasks, all)
	if err != nil {
		return nil, err
	}
	nodes, err := collect(ctx, client.Nodes, all)
	if err != nil {
		return nil, err
	}
	jobs, err := collect(ctx, client.Jobs, all)
	if err != nil {
		return nil, err
	}
	w := simulate.World{SavedAt: p.now().UTC(), Region: atlas.Home.ID, Regions: atlas.Regions, Nodes: pointers(nodes), Jobs: pointers(jobs), Tasks: pointers(tasks)}
	for _, r := range atlas.Regions {
		if atlas.Silent[r.ID] {
			w.Silent = append(w.Silent, r.ID)
		}
	}
	return simulate.NewWorld(w, atlas.Law.Pack)
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

func saveWorld(w *simulate.World, path string) error {
	var b bytes.Buffer
	if err := w.Write(&b); err != nil {
		return err
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return inputFile(err, "name a file that can be written with --save")
	}
	return nil
}

// readJobList reads jobs as job list --json writes them.
func readJobList(path string) ([]*placement.Job, error) {
	if path == "" {
		return nil, nil
	}
	data, err := readBounded(path, maxJobsFile)
	if err != nil {
		return nil, err
	}
	var doc listDocument[placement.Job]
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, &api.InputError{Code: "input.jobs", Message: path + ": " + err.Error(), Help: "write it with: sovmesh job list --json > FILE"}
	}
	var out []*placement.Job
	for i := range doc.Items {
		j := &doc.Items[i]
		if why, _ := j.Spec.Resources.Problem(); !j.ID.Valid() || len(j.Policy) == 0 || why != "" {
			return nil, &api.InputError{Code: "input.jobs", Message: fmt.Sprintf("%s: item %d is no job: it has no valid id, no policy, or asks for the impossible", path, i), Help: "write it with: sovmesh job list --json > FILE"}
		}
		j.Status, j.Node, j.Forward = placement.JobPending, "", nil
		out = append(out, j)
	}
	return out, nil
}

func (p *program) writeWhatIf(w io.Writer, r *simulate.WhatIf) {
	t := p.table("", "NODES", "GPUS", "WAITING", "PLACED", "FREE GPUS", "EMPTY NODES", "LARGEST HOLE")
	row := func(name string, f *simulate.Fit) {
		t.add(name, fmt.Sprint(f.Nodes), fmt.Sprint(f.GPUs), fmt.Sprint(f.Waits), fmt.Sprint(f.Placed),
			fmt.Sprint(f.Room.Free), fmt.Sprint(f.Room.Empty), fmt.Sprint(f.Room.Largest))
	}
	row("now", &r.Now)
	last := &r.Now
	if r.Then != nil {
		row("then", r.Then)
		last = r.Then
	}
	t.write(w)
	if r.Displaced > 0 {
		fmt.Fprintf(w, "\njobs that lose their node: %d; of them without another: %d\n", r.Displaced, len(r.Homeless))
	}
	if len(last.Refused) > 0 {
		fmt.Fprintln(w)
		t := p.table("JOBS", "CODE", "OUTCOME", "EXAMPLE", "REASON")
		for _, f := range last.Refused {
			t.add(fmt.Sprint(f.Jobs), f.Code, f.Outcome, string(f.Example), f.Reason)
		}
		t.write(w)
	}
}
