package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) auditReceipt() *cli.Command {
	return &cli.Command{
		Name: "receipt", Usage: "write the receipt of a job, a leaf or an inference request: what anybody can check offline", ArgsUsage: "JOB|LEAF|RECEIPT",
		Description: "Of a job one text file: for each leaf about it a tlog-proof (c2sp.org/tlog-proof) with\nthe leaf, its way to the root, and the checkpoint with its cosignatures. It names\nno person and no command. A LEAF is an id as a write's receipt has it, ORIGIN#NUMBER:\nof a drain, a join, a token, a policy; it needs the role operator, auditor or admin.\nA RECEIPT is of an inference request, the id in the answer's header x-sovmesh-receipt:\na document with the receipt, its segment, the segment's leaf and the node's signature.\nIts key opens what it says of prompt and answer: keep it as you keep those. Exit 1 if\nit is promised, missing or erased; the file says which.",
		UsageText:   "sovmesh audit receipt --out job.receipt JOB\nsovmesh audit receipt --out drain.receipt fra-1.mesh.internal/ledger#57\nsovmesh audit receipt --out answer.receipt fra-1.8c121b847544f196cf18c2429e715be7.2.0",
		Flags:       append([]cli.Flag{&cli.StringFlag{Name: "out", Value: "-", Usage: "the `FILE` to write; - is stdout"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "JOB|LEAF|RECEIPT")
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			var data []byte
			var answer *receipt.Document
			if _, bad := receipt.ParseID(args[0]); bad == nil {
				data, answer, err = client.InferenceReceipt(c.Context, args[0], commitWithin)
			} else {
				data, err = receiptFile(c.Context, client, args[0])
			}
			if err != nil {
				return err
			}
			if err := p.handOver(c.String("out"), data); err != nil || answer == nil {
				return err
			}
			return answered(answer)
		},
	}
}

// receiptDocument is what audit receipt answers with --json: the receipt, or
// where it went.
type receiptDocument struct {
	Receipt string `json:"receipt,omitempty"`
	*writtenFile
}

// handOver writes a receipt to a file, or to stdout as it is.
func (p *program) handOver(out string, data []byte) error {
	if out == "-" && p.json {
		return p.document(receiptDocument{Receipt: string(data)})
	}
	size, err := p.toFile(out, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil || out == "-" {
		return err
	}
	return p.show(receiptDocument{writtenFile: &writtenFile{out, size}}, func(io.Writer) {
		fmt.Fprintf(p.err, "next: sovmesh audit verify --policy POLICY %s\n", clean(out))
	})
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

// commitWithin is how long the receipt of a request may take into the ledger and
// under a signature, before it is written as it is.
const commitWithin = 3 * time.Second

// answered tells of a receipt that proves nothing yet, or never will.
func answered(d *receipt.Document) error {
	o := &outcome{exit: 1}
	switch {
	case d.State == receipt.Missing:
		o.message, o.advice = "is MISSING: it was promised, and the node cannot show it", "its id, and the answer that came with it, are evidence against the region"
	case d.State == receipt.Erased:
		o.message, o.advice = "is erased: the node kept it as long as it keeps receipts", "a file that was written before still verifies"
	case d.State == receipt.Promised:
		o.message, o.advice = "is promised, and not committed", "ask again; if it stays so, the file is evidence of that"
	case d.Ledger.Proof == "":
		o.message, o.advice = "is committed, and no signed checkpoint covers it yet", "ask again in a moment; sovmesh status tells whether the leader signs"
	default:
		return nil
	}
	o.message = "receipt " + d.ID + " " + o.message
	return o
}
