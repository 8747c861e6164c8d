package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"os"

	"github.com/sovmesh/sovmesh/scenarios/devmesh"
	"github.com/sovmesh/sovmesh/scenarios/tour"
	"github.com/urfave/cli/v2"
)

func (p *program) demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "start a mesh of three regions, play a tour on it, check what is seen",
		Description: `Three regions (France, Germany, the United States) of three nodes each, in one
process on loopback. Only Germany has H200 devices. Every step is checked;
the exit code is 0 if all were as they must be. Nothing is left behind.`,
		UsageText: "sovmesh demo",
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return p.inDataDir("", func(dir string) error { return p.demo(c.Context, dir) })
		},
	}
}

// demoReport is what the tour saw.
type demoReport struct {
	OK     bool         `json:"ok"`
	Passed int          `json:"passed"`
	Failed int          `json:"failed"`
	Took   string       `json:"took"`
	Checks []tour.Check `json:"checks"`
}

func (p *program) demo(ctx context.Context, dir string) error {
	begin := p.now()
	cfg := p.devConfig()
	cfg.Regions, cfg.Dir, cfg.Severable, cfg.Level = tour.Regions(), dir, true, slog.LevelDebug
	m, err := devmesh.New(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintln(p.err, "starting three regions of three nodes: fra-1 (FR), ber-1 (DE, the only one with H200), iad-1 (US)")
	run, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(run) }()
	select {
	case err := <-ended:
		return errors.Join(devFault(err), ctx.Err())
	case <-m.Ready():
	}
	number := 0
	checks, err := tour.Play(ctx, m, func(c tour.Check) { number++; p.tellCheck(number, c) })
	stop()
	if err = errors.Join(err, <-ended); err != nil {
		return err
	}
	number++
	last := nothingLeft(dir)
	p.tellCheck(number, last)
	return p.endDemo(append(checks, last), took(begin, p.now()))
}

// tellCheck prints one check for people, as soon as it is made.
func (p *program) tellCheck(number int, c tour.Check) {
	if p.json {
		return
	}
	word := "ok"
	if !c.OK {
		word = "failed"
	}
	fmt.Fprintf(p.out, "\n%2d. %s\n    typed: %s\n    seen:  %s\n    %s (%d ms)\n", number, clean(c.Title), clean(c.Typed), clean(c.Seen), p.tint(word), c.TookM)
}

func (p *program) endDemo(checks []tour.Check, took string) error {
	report := demoReport{OK: true, Took: took, Checks: checks}
	for _, c := range checks {
		if c.OK {
			report.Passed++
		} else {
			report.Failed++
			report.OK = false
		}
	}
	err := p.show(report, func(w io.Writer) {
		fmt.Fprintf(w, "\nchecked in %s:\n", took)
		for _, c := range checks {
			word := "ok    "
			if !c.OK {
				word = "failed"
			}
			fmt.Fprintf(w, "  %s  %s\n", word, clean(c.Title))
		}
		fmt.Fprintf(w, "%d of %d were as they must be\n", report.Passed, len(checks))
	})
	if err != nil || report.OK {
		return err
	}
	return &outcome{1, fmt.Sprintf("%d of %d checks failed", report.Failed, len(checks)), "read what was seen above"}
}

// nothingLeft looks for processes that name the mesh's directory.
func nothingLeft(dir string) tour.Check {
	c := tour.Check{Title: "the mesh has stopped, and its tasks with it", Typed: "(SIGINT)"}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(lines) == 0 {
		c.Seen = "the list of processes cannot be read here"
		return c
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(line), dir) { // one that has ended meanwhile is none
			c.Seen = "still there: " + strings.ReplaceAll(string(line), "\x00", " ")
			return c
		}
	}
	c.OK, c.Seen = true, "no process of it is left"
	return c
}
