package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "from", Usage: "leaves from then on: a `TIME` of RFC 3339, a day as in 2026-11-21, or an age as in 24h"},
		&cli.StringFlag{Name: "to", Usage: "leaves up to then, in the same words"},
		&cli.StringFlag{Name: "job", Usage: "with what the leaves about this `JOB` commit to: its names and commands"},
		&cli.StringFlag{Name: "tenant", Usage: "with what the leaves about this `TENANT`'s jobs commit to"},
		&cli.BoolFlag{Name: "acts", Usage: "with who administered and where from: ids of tokens, nodes, addresses"},
		&cli.StringFlag{Name: "regime", Usage: "arrange reports by `nis2,ai-act,gdpr`: one or more of " + strings.Join(evidence.Regimes(), ",")},
	}
}

// writtenFile is what was written where, for --json.
type writtenFile struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

func (p *program) auditExport() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write an evidence pack of the region to a file",
		Description: "A pack holds all leaves of the time, so that a missing one shows, and no name or\ncommand except of --job, --tenant or --acts. It holds one region; verify those of several\ntogether, and what they say of each other is compared. Needs the role auditor.",
		UsageText:   "sovmesh audit export --out fra-1.tar --from 2026-11-01 --to 2026-12-01",
		Flags:       append(append([]cli.Flag{&cli.StringFlag{Name: "out", Usage: "the `FILE` to write; - is stdout"}}, filterFlags()...), connectionFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.String("out") == "" {
				return usage("give --out FILE", "an export needs a file to go to")
			}
			filter, err := p.filter(c)
			if err != nil {
				return err
			}
			client, err := p.client(c)
			if err != nil {
				return err
			}
			defer client.Close()
			size, err := p.toFile(c.String("out"), func(w io.Writer) error { return export(c.Context, client, filter, w) })
			if err != nil || c.String("out") == "-" {
				return err
			}
			done := writtenFile{c.String("out"), size}
			return p.show(done, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %s\n", clean(done.File), human(placement.Bytes(size)))
				fmt.Fprintf(p.err, "next: sovmesh audit verify --policy POLICY %s\n", clean(done.File))
			})
		},
	}
}

func export(ctx context.Context, client *api.Client, f evidence.Filter, w io.Writer) error {
	body, err := client.Export(ctx, f)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("the export broke off: %w", err)
	}
	return nil
}

// filter reads the flags of an export.
func (p *program) filter(c *cli.Context) (f evidence.Filter, err error) {
	for name, at := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if text := c.String(name); text != "" {
			if *at, err = p.when(text); err != nil {
				return f, usage("write 2026-11-21, 2026-11-21T12:00:00Z, or an age as in 24h", "--%s cannot be %s", name, quoteWord(text))
			}
		}
	}
	f.Job, f.Tenant, f.Acts = c.String("job"), c.String("tenant"), c.Bool("acts")
	f.Regime, err = regimes(c)
	return f, err
}

// when reads a time, a UTC day, or an age.
func (p *program) when(text string) (time.Time, error) {
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return p.now().Add(-age).UTC().Truncate(time.Second), nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	return at.UTC(), err
}

func regimes(c *cli.Context) (out []string, err error) {
	if c.String("regime") == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(c.String("regime"), ",") {
		if !slices.Contains(evidence.Regimes(), word) {
			return nil, usage("write one or more of "+strings.Join(evidence.Regimes(), ","), "there is no regime %s", quoteWord(word))
		}
		out = append(out, word)
	}
	return out, nil
}

// toFile writes a file in one step: it is there whole, or not at all. It gives
// the size.
func (p *program) toFile(name string, write func(io.Writer) error) (size int64, err error) {
	if name == "-" {
		return 0, write(p.out)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return 0, inputFile(err, "check the folder of --out")
	}
	buffered := bufio.NewWriter(f)
	err = write(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if info, e := f.Stat(); e == nil {
		size = info.Size()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is of no use
	}
	return size, err
}
