package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestFlagsMayStandAnywhere(t *testing.T) {
	tests := []struct {
		name, line string
		argv       string // words joined by |; empty: see err
		err        string
	}{
		{"before the argument", "residency check --as-of 2026-11-21 EU", "sovmesh|residency|check|--as-of=2026-11-21|--|EU", ""},
		{"after the argument", "residency check EU --as-of 2026-11-21", "sovmesh|residency|check|--as-of=2026-11-21|--|EU", ""},
		{"before the command", "--json residency check EU", "sovmesh|residency|check|--json|--|EU", ""},
		{"between the words of the command", "node --context ber-1 list", "sovmesh|node|list|--context=ber-1|--", ""},
		{"a value behind =", "--addr=https://h:1 node list --json", "sovmesh|node|list|--addr=https://h:1|--json|--", ""},
		{"one dash", "residency check EU -json", "sovmesh|residency|check|--json|--|EU", ""},
		{"a lone dash is an argument", "job run - --wait", "sovmesh|job|run|--wait|--|-", ""},
		{"a dash is a value", "residency check EU --sites -", "sovmesh|residency|check|--sites=-|--|EU", ""},
		{"a value that looks like a flag", "node drain n1 --reason --now", "sovmesh|node|drain|--reason=--now|--|n1", ""},
		{"-- ends flags", "residency check --json -- --as-of", "sovmesh|residency|check|--json|--|--as-of", ""},
		{"a second -- is an argument", "residency check -- --", "sovmesh|residency|check|--|--", ""},
		{"the version", "--version", "sovmesh|version|--", ""},
		{"unknown flag", "residency check EU --as-off x", "", `sovmesh residency check has no flag "--as-off"`},
		{"unknown command", "resedency check", "", `sovmesh has no command "resedency"`},
		{"unknown command below", "job rum x", "", `sovmesh job has no command "rum"`},
		{"a group alone", "job", "", "sovmesh job needs a command after it"},
		{"a flag without its value", "residency check EU --sites", "", "--sites needs a value"},
		{"a flag without its value before --", "residency check --sites -- EU", "", "--sites needs a value"},
		{"a command's flag before it", "--wait job run x", "", `flag "--wait" stands before the command it belongs to`},
		{"the region's flags where none is talked to", "--addr https://h:1 version --context x", "sovmesh|version|--", ""},
		{"and behind an argument", "residency explain EU --context fra-1 --json", "sovmesh|residency|explain|--json|--|EU", ""},
		{"such a flag without its value", "version --context", "", "--context needs a value"},
		{"flags alone", "--json", "", "there are flags, but no command"},
	}
	b := newBench(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			app := b.program(&bytes.Buffer{}, &bytes.Buffer{}).app()
			l, err := arrange(app, strings.Fields(tt.line))
			if got := strings.Join(l.argv, "|"); err == nil && got != tt.argv {
				t.Errorf("got %s\nwant %s", got, tt.argv)
			}
			if text := errText(err); text != tt.err {
				t.Errorf("error %q, want %q", text, tt.err)
			}
			if err != nil && exitOf(err) != 2 {
				t.Errorf("exit %d, want 2", exitOf(err))
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestHelpNeedsNothingElse(t *testing.T) {
	b := newBench(t)
	for _, line := range []string{"", "help", "help job run", "job run --help", "--help job", "job --help run", "job run x --nonsense --help", "region join -h"} {
		if r := b.run(strings.Fields(line)...); r.exit != 0 || !strings.Contains(r.out, "usage:") || r.err != "" {
			t.Errorf("%q: exit %d, stderr %q, stdout %.80q", line, r.exit, r.err, r.out)
		}
	}
}

// Help for a command that there is not would look to a program as if there were
// one: "audit --help" with exit 0 is how scripts ask what a version can do.
func TestHelpOfAnUnknownCommandIsAMisuse(t *testing.T) {
	b := newBench(t)
	for _, line := range []string{"nonsense --help", "--help nonsense", "help nonsense", "job nonsense --help", "job nonsense x -h"} {
		if r := b.run(strings.Fields(line)...); r.exit != 2 || !strings.Contains(r.err, `has no command "nonsense"`) || r.out != "" {
			t.Errorf("%q: exit %d, stderr %q, stdout %.80q", line, r.exit, r.err, r.out)
		}
	}
}

func TestCompletion(t *testing.T) {
	b := newBench(t)
	if _, err := addContexts(b.contexts, map[string]target{"fra-1": {Addr: "https://a:1"}, "ber-1": {Addr: "https://b:1"}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ words, want string }{
		{"res", "residency"},
		{"residency|", "check explain"},
		{"residency|check|--s", "--sites"},
		{"node|dr", "drain"},
		{"job|list|--context|f", "fra-1"},
		{"--context|", "ber-1 fra-1"},
		{"job|run|jo", ""},
		{"nonsense|", ""},
	} {
		args := append([]string{"complete-words", "--"}, strings.Split(tt.words, "|")...)
		if r := b.run(args...); strings.Join(strings.Fields(r.out), " ") != tt.want || r.exit != 0 {
			t.Errorf("%s: %q, want %q (exit %d, %s)", tt.words, r.out, tt.want, r.exit, r.err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := b.run("completion", shell); r.exit != 0 || !strings.Contains(r.out, "complete-words") {
			t.Errorf("%s: exit %d, %s", shell, r.exit, r.err)
		}
	}
	if slices.Contains(names(b.program(&bytes.Buffer{}, &bytes.Buffer{}).app().Commands), "complete-words") {
		t.Error("complete-words is shown to people")
	}
}
