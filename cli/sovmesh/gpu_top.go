package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) gpuTop() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "what the devices do now", ArgsUsage: "[NODE]",
		Description: `Each node is asked itself; without NODE all nodes that have devices. Simulated
devices do nothing that could be measured, and say so. What a device does for
another tenant is not shown to those who may not see that tenant's jobs.`,
		UsageText: "sovmesh gpu top fra-1-n2\nsovmesh gpu top --every 2s",
		Flags:     append([]cli.Flag{&cli.DurationFlag{Name: "every", Usage: "show it again after this `TIME`, until interrupted"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				_, err := arguments(c, "NODE")
				return err
			}
			every := c.Duration("every")
			if c.IsSet("every") && every < 500*time.Millisecond {
				return usage("write a time of 500ms or more, as in --every 2s", "--every %s is too short", every)
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			for {
				if err := p.topOnce(c.Context, client, placement.NodeID(c.Args().First())); err != nil || every == 0 {
					return err
				}
				t := time.NewTimer(every)
				select {
				case <-c.Context.Done():
					t.Stop()
					return nil
				case <-t.C:
				}
			}
		},
	}
}

// topOnce asks and shows once. A node that does not answer is one line of the
// answer, as long as it was not the one that was asked for.
func (p *program) topOnce(ctx context.Context, client *api.Client, node placement.NodeID) error {
	names := []placement.NodeID{node}
	if node == "" {
		nodes, err := collect(ctx, client.Nodes, api.ListOptions{Limit: api.MaxPage})
		if err != nil {
			return err
		}
		names = nil
		for _, n := range nodes {
			if len(n.Inventory.Devices) > 0 {
				names = append(names, n.ID)
			}
		}
	}
	all := []api.NodeGPUs{}
	for _, name := range names {
		live, err := client.LiveGPUs(ctx, name)
		switch {
		case err == nil:
			all = append(all, *live)
		case node != "":
			return err
		default:
			all = append(all, api.NodeGPUs{Node: name, Down: err.Error(), Items: []api.LiveGPU{}})
		}
	}
	return p.show(all, func(w io.Writer) { p.writeTop(w, all) })
}

func (p *program) writeTop(w io.Writer, all []api.NodeGPUs) {
	t := p.table("NODE", "DEVICE", "MODEL", "HEALTH", "BUSY", "MEMORY USED", "POWER", "TEMP", "TASK")
	for _, n := range all {
		for _, g := range n.Items {
			busy, memory, power, heat := sampleText(&g)
			t.add(string(n.Node), g.UUID, deviceModel(g.Device), deviceHealth(g.Device), busy, memory, power, heat, holders(&g.GPU))
		}
	}
	t.write(w)
	for _, n := range all {
		if n.Down != "" {
			fmt.Fprintf(w, "node %s: %s\n", n.Node, clean(n.Down))
		}
		if n.Refused != "" {
			fmt.Fprintf(w, "node %s: the region goes by an older report: %s\n", n.Node, clean(n.Refused))
		}
	}
}

// sampleText is what was measured; nothing is made up for what was not.
func sampleText(g *api.LiveGPU) (busy, memory, power, heat string) {
	switch s := g.Sample; {
	case g.Simulated:
		return "simulated", "", "", ""
	case g.Hidden:
		return "hidden", "", "", ""
	case s == nil:
		return "unknown", "", "", ""
	default:
		if s.Utilization != nil {
			busy = strconv.Itoa(*s.Utilization) + " %"
		}
		if s.MemoryUsed != nil {
			memory = human(placement.Bytes(*s.MemoryUsed))
			if s.MemoryTotal != nil {
				memory += "/" + human(placement.Bytes(*s.MemoryTotal))
			}
		}
		if s.Power != nil {
			power = fmt.Sprintf("%d W", *s.Power/1000)
		}
		if s.Temperature != nil {
			heat = strconv.Itoa(*s.Temperature) + " C"
		}
		return busy, memory, power, heat
	}
}
