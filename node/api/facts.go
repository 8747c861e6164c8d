package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// Facts are what one voter says that a node without a replica may know: the
// tables of [state.RestoreFacts]. The node believes a set when most voters give
// the same digests for it, so the index is not part of what is compared.
type Facts struct {
	Index  uint64      `json:"index"`
	Tables []FactTable `json:"tables"`
}

// FactTable is one table. Data is there if it is small and the caller does not
// have it, or if the caller wants it.
type FactTable struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Data   []byte `json:"data,omitempty"`
}

// Digests are the digests of the tables in their order: two voters agree if
// theirs are equal.
func (f *Facts) Digests() string {
	out := make([]string, len(f.Tables))
	for i, t := range f.Tables {
		out[i] = t.Digest
	}
	return strings.Join(out, ",")
}

const (
	// factsEvery is how old an answer may be, at least: what all nodes share is
	// written once for all of them, and takes a twentieth of the time at most.
	factsEvery = 50 * time.Millisecond
	factsShare = 20
	// factsInline bounds a table that is sent although it was not asked for.
	factsInline = 16 << 10
	// maxFactNames bounds what a caller says that it has.
	maxFactNames = 64
)

// factCache is the view that nodes are told of, with what all are told.
type factCache struct {
	mu     sync.Mutex
	view   *state.View       // guarded by mu
	shared []state.FactTable // of view; guarded by mu
	next   time.Time         // not made again before; guarded by mu
}

// of gives a view not older than the newest by more than a moment.
func (f *factCache) of(newest *state.View) (*state.View, []state.FactTable) {
	f.mu.Lock()
	defer f.mu.Unlock()
	began := time.Now()
	if f.view != nil && (f.view.Index() >= newest.Index() || began.Before(f.next)) {
		return f.view, f.shared
	}
	f.view, f.shared = newest, newest.SharedFacts(f.shared)
	f.next = time.Now().Add(max(factsEvery, factsShare*time.Since(began)))
	return f.view, f.shared
}

// factsOf is what a node of this region is told now, of the view given.
func (s *Server) factsOf(node placement.NodeID, have, want []string) (*Facts, *state.View) {
	v, tables := s.facts.of(s.cfg.Ledger.View())
	tables = append(tables[:len(tables):len(tables)], v.FactsOf(node)...)
	out := &Facts{Index: v.Index(), Tables: make([]FactTable, len(tables))}
	for i, t := range tables {
		out.Tables[i] = FactTable{Name: t.Name, Digest: t.Digest}
		if slices.Contains(want, t.Digest) || len(t.Data) <= factsInline && !slices.Contains(have, t.Digest) {
			out.Tables[i].Data = t.Data
		}
	}
	return out, v
}

// facts answers as soon as the caller's set is another than it has, or after
// the wait. A node is told of itself alone.
func facts(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	q := c.r.URL.Query()
	have, want := digests(q.Get("have")), digests(q.Get("want"))
	if len(have) > maxFactNames || len(want) > maxFactNames {
		return &InputError{Code: CodeUsage, Message: "have and want name too many tables", Help: fmt.Sprintf("name at most %d digests", maxFactNames)}
	}
	known := strings.Join(have, ",")
	timer := newDeadline(c.r.Context(), o.Wait)
	defer timer.stop()
	for {
		out, v := s.factsOf(c.caller.Node, have, want)
		if len(want) > 0 || out.Digests() != known || timer.ctx.Err() != nil {
			if c.r.Context().Err() != nil {
				return context.Cause(c.r.Context())
			}
			return c.writeJSON(http.StatusOK, out)
		}
		if s.cfg.Ledger.View().Index() > v.Index() {
			moment(timer.ctx, factsEvery)
		} else if _, err := s.cfg.Ledger.Wait(timer.ctx, v.Index()); err != nil && timer.ctx.Err() == nil {
			return fmt.Errorf("wait for facts: %w", err)
		}
	}
}

// moment waits for d or the end of the context.
func moment(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func digests(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// Facts asks a voter of the own region for the caller's facts: have are the
// digests of those it has, in their order; the answer comes when they are
// others, or after the wait. Tables named in want come whole, at once.
func (m *MeshClient) Facts(ctx context.Context, p transport.Peer, have string, want []string, wait time.Duration) (*Facts, error) {
	q := url.Values{"have": {have}, "want": {strings.Join(want, ",")}, "wait": {wait.String()}}
	return meshJSON[Facts](ctx, m, p, meshCall{method: http.MethodGet, path: "/facts?" + q.Encode(), cargo: cargo(transport.CargoStatus)}, nil)
}
