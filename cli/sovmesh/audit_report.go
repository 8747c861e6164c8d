package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) auditReport() *cli.Command {
	own := []cli.Flag{
		&cli.StringFlag{Name: "out", Usage: "the `FILE` to write: a page if it ends in .html, else text; - is stdout"},
		&cli.StringFlag{Name: "policy", Usage: "the auditor's policy `FILE`"},
		&cli.DurationFlag{Name: "max-age", Usage: "fail if the last checkpoint is older than `AGE`, as in 24h"},
	}
	return &cli.Command{
		Name: "report", Usage: "tell people what evidence says: where, when, by which rule, who administered", ArgsUsage: "[FILE...]",
		Description: "Judges packs as verify does and writes a page for people who answer for data.\nWithout a FILE it first exports one from the region. The exit code is that of\nverify: a page of evidence that does not hold says so at its top.",
		UsageText:   "sovmesh audit report --policy mesh.policy --out report.html --regime gdpr,ai-act fra-1.tar ber-1.tar",
		Flags:       append(append(own, filterFlags()...), connectionFlags()...),
		Action: func(c *cli.Context) error {
			if c.String("out") == "" {
				return usage("give --out report.html, or --out - for text on stdout", "a report needs a file to go to")
			}
			filter, err := p.filter(c)
			if err != nil {
				return err
			}
			q := p.evidence(c)
			q.MaxAge = c.Duration("max-age")
			if len(q.Files) == 0 {
				pack, remove, err := p.exported(c, filter)
				if err != nil {
					return err
				}
				defer remove()
				q.Files = []string{pack}
			} else if !filter.From.IsZero() || !filter.To.IsZero() || filter.Tenant != "" || filter.Acts {
				return usage("leave them out, or leave FILE out", "--from, --to, --tenant and --acts are for an export; the packs given are what they are")
			}
			page, err := q.Page(filter.Job, filter.Regime)
			if err != nil {
				return misjudged(err)
			}
			write := page.WriteText
			if strings.HasSuffix(c.String("out"), ".html") {
				write = page.WriteHTML
			}
			if err := p.publish(c.String("out"), write); err != nil {
				return err
			}
			if !page.Holds() {
				return &outcome{evidence.ExitBad, "the evidence does not hold; the report says why", "see the verdicts: sovmesh audit verify"}
			}
			return nil
		},
	}
}

// publish writes the page to a file, or to stdout.
func (p *program) publish(out string, write func(io.Writer) error) error {
	if out == "-" && p.json {
		var page strings.Builder
		if err := write(&page); err != nil {
			return err
		}
		return p.document(map[string]string{"report": page.String()})
	}
	size, err := p.toFile(out, write)
	if err != nil || out == "-" {
		return err
	}
	return p.show(writtenFile{out, size}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s\n", clean(out), human(placement.Bytes(size)))
	})
}

// exported is a pack of the region in a temporary folder.
func (p *program) exported(c *cli.Context, f evidence.Filter) (pack string, remove func(), err error) {
	client, err := p.client(c)
	if err != nil {
		return "", nil, err
	}
	defer client.Close()
	dir, err := os.MkdirTemp("", "sovmesh-audit-")
	if err != nil {
		return "", nil, err
	}
	pack = filepath.Join(dir, "export.tar")
	if _, err = p.toFile(pack, func(w io.Writer) error { return export(c.Context, client, f, w) }); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return pack, func() { _ = os.RemoveAll(dir) }, nil
}
