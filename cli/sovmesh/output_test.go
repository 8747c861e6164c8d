package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mattn/go-runewidth"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func TestTablesAreAligned(t *testing.T) {
	var out bytes.Buffer
	p := newBench(t).program(&out, &out)
	tab := p.table("NAME", "STATE", "REASON")
	tab.add("käse", "ready", "")
	tab.add("日本", "draining", "moves \x1b[2J away")
	tab.write(&out)
	const want = "NAME  STATE     REASON\nkäse  ready     -\n日本  draining  moves \\x1b[2J away\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// On a terminal no line is wider than it, and words are coloured; a column of
// words stays readable without.
func TestTablesFitTheTerminal(t *testing.T) {
	var out bytes.Buffer
	p := newBench(t).program(&out, &out)
	p.width, p.outTTY = 60, true
	tab := p.table("REGION", "VERDICT", "REASON")
	tab.add("fra-1", "refused", strings.Repeat("the site does not state what is asked ", 6))
	tab.write(&out)
	plain := strings.NewReplacer("\x1b[31m", "", "\x1b[0m", "").Replace(out.String())
	if plain == out.String() {
		t.Error("nothing is coloured")
	}
	for _, l := range strings.Split(plain, "\n") {
		if runewidth.StringWidth(l) > 60 {
			t.Errorf("%d columns: %q", runewidth.StringWidth(l), l)
		}
	}
	b := newBench(t)
	b.env["NO_COLOR"] = "1"
	p = b.program(&out, &out)
	if p.outTTY = true; p.tint("refused") != "refused" {
		t.Error("NO_COLOR is not heard")
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := newBench(t).program(&out, &out)
	line := p.progress()
	for _, s := range []string{"one", "one", "two"} {
		line.say("%s", s)
	}
	line.done()
	if out.String() != "one\ntwo\n" {
		t.Errorf("elsewhere: %q", out.String())
	}
	out.Reset()
	p.errTTY = true
	line = p.progress()
	line.say("one")
	line.note("blocked")
	line.say("two")
	line.done()
	if out.String() != "\r\x1b[Kone\r\x1b[Kblocked\n\r\x1b[Ktwo\n" {
		t.Errorf("on a terminal: %q", out.String())
	}
	if got := bar(1, 4); got != "[#####...............] 1/4" {
		t.Error(got)
	}
}

func TestHuman(t *testing.T) {
	for b, want := range map[placement.Bytes]string{0: "0", 64 * placement.MiB: "64MiB", 80 * placement.GiB: "80GiB", 24684096 * placement.KiB: "23.5GiB", 999: "999B", 1023 * placement.GiB: "0.999TiB"} {
		if got := human(b); got != want {
			t.Errorf("%d: %s, want %s", b, got, want)
		}
	}
}

// FuzzTagFile gives the reader of tag files anything: it answers with a value
// or an error that has a code, and never breaks.
func FuzzTagFile(f *testing.F) {
	for _, s := range []string{"residency: {allow: [EU], deny: [NO]}", "residency: EU\n---\na: b", "a: &a [*a]", "? a\n: b", "{\"residency\":\"EU\"}", "<<: {a: b}", "- - - -", "a: !!binary x", "\x00"} {
		f.Add([]byte(s))
	}
	pack := residency.Embedded()
	on, err := residency.ParseDate("2026-11-21")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := decodeTagFile(data, "tag.yaml")
		if err == nil {
			_, _, err = residency.ParseLong(v, pack, on)
		}
		if err != nil && exitOf(err) != 2 {
			t.Errorf("exit %d: %v", exitOf(err), err)
		}
	})
}
