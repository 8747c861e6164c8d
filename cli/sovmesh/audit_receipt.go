package main

import (
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) auditReceipt() *cli.Command {
	return &cli.Command{
		Name: "receipt", Usage: "write the receipt of a job: what anybody can check offline", ArgsUsage: "JOB",
		Description: "One text file: for each leaf about the job a tlog-proof (c2sp.org/tlog-proof) with\nthe leaf, its way to the root, and the checkpoint with its cosignatures. It names\nno person and no command.",
		UsageText:   "sovmesh audit receipt --out job.receipt JOB",
		Flags:       append([]cli.Flag{&cli.StringFlag{Name: "out", Value: "-", Usage: "the `FILE` to write; - is stdout"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "JOB")
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			data, err := client.ReceiptFile(c.Context, placement.JobID(args[0]))
			if err != nil {
				return err
			}
			out := c.String("out")
			_, err = p.toFile(out, func(w io.Writer) error {
				_, err := w.Write(data)
				return err
			})
			if err == nil && out != "-" {
				fmt.Fprintf(p.err, "next: sovmesh audit verify --policy POLICY %s\n", clean(out))
			}
			return err
		},
	}
}
