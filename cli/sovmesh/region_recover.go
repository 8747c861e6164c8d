package main

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/node"
	"github.com/urfave/cli/v2"
)

// recoverDocument says what a recovery made, and what was cut off.
type recoverDocument struct {
	Node    string   `json:"node"`
	Origin  string   `json:"origin"`
	Leaves  uint64   `json:"leaves_of_the_old_log"`
	Quoted  uint64   `json:"quoted_checkpoint"`
	Removed []string `json:"removed"`
	Next    string   `json:"next"`
}

func (p *program) regionRecover() *cli.Command {
	return &cli.Command{
		Name: "recover", Usage: "go on from one voter after a majority was lost for good",
		Description: `On a stopped voter, the one that was ahead of the others. What only the lost
voters had is lost. The ledger ends there, and a new one begins, whose first
entry quotes the old one: everybody sees the break. The other voters and standbys
are removed: empty their data directories before they join again, and never
start one of them on its old data. --i-understand is the region's name, typed.`,
		UsageText: "sovmesh region recover --config /etc/sovmesh/agent.yaml --i-understand fra-1",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "`FILE`: the voter's agent config; required"},
			&cli.StringFlag{Name: "i-understand", Usage: "`NAME` of the region; required"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.String("config") == "" {
				return usage("add --config FILE, the voter's agent config", "the config file is missing")
			}
			cfg, err := readAgentConfig(c.String("config"))
			if err != nil {
				return err
			}
			return p.recoverRegion(c, cfg)
		},
	}
}

func (p *program) recoverRegion(c *cli.Context, cfg agentConfig) error {
	region, err := node.RegionOf(cfg.Config)
	if err != nil {
		return startFault(err)
	}
	if c.String("i-understand") != string(region) {
		return usage("stop the voter, read sovmesh region recover --help, then add --i-understand "+string(region), "the recovery of region %s was not confirmed", region)
	}
	fmt.Fprintf(p.err, "target: region %s, from the data of node %s in %s alone\n", region, cfg.Node, cfg.Data)
	done, err := node.Recover(c.Context, cfg.Config, node.Deps{Log: slog.New(slog.DiscardHandler), Now: p.now})
	if err != nil {
		return startFault(err)
	}
	doc := recoverDocument{Node: string(cfg.Node), Origin: done.Origin, Leaves: done.Leaves, Quoted: done.Quoted, Removed: []string{}, Next: "sovmesh agent --config " + c.String("config")}
	for _, n := range done.Removed {
		doc.Removed = append(doc.Removed, string(n))
	}
	return p.show(doc, func(w io.Writer) {
		quoted := "none was signed"
		if doc.Quoted > 0 {
			quoted = strconv.FormatUint(doc.Quoted, 10) + " entries"
		}
		p.facts(w, "new ledger", doc.Origin, "old ledger ended at", strconv.FormatUint(doc.Leaves, 10)+" entries", "last checkpoint", quoted, "removed", nonEmpty(strings.Join(doc.Removed, ", "), "nobody"))
		fmt.Fprintf(w, "\nnext: %s\n", doc.Next)
	})
}
