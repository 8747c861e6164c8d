package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

// drainLinger is how long --wait goes on after the deadline: rules that end
// tasks at the deadline need a moment.
const drainLinger = 90 * time.Second

func (p *program) nodeDrain() *cli.Command {
	return &cli.Command{
		Name: "drain", Usage: "empty a node, inside each job's tag", ArgsUsage: "NODE...",
		Description: `A service gets its replacement before its stop; a batch task finishes, or follows
its own rule at the deadline; a singleton stops first. The job's own on_drain wins,
--on-deadline fills its silence. --plan shows each task's fate and changes nothing.
--wait follows until the node is empty; interrupting it does not end the drain:
sovmesh node resume does. Several nodes, or those of a --site, are one set, begun in
one step: nothing moves from one of them onto another.`,
		UsageText: "sovmesh node drain fra-1-n2 --plan\nsovmesh node drain fra-1-n2 --deadline 30m --wait\nsovmesh node drain fra-1-n2 fra-1-n3 --plan",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "plan", Usage: "show what would happen"},
			&cli.DurationFlag{Name: "deadline", Usage: "`TIME` until rules for the deadline apply; default 1h"},
			&cli.StringFlag{Name: "on-deadline", Usage: "`RULE` where jobs say nothing: wait, checkpoint, stop; default wait"},
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` kept with the node"},
			&cli.StringFlag{Name: "site", Usage: "every node of this `SITE`, as one set"},
			&cli.BoolFlag{Name: "wait", Usage: "until the node is empty"},
			yesFlag(),
		}, connectionFlags()...),
		Action: p.drain,
	}
}

func drainRequest(c *cli.Context) (api.DrainRequest, error) {
	r := api.DrainRequest{Deadline: placement.Duration(c.Duration("deadline")), OnDeadline: placement.OnDrain(c.String("on-deadline")), Reason: c.String("reason")}
	switch {
	case r.Deadline < 0 || c.IsSet("deadline") && r.Deadline == 0:
		return r, usage("write a time above zero, as in 30m", "--deadline cannot be %s", c.Duration("deadline"))
	case c.IsSet("on-deadline") && r.OnDeadline != placement.DrainWait && r.OnDeadline != placement.DrainCheckpoint && r.OnDeadline != placement.DrainStop:
		return r, usage("write wait, checkpoint or stop", "--on-deadline cannot be %s", quoteWord(string(r.OnDeadline)))
	}
	return r, nil
}

func (p *program) drain(c *cli.Context) error {
	request, err := drainRequest(c)
	if err != nil {
		return err
	}
	if c.Bool("plan") && c.Bool("wait") {
		return usage("choose one of them", "--plan and --wait stand together")
	}
	if c.NArg() == 0 && c.String("site") == "" {
		return usage("name nodes, or a whole site: --site SITE; "+helpHint(c), "NODE is missing")
	}
	client, me, err := p.writer(c)
	if err != nil {
		return err
	}
	defer client.Close()
	set, err := drainSet(c, client)
	if err != nil {
		return err
	}
	if len(set) > 1 {
		return p.drainTogether(c, client, me.Region, api.DrainSetRequest{Nodes: set, DrainRequest: request})
	}
	node := set[0]
	if c.Bool("plan") {
		report, err := client.PlanDrain(c.Context, node, request)
		if err != nil {
			return err
		}
		return p.show(report, func(w io.Writer) { p.writeDrain(w, report) })
	}
	if err := p.confirm(c.Context, c, fmt.Sprintf("drain node %s of region %s?", node, me.Region)); err != nil {
		return err
	}
	report, err := client.Drain(c.Context, node, request)
	if err != nil {
		return err
	}
	var end error
	if c.Bool("wait") {
		report, end = p.followDrain(c.Context, client, node, report)
	}
	if err := p.show(report, func(w io.Writer) { p.writeDrain(w, report) }); err != nil {
		return err
	}
	return end
}

// drainSet are the nodes that a command names, and those of its site.
func drainSet(c *cli.Context, client *api.Client) ([]placement.NodeID, error) {
	var set []placement.NodeID
	add := func(id placement.NodeID) {
		if !slices.Contains(set, id) {
			set = append(set, id)
		}
	}
	for _, name := range c.Args().Slice() {
		if name == "" {
			return nil, usage(helpHint(c), "NODE is empty")
		}
		add(placement.NodeID(name))
	}
	site := c.String("site")
	if site == "" {
		return set, nil
	}
	nodes, err := collect(c.Context, client.Nodes, api.ListOptions{Limit: api.MaxPage})
	if err != nil {
		return nil, err
	}
	found := false
	for i := range nodes {
		if nodes[i].Site == site {
			add(nodes[i].ID)
			found = true
		}
	}
	if !found {
		return nil, usage("list the nodes, each with its site: sovmesh node list --json", "no node stands at the site %s", quoteWord(site))
	}
	return set, nil
}

// drainTogether drains several nodes as one set: nothing moves from one of them
// onto another.
func (p *program) drainTogether(c *cli.Context, client *api.Client, region placement.RegionID, request api.DrainSetRequest) error {
	if !c.Bool("plan") {
		if err := p.confirm(c.Context, c, fmt.Sprintf("drain %d nodes of region %s?", len(request.Nodes), region)); err != nil {
			return err
		}
	}
	report, err := client.DrainSet(c.Context, request, c.Bool("plan"))
	if err != nil {
		return err
	}
	var end error
	if c.Bool("wait") {
		report.Blockers, report.Done = 0, true
		for i := range report.Nodes {
			one := &report.Nodes[i]
			// The others are being emptied meanwhile; each is looked at in its turn.
			now, err := p.followDrain(c.Context, client, one.Node, one)
			*one = *now
			if end == nil {
				end = err
			}
			report.Blockers += one.Blockers
			report.Done = report.Done && one.Done
		}
	}
	if err := p.show(report, func(w io.Writer) { p.writeDrainSet(w, report) }); err != nil {
		return err
	}
	return end
}

func (p *program) writeDrainSet(w io.Writer, r *api.DrainSetReport) {
	for i := range r.Nodes {
		if i > 0 {
			fmt.Fprintln(w)
		}
		p.writeDrain(w, &r.Nodes[i])
	}
}

func (p *program) writeDrain(w io.Writer, r *api.DrainReport) {
	state := string(r.State)
	if r.Planned {
		state += " (plan: nothing was changed)"
	}
	deadline := ""
	if r.Drain != nil {
		deadline = stamp(r.Drain.Deadline)
	}
	p.facts(w, "node", string(r.Node), "state", state, "deadline", deadline, "tasks", fmt.Sprint(len(r.Tasks)), "blockers", fmt.Sprint(r.Blockers))
	if len(r.Tasks) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := p.table("TASK", "NAME", "KIND", "TYPE", "FATE", "TO", "REASON")
	for _, k := range r.Tasks {
		t.add(string(k.Task), k.Name, string(k.Kind), string(k.Type), k.Fate, string(k.To), moded(k)+prefixed("; ", k.Hint))
	}
	t.write(w)
}

// moded is why a task has its fate, and by which way it moves if there are several.
func moded(k api.DrainTask) string {
	if k.Mode == "" {
		return k.Reason
	}
	return k.Mode + prefixed(": ", k.Reason)
}

// followDrain shows how a drain gets on until the node is empty, somebody
// resumes it, or its deadline is well past.
func (p *program) followDrain(ctx context.Context, client *api.Client, node placement.NodeID, r *api.DrainReport) (*api.DrainReport, error) {
	line := p.progress()
	defer line.done()
	all, blocked, moves := len(r.Tasks), map[placement.TaskID]bool{}, map[placement.TaskID]string{}
	for {
		for _, k := range r.Tasks {
			if how := moded(k); k.Mode != "" && moves[k.Task] != how {
				moves[k.Task] = how
				line.note("%s %s to %s: %s", k.Task, k.Name, k.To, how)
			}
			if k.Fate == "blocked" && !blocked[k.Task] {
				blocked[k.Task] = true
				line.note("blocked: %s %s: %s%s", k.Task, k.Name, k.Reason, prefixed("; ", k.Hint))
			}
		}
		all = max(all, len(r.Tasks))
		line.say("%s %s, %d tasks left, %d blocked", bar(all-len(r.Tasks), all), r.Node, len(r.Tasks), r.Blockers)
		switch {
		case r.Done:
			return r, nil
		case r.State != placement.NodeDraining && r.State != placement.NodeDrained:
			return r, &outcome{1, fmt.Sprintf("the drain of %s was ended: it is %s", node, r.State), "start it again, or see who resumed it: sovmesh node show " + string(node)}
		case r.Drain != nil && p.now().After(r.Drain.Deadline.Add(drainLinger)):
			return r, &outcome{1, fmt.Sprintf("the deadline is past and %d tasks are still on %s", len(r.Tasks), node), "they wait by their own rule: stop them, or drain with --on-deadline stop"}
		}
		next, err := client.DrainStatus(ctx, node, api.ListOptions{Wait: 10 * time.Second, Index: r.Index})
		var problem *api.Problem
		switch {
		case ctx.Err() != nil:
			return r, &outcome{exitInterrupted, "the drain of " + string(node) + " goes on", "follow it: sovmesh node drain " + string(node) + " --wait; end it: sovmesh node resume " + string(node)}
		case err == nil:
			r = next
		case errors.As(err, &problem) && problem.Status >= 500:
			line.say("no answer, asking again: %s", problem.Detail)
			_ = pause(ctx, time.Second) // an end of ctx is seen at the next read
		default:
			return r, err
		}
	}
}
