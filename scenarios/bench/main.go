// Command bench measures what the project promises about speed and size, with
// real agents: three processes of one region on loopback, mutual TLS between
// them, TLS to clients, and a raft log that is synced to disk. It prints the
// promises beside this machine's figures, and writes bench.txt and bench.json.
//
// The rule: a figure is measured from outside, over the API that everybody has,
// and medians are quoted; what the ledger costs has no outside, and engines and
// machines are compared with the bare ones, so that those rows come from Go
// benchmarks. How each was taken stands in its note. Load and core count are part
// of the result: on a busy machine it measures the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sovmesh/sovmesh/scenarios/agents"
)

// options say how much is measured.
type options struct {
	quick, keep bool
	only        map[string]bool // names of measurements; empty: all
	dir         string
}

// times is n, or fewer in a quick run.
func (o options) times(n, quick int) int {
	if o.quick {
		return quick
	}
	return n
}

func (o options) wants(name string) bool { return len(o.only) == 0 || o.only[name] }

func main() {
	quick := flag.Bool("quick", false, "fewer and shorter runs")
	only := flag.String("only", "", "measure only these, with commas between: start idle running line drain failover single many pending ledger placement scale sleepers runtimes")
	dir := flag.String("dir", "", "directory on the disk to measure; a temporary one if empty")
	out := flag.String("out", ".", "directory for bench.txt and bench.json")
	keep := flag.Bool("keep", false, "leave the agents' directories and logs behind, and say where")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := options{quick: *quick, keep: *keep, only: map[string]bool{}, dir: *dir}
	for name := range strings.SplitSeq(*only, ",") {
		if name != "" {
			o.only[name] = true
		}
	}
	if err := run(ctx, o, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out string) error {
	dir, err := os.MkdirTemp(o.dir, "sovmesh-bench")
	if err != nil {
		return err
	}
	if o.keep {
		say("everything is kept in %s", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	say("building the program")
	program, err := agents.Build(ctx, dir)
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, program: program, report: newReport()}
	defer b.close()
	failed := b.all(ctx)
	b.report.finish()
	text := b.report.text()
	fmt.Print(text)
	if err := os.WriteFile(filepath.Join(out, "bench.txt"), []byte(text), 0o644); err != nil {
		return err
	}
	if err := b.report.write(filepath.Join(out, "bench.json")); err != nil {
		return err
	}
	return failed
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}
