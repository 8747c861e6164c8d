package main

import (
	"fmt"

	"github.com/mattn/go-runewidth"
)

// progress tells how long work is getting on: one line that is rewritten on a
// terminal, a line for each change elsewhere. It writes to stderr.
type progress struct {
	p    *program
	last string
}

func (p *program) progress() *progress { return &progress{p: p} }

func (l *progress) say(format string, args ...any) {
	text := clean(fmt.Sprintf(format, args...))
	if text == l.last {
		return
	}
	l.last = text
	if !l.p.errTTY {
		fmt.Fprintln(l.p.err, text)
		return
	}
	if l.p.width > 1 {
		text = runewidth.Truncate(text, l.p.width-1, "…")
	}
	fmt.Fprintf(l.p.err, "\r\x1b[K%s", text)
}

// note writes a line that stays above the rewritten one.
func (l *progress) note(format string, args ...any) {
	if l.p.errTTY && l.last != "" {
		fmt.Fprint(l.p.err, "\r\x1b[K")
	}
	fmt.Fprintln(l.p.err, clean(fmt.Sprintf(format, args...)))
	l.last = ""
}

// done leaves the terminal on a fresh line.
func (l *progress) done() {
	if l.p.errTTY && l.last != "" {
		fmt.Fprintln(l.p.err)
	}
}

// bar is a gauge of n out of all, in words as well.
func bar(n, all int) string {
	const width = 20
	if all == 0 {
		return ""
	}
	full := min(width*n/all, width)
	b := make([]byte, width)
	for i := range b {
		b[i] = '.'
		if i < full {
			b[i] = '#'
		}
	}
	return fmt.Sprintf("[%s] %d/%d", b, n, all)
}
