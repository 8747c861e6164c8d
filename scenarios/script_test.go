package scenarios

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	textdiff "github.com/rogpeppe/go-internal/diff"
)

// built is the program of all scripts: made once, from this checkout.
var built struct {
	sync.Once
	bin string // a folder for PATH
	err error
}

func TestMain(m *testing.M) {
	// Under another name this binary is one of the scripts' own words.
	if tool, ok := tools[filepath.Base(os.Args[0])]; ok {
		os.Exit(tool(os.Args[1:]))
	}
	code := m.Run()
	if built.bin != "" {
		_ = os.RemoveAll(built.bin)
	}
	os.Exit(code)
}

// build makes the folder of programs: sovmesh itself and the words in tools.
func build() (string, error) {
	built.Do(func() {
		if built.bin, built.err = os.MkdirTemp("", "sovmesh-scripts-"); built.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(built.bin, "sovmesh"), module+"/cli/sovmesh")
		if out, err := c.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build sovmesh: %w\n%s", err, out)
			return
		}
		self, err := os.Executable()
		for name := range tools {
			if err == nil {
				err = os.Symlink(self, filepath.Join(built.bin, name))
			}
		}
		built.err = err
	})
	return built.bin, built.err
}

// scriptWithin bounds one script; most take a few seconds.
const scriptWithin = 2 * time.Minute

// TestScripts plays every script of testdata/script in a directory and with a
// home of its own, and compares what each command printed and its exit code with
// what stands beneath it. With -update it writes that instead.
func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("real meshes are not part of the short tests")
	}
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			playFile(t, bin, file)
		})
	}
}

func playFile(t *testing.T, bin, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseScript(data)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), scriptWithin)
	defer cancel()
	broken := s.play(ctx, bin, dir)
	got := s.format()
	if broken != nil {
		t.Fatalf("%s: %v\nuntil then:\n%s", file, broken, textdiff.Diff(file, data, "played now", got))
	}
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := textdiff.Diff(file, data, "played now", got); len(d) > 0 {
		t.Errorf("%s does not do what it says; if that is meant: make golden\n%s", file, d)
		logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		for _, l := range logs {
			text, _ := os.ReadFile(l)
			t.Logf("%s:\n%s", filepath.Base(l), text)
		}
	}
}
