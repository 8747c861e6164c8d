package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

// leaves calls f for every command that can be run.
func leaves(commands []*cli.Command, path []string, f func(path []string, c *cli.Command)) {
	for _, c := range commands {
		here := append(append([]string{}, path...), c.Name)
		if len(c.Subcommands) == 0 {
			f(here, c)
		}
		leaves(c.Subcommands, here, f)
	}
}

func TestGoldenHelp(t *testing.T) {
	b := newBench(t)
	var all strings.Builder
	show := func(args ...string) {
		r := b.run(append(args, "--help")...)
		if r.exit != 0 || r.err != "" {
			t.Errorf("%v --help: exit %d, %s", args, r.exit, r.err)
		}
		fmt.Fprintf(&all, "$ sovmesh %s\n%s\n", strings.Join(append(args, "--help"), " "), r.out)
	}
	show()
	for _, c := range b.program(&bytes.Buffer{}, &bytes.Buffer{}).app().Commands {
		if len(c.Subcommands) > 0 {
			show(c.Name)
		}
	}
	leaves(b.program(&bytes.Buffer{}, &bytes.Buffer{}).app().Commands, nil, func(path []string, c *cli.Command) {
		show(path...)
		if !strings.Contains(c.UsageText, "sovmesh") {
			t.Errorf("%v has no example", path)
		}
	})
	golden(t, "help.txt", all.String())
}

// The help of what reads a file names every key that the file may have.
func TestHelpNamesEveryKey(t *testing.T) {
	_, err := api.ReadJob([]byte("no-such-field: 1"), api.JobOptions{Pack: residency.Embedded()})
	_, list, found := strings.Cut(api.HintOf(err), "are: ")
	if !found {
		t.Fatalf("the fields of a job are not told: %v, %s", err, api.HintOf(err))
	}
	for command, keys := range map[string][]string{"agent": agentKeys, "job run": strings.Split(list, ", ")} {
		words := strings.FieldsFunc(newBench(t).run(append(strings.Fields(command), "--help")...).out, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) })
		for _, key := range keys {
			if !slices.Contains(words, key) {
				t.Errorf("sovmesh %s --help does not name %s", command, key)
			}
		}
	}
}

func TestGoldenResidency(t *testing.T) {
	for name, args := range map[string][]string{
		"check.txt":          {"residency", "check", "EEA,adequate(EU),!US", "--data", "personal", "--sites", "testdata/mesh.json"},
		"check.json":         {"--json", "residency", "check", "EEA,adequate(EU),!US", "--data", "personal", "--sites", "testdata/mesh.json"},
		"check-long.json":    {"residency", "check", "@testdata/tag.yaml", "--sites", "testdata/mesh.json", "--json"},
		"check-refused.json": {"residency", "check", "CU,region:nowhere", "--sites", "testdata/mesh.json", "--json"},
		"check-unknown.txt":  {"residency", "check", "adequate(EU),!US", "--data", "personal", "--sites", "testdata/mtl.json"},
		"explain.txt":        {"residency", "explain", " fr , UK,eu,!hu,FR"},
		"explain.json":       {"residency", "explain", "@testdata/tag.yaml", "--json", "--as-of", "2027-12-28"},
	} {
		r := newBench(t).run(args...)
		golden(t, name, fmt.Sprintf("exit %d\n-- stdout --\n%s-- stderr --\n%s", r.exit, r.out, r.err))
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", UpdateScripts: *update})
}
