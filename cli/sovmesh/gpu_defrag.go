package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/scheduler"
	"github.com/urfave/cli/v2"
)

func (p *program) gpuDefrag() *cli.Command {
	return &cli.Command{
		Name: "defrag", Usage: "the few moves that bring the most free GPUs together",
		Description: `Only what its owner lets move is moved: services, tasks whose on_drain says move or
checkpoint, and preemptible ones; each to a place inside its own tag, chosen as a
drain chooses it. Nothing is changed: move a task by draining its node, or by a
stop and a new run. Exit 0 also when nothing is worth a move.`,
		UsageText: "sovmesh gpu defrag --plan\nsovmesh gpu defrag --plan --moves 3 --json",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "plan", Usage: "show the moves; without it nothing is done"},
			&cli.IntFlag{Name: "moves", Value: scheduler.DefragMoves, Usage: "at most `N` moves, 100 at most"},
		}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if !c.Bool("plan") {
				return usage("see what would be moved: sovmesh gpu defrag --plan", "moves are only planned, so --plan has to be said")
			}
			if n := c.Int("moves"); n < 1 || n > scheduler.DefragMovesMax {
				return usage(fmt.Sprintf("write a number from 1 to %d", scheduler.DefragMovesMax), "--moves cannot be %d", n)
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			report, err := client.PlanDefrag(c.Context, c.Int("moves"))
			if err != nil {
				return err
			}
			return p.show(report, func(w io.Writer) { p.writeDefrag(w, report) })
		},
	}
}

func (p *program) writeDefrag(w io.Writer, r *api.DefragReport) {
	p.facts(w, "region", string(r.Region), "tasks with GPUs", fmt.Sprint(r.Tasks), "moves", fmt.Sprint(len(r.Moves)))
	fmt.Fprintln(w)
	t := p.table("", "FREE GPUS", "EMPTY NODES", "LARGEST HOLE", "STRANDED GPUS")
	for _, row := range []struct {
		name string
		scheduler.Room
	}{{"now", r.Before}, {"then", r.After}} {
		t.add(row.name, fmt.Sprint(row.Free), fmt.Sprint(row.Empty), fmt.Sprint(row.Largest), fmt.Sprintf("%.2f", float64(row.Stranded)/1000))
	}
	t.write(w)
	if len(r.Moves) > 0 {
		fmt.Fprintln(w)
		t := p.table("TASK", "NAME", "TENANT", "GPUS", "FROM", "TO", "HOW", "FREES")
		for _, m := range r.Moves {
			gpus := fmt.Sprint(m.GPUs)
			if m.Share > 0 {
				gpus = m.Share.String()
			}
			t.add(string(m.Task), m.Name, string(m.Tenant), gpus, string(m.From), string(m.To), string(m.Action), fmt.Sprint(m.Frees))
		}
		t.write(w)
	}
	for _, k := range r.Kept {
		fmt.Fprintf(w, "%d not moved: %s\n", k.Tasks, k.Reason)
	}
}
