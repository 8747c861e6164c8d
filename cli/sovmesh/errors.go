package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/sovmesh/sovmesh/node/api"
)

// exitInterrupted is what shells expect of a program that SIGINT ended.
const exitInterrupted = 130

// outcome ends a command whose document says everything, with an exit code.
// Message and advice, if any, go to stderr alone.
type outcome struct {
	exit            int
	message, advice string
}

func (o *outcome) Error() string { return o.message }

// Hint says what to do.
func (o *outcome) Hint() string { return o.advice }

// usage is a misuse of the command line: nothing was changed.
func usage(hint, format string, args ...any) error {
	return &api.InputError{Code: api.CodeUsage, Message: fmt.Sprintf(format, args...), Help: hint}
}

// inputFile is a file that cannot be read.
func inputFile(err error, hint string) error {
	return &api.InputError{Code: "input.file", Message: err.Error(), Help: hint}
}

// exitOf is the exit code that an error calls for.
func exitOf(err error) int {
	var done *outcome
	switch {
	case err == nil:
		return 0
	case errors.As(err, &done):
		return done.exit
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case api.CodeOf(err) == "law.pack":
		return api.ExitUsage
	}
	return api.ExitOf(err)
}

// report prints an error as people and programs need it and returns the exit
// code: on stderr a line what and why and a line what to do, with --json also a
// document on stdout unless the command printed one of its own.
func (p *program) report(err error) int {
	exit := exitOf(err)
	if err == nil {
		return exit
	}
	var done *outcome
	if errors.As(err, &done) {
		if done.message != "" {
			p.complain(done.message, done.advice)
		}
		return exit
	}
	message, hint, code := err.Error(), api.HintOf(err), api.CodeOf(err)
	if exit == exitInterrupted {
		message, code = "interrupted", "interrupted"
	}
	if code == "" {
		code = "failed"
	}
	if hint == "" {
		hint = defaultHint(exit)
	}
	p.complain(message, hint)
	if p.json {
		doc := struct {
			Error any `json:"error"`
		}{struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Hint    string `json:"hint"`
		}{code, message, hint}}
		e := json.NewEncoder(p.out)
		e.SetEscapeHTML(false)
		_ = e.Encode(doc) // when stdout is gone the exit code still says it
	}
	return exit
}

// complain writes what and why, then what to do. A message of several problems
// has a line for each.
func (p *program) complain(message, hint string) {
	for _, m := range strings.Split(strings.TrimSpace(message), "\n") {
		fmt.Fprintf(p.err, "sovmesh: %s\n", clean(m))
	}
	if hint != "" {
		fmt.Fprintf(p.err, "   what to do: %s\n", clean(hint))
	}
}

func (p *program) warn(message string) { fmt.Fprintf(p.err, "warning: %s\n", clean(message)) }

func defaultHint(exit int) string {
	switch exit {
	case exitInterrupted:
		return "nothing more was done; what was submitted goes on: sovmesh job list"
	case api.ExitPermission:
		return "use a token with the role it needs: --token or SOVMESH_TOKEN"
	}
	return "see the command's --help, and the node's log"
}

// clean keeps what a server or a file says from moving the cursor of a
// terminal: control characters are shown as escapes.
func clean(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) && r != ' ' }

func quoteWord(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// nearest is the valid word with the fewest edits to what was written, when
// that is near enough to be a slip.
func nearest(written string, valid []string) string {
	if len(written) > 64 {
		return ""
	}
	best, at := max(1, len(written)/3)+1, ""
	for _, w := range valid {
		if d := edits(strings.ToLower(written), w); d < best {
			best, at = d, w
		}
	}
	return at
}

// edits is the Levenshtein distance of two short words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := before
			if a[i-1] != b[j-1] {
				cost++
			}
			before = row[j]
			row[j] = min(row[j]+1, row[j-1]+1, cost)
		}
	}
	return row[len(b)]
}
