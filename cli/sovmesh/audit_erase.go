package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) auditErase() *cli.Command {
	return &cli.Command{
		Name: "erase", Usage: "erase what the ledger's leaves about a job commit to", ArgsUsage: "ID",
		Description: "For a job that is over, by its whole id; needs the role admin. Names, commands,\nenvironments and reasons are erased on every replica, on one that is away when it\nis back. The leaves and all proofs of them stay valid. What this does not reach is\nlisted. It cannot be undone.",
		UsageText:   "sovmesh audit erase ID --yes",
		Flags:       append([]cli.Flag{yesFlag()}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			client, me, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := p.confirm(c.Context, c, fmt.Sprintf("erase for ever what region %s's ledger keeps behind the leaves about job %s?", me.Region, args[0])); err != nil {
				return err
			}
			done, err := client.EraseOpenings(c.Context, placement.JobID(args[0]))
			if err != nil {
				return err
			}
			return p.show(done, func(w io.Writer) {
				fmt.Fprintf(w, "erased behind %s of job %s; not reached:\n", strconv.Itoa(len(done.Leaves))+" leaves", done.Job)
				for _, r := range done.Remains {
					fmt.Fprintln(w, "  - "+r)
				}
			})
		},
	}
}
