package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite expected output")

// today is the day of the specification's worked examples.
var today = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sovmesh": main})
}

// result is what one command line gave.
type result struct {
	exit     int
	out, err string
}

// bench is a command line without a machine around it.
type bench struct {
	t        *testing.T
	contexts string
	env      map[string]string
	in       string
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, contexts: filepath.Join(t.TempDir(), "contexts.yaml"), env: map[string]string{}}
}

func (b *bench) program(out, err *bytes.Buffer) *program {
	return &program{
		in: strings.NewReader(b.in), out: out, err: err, now: func() time.Time { return today },
		getenv: func(name string) string { return b.env[name] }, contexts: b.contexts,
	}
}

func (b *bench) run(args ...string) result {
	b.t.Helper()
	var out, err bytes.Buffer
	exit := b.program(&out, &err).run(context.Background(), args)
	return result{exit, out.String(), err.String()}
}

// file writes a file for a test and returns its path.
func (b *bench) file(name, content string) string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// golden compares with testdata/golden/name, or rewrites it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the output differs from %s; if that is meant: go test ./cli/sovmesh -run Golden -update\ngot:\n%s", path, got)
	}
}
