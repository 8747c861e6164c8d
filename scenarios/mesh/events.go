package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// events keeps the log of all nodes and shows it when the test fails: a failing
// run cannot be repeated exactly, so what it said is all there is.
type events struct {
	t     *testing.T
	begin time.Time
	mu    sync.Mutex
	lines []string // guarded by mu; the newest eventsMax
}

const eventsMax = 4000

func newEvents(t *testing.T) *events {
	e := &events{t: t, begin: time.Now()}
	t.Cleanup(func() {
		if t.Failed() {
			e.mu.Lock()
			defer e.mu.Unlock()
			t.Logf("what the nodes said:\n%s", strings.Join(e.lines, "\n"))
		}
	})
	return e
}

func (e *events) add(who, what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.lines) >= eventsMax {
		e.lines = append(e.lines[:0], e.lines[eventsMax/2:]...)
	}
	e.lines = append(e.lines, fmt.Sprintf("%9.3fs %-10s %s", time.Since(e.begin).Seconds(), who, what))
}

func (e *events) handler(who string) slog.Handler { return &eventHandler{e: e, who: who} }

type eventHandler struct {
	e     *events
	who   string
	attrs string
}

func (h *eventHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *eventHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Level.String() + " " + r.Message + h.attrs)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	h.e.add(h.who, b.String())
	return nil
}

func (h *eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	for _, a := range attrs {
		if a.Key != "region" && a.Key != "node" {
			next.attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
	}
	return &next
}

func (h *eventHandler) WithGroup(string) slog.Handler { return h }

// count is how many lines of somebody say a text.
func (e *events) count(who, text string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, line := range e.lines {
		if strings.Contains(line, who) && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// line is the last line of somebody with all of the words; empty if there is none.
func (e *events) line(who string, words ...string) (found string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, line := range e.lines {
		all := strings.Contains(line, who)
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = line
		}
	}
	return found
}
