package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) auditReceipt() *cli.Command {
	return &cli.Command{
		Name: "receipt", Usage: "write the receipt of a job, or of one leaf: what anybody can check offline", ArgsUsage: "JOB|LEAF",
		Description: "One text file: for each leaf about the job a tlog-proof (c2sp.org/tlog-proof) with\nthe leaf, its way to the root, and the checkpoint with its cosignatures. It names\nno person and no command. A LEAF is an id as a write's receipt has it, ORIGIN#NUMBER:\nof a drain, a join, a token, a policy; it needs the role operator, auditor or admin.",
		UsageText:   "sovmesh audit receipt --out job.receipt JOB\nsovmesh audit receipt --out drain.receipt fra-1.mesh.internal/ledger#57",
		Flags:       append([]cli.Flag{&cli.StringFlag{Name: "out", Value: "-", Usage: "the `FILE` to write; - is stdout"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "JOB|LEAF")
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			data, err := receiptFile(c.Context, client, args[0])
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

// receiptFile fetches the receipt of a leaf, ORIGIN#NUMBER, or of a job.
func receiptFile(ctx context.Context, client *api.Client, id string) ([]byte, error) {
	origin, number, isLeaf := strings.Cut(id, "#")
	if !isLeaf {
		return client.ReceiptFile(ctx, placement.JobID(id))
	}
	leaf, err := strconv.ParseUint(number, 10, 62)
	if err != nil || origin == "" {
		return nil, usage("write it as the receipt has it, as in fra-1.mesh.internal/ledger#57", "%s is no id of a leaf", quoteWord(id))
	}
	return client.LeafReceiptFile(ctx, origin, leaf)
}
