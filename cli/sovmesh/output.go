package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/mattn/go-runewidth"
	"github.com/sovmesh/sovmesh/placement"
)

// document prints one JSON document: the whole of stdout with --json.
func (p *program) document(v any) error {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return nil
}

// show prints the document for programs, or lets text write for people.
func (p *program) show(v any, text func(w io.Writer)) error {
	if p.json {
		return p.document(v)
	}
	text(p.out)
	return nil
}

// table is aligned columns for people. Its cells come from servers, too: they
// are cleaned of what a terminal would obey.
type table struct {
	p    *program
	rows [][]string
}

func (p *program) table(head ...string) *table { return &table{p: p, rows: [][]string{head}} }

func (t *table) add(cells ...string) {
	for i, c := range cells {
		if c = clean(c); c == "" {
			c = "-"
		}
		cells[i] = c
	}
	t.rows = append(t.rows, cells)
}

// lastMin is the least width that the last column is wrapped to.
const lastMin = 24

// write prints the table. On a terminal the last column is wrapped within it,
// so that no line runs into the next row.
func (t *table) write(w io.Writer) {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], runewidth.StringWidth(c))
		}
	}
	indent := 0
	for _, n := range widths[:len(widths)-1] {
		indent += n + 2
	}
	room := 0
	if t.p.width > 0 {
		room = max(t.p.width-indent-1, lastMin)
	}
	for n, row := range t.rows {
		for i, c := range row[:len(row)-1] {
			pad := strings.Repeat(" ", widths[i]-runewidth.StringWidth(c)+2)
			if n > 0 {
				c = t.p.tint(c)
			}
			fmt.Fprint(w, c, pad)
		}
		for i, part := range wrap(row[len(row)-1], room) {
			if i > 0 {
				fmt.Fprint(w, strings.Repeat(" ", indent))
			}
			fmt.Fprintln(w, part)
		}
	}
}

// wrap breaks text at blanks into lines of at most room columns; 0 is no limit.
func wrap(text string, room int) []string {
	if room == 0 || runewidth.StringWidth(text) <= room {
		return []string{text}
	}
	var lines []string
	current := ""
	for _, word := range strings.Fields(text) {
		if current != "" && runewidth.StringWidth(current)+1+runewidth.StringWidth(word) > room {
			lines, current = append(lines, current), ""
		}
		current = strings.TrimLeft(current+" "+word, " ")
	}
	return append(lines, current)
}

// tint colours a whole word that says how something stands; the word itself
// carries the meaning.
func (p *program) tint(word string) string {
	if !p.outTTY || p.getenv("NO_COLOR") != "" || p.getenv("TERM") == "dumb" {
		return word
	}
	switch word {
	case "permitted", "running", "complete", "ready", "up", "ok", "would place", "active":
		return "\x1b[32m" + word + "\x1b[0m"
	case "refused", "failed", "lost", "not lawful", "blocked":
		return "\x1b[31m" + word + "\x1b[0m"
	case "unknown", "pending", "draining", "cordoned", "out of reach", "no room":
		return "\x1b[33m" + word + "\x1b[0m"
	}
	return word
}

// human writes a size as people compare them: three digits and a unit.
func human(b placement.Bytes) string {
	if b == 0 {
		return "0"
	}
	size, unit := float64(b), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if size < 1000 {
			break
		}
		size, unit = size/1024, next
	}
	return strconv.FormatFloat(size, 'g', 3, 64) + unit
}

// facts prints "name: value" lines, aligned; empty values are left out.
func (p *program) facts(w io.Writer, pairs ...string) {
	width := 0
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, len(pairs[i]))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		for n, part := range wrap(clean(pairs[i+1]), max(p.width-width-3, 0)) {
			name := pairs[i] + ":"
			if n > 0 {
				name = ""
			}
			fmt.Fprintf(w, "%-*s %s\n", width+1, name, part)
		}
	}
}
