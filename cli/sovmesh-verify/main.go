// Command sovmesh-verify is `sovmesh audit verify` built alone: it judges
// evidence packs and receipts offline.
//
// It knows the ledger's formats, the residency law and certificates, and
// nothing of a running mesh: a test holds its imports to that. It opens the
// files it is given and no connection. An auditor who trusts nobody builds it
// from source; it is small enough to be read first.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
)

// version is set by the linker.
var version = "dev"

const usage = `usage: sovmesh-verify --policy POLICY [--max-age AGE] [--json] FILE...

Judges evidence packs and receipts of a mesh, offline. POLICY is the only thing
that is trusted: it names the logs, the witnesses and the regions' roots. Get it
from the operator and compare it by another way. Without it the verdict is
"origin: self-declared".

  --policy FILE   the auditor's policy (https://c2sp.org/tlog-policy)
  --max-age AGE   fail if the last checkpoint is older, as in 24h
  --json          print one JSON document
  --version       print the version

exit: 0 every verdict holds, 1 the evidence does not hold, 2 nothing was judged
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, time.Now())) }

// run is the program, with what it prints and the time it is.
func run(args []string, out, errs io.Writer, now time.Time) int {
	flags := flag.NewFlagSet("sovmesh-verify", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	policy := flags.String("policy", "", "")
	maxAge := flags.Duration("max-age", 0, "")
	asJSON := flags.Bool("json", false, "")
	show := flags.Bool("version", false, "")
	files, err := parse(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		return evidence.ExitHolds
	case err != nil:
		return misuse(errs, &evidence.Misuse{What: err.Error(), Help: "see sovmesh-verify --help"})
	case *maxAge < 0:
		return misuse(errs, &evidence.Misuse{What: "an age is not negative", Help: "give --max-age as in 24h"})
	case *show:
		fmt.Fprintln(out, "sovmesh-verify", version)
		return evidence.ExitHolds
	}
	q := evidence.Request{Policy: *policy, Files: files, Open: open, JSON: *asJSON, Options: evidence.Options{Now: now, MaxAge: *maxAge}}
	exit, err := q.Run(out)
	if err != nil {
		return misuse(errs, err)
	}
	return exit
}

func open(name string) (io.ReadCloser, error) { return os.Open(name) }

// parse takes flags before, behind and between the files; "--" ends them.
func parse(flags *flag.FlagSet, args []string) (files []string, err error) {
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		rest := flags.Args()
		if done := len(args) - len(rest); done > 0 && args[done-1] == "--" {
			return append(files, rest...), nil
		}
		if len(rest) == 0 {
			break
		}
		files, args = append(files, rest[0]), rest[1:]
	}
	return files, nil
}

func misuse(w io.Writer, err error) int {
	fmt.Fprintf(w, "sovmesh-verify: %v\n", err)
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		fmt.Fprintf(w, "   what to do: %s\n", hinted.Hint())
	}
	return evidence.ExitMisuse
}
