package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// ledgerFake has one tile of three leaves; bundles lie in a gap.
type ledgerFake struct{}

func (ledgerFake) ReadTile(_ context.Context, t ledger.Tile) ([]byte, error) {
	switch {
	case !t.In(3) && t.Level >= 0:
		return nil, &store.Beyond{Size: 3}
	case t.Level == ledger.EntriesLevel && t.Width == 2:
		return nil, &store.Gap{From: 0, To: 3}
	}
	return make([]byte, 32*t.Width), nil
}

func (ledgerFake) Entry(uint64) ([]byte, error) { return nil, &store.Gap{From: 0, To: 3} }

func (ledgerFake) Openings(first uint64, count int) ([]byte, error) { return make([]byte, count), nil }

// Tiles of hashes are for everybody, leaves for auditors of the own region
// alone, openings for its replicas alone.
func TestWhoReadsTheLedger(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	tiles := Prefix + "/ledger/tile/"
	if status, p, _ := fra.do(t, http.MethodGet, tiles+"0/000.p/3", nil, ""); status != http.StatusServiceUnavailable || p.Code != CodeUnavailable {
		t.Errorf("where no ledger is kept: %d %s", status, p.Code)
	}
	fra.server.cfg.LedgerFiles = func() LedgerFiles { return ledgerFake{} }
	auditor := bearer(fra.token(state.Token{ID: "aud", Roles: []state.Role{state.RoleAuditor}}))
	others := bearer(fra.token(state.Token{ID: "all", Roles: []state.Role{state.RoleViewer, state.RoleSubmitter, state.RoleOperator, state.RoleAdmin}}))
	for _, c := range []struct {
		path  string
		as    http.Header
		want  int
		cache string
	}{
		{tiles + "0/000.p/3", nil, http.StatusOK, "public, max-age=60"},
		{tiles + "0/000", nil, http.StatusNotFound, ""},
		{tiles + "0/0", nil, http.StatusNotFound, ""},
		{tiles + "0/000.p/256", nil, http.StatusNotFound, ""},
		{tiles + "entries/000.p/3", nil, http.StatusUnauthorized, ""},
		{tiles + "entries/000.p/3", others, http.StatusForbidden, ""},
		{tiles + "entries/000.p/3", auditor, http.StatusOK, "private, no-store"},
		{tiles + "entries/000.p/2", auditor, http.StatusServiceUnavailable, ""},
		{Prefix + "/ledger/checkpoint", nil, http.StatusServiceUnavailable, ""},
	} {
		status, p, h := fra.do(t, http.MethodGet, c.path, c.as, "")
		if status != c.want || c.cache != "" && h.Get("Cache-Control") != c.cache {
			t.Errorf("%s: %d %s, Cache-Control %q; want %d", c.path, status, p.Code, h.Get("Cache-Control"), c.want)
		}
	}
	foreign := identity.ID{Region: "ber-1", Mesh: testMesh, Node: "ber-1-n1"}
	own := identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}
	for path, want := range map[string][2]int{
		tiles + "0/000.p/3":                              {http.StatusOK, http.StatusOK},
		tiles + "entries/000.p/3":                        {http.StatusForbidden, http.StatusForbidden},
		MeshPrefix + "/ledger/tile/entries/000.p/3":      {http.StatusForbidden, http.StatusOK},
		MeshPrefix + "/ledger/openings?first=0&count=3":  {http.StatusForbidden, http.StatusOK},
		MeshPrefix + "/ledger/openings?first=0&count=-1": {http.StatusForbidden, http.StatusBadRequest},
	} {
		for i, who := range []identity.ID{foreign, own} {
			if status, p, _ := fra.mesh(t, who, http.MethodGet, path, nil, ""); status != want[i] {
				t.Errorf("%s as %s: %d %s, want %d", path, who, status, p.Code, want[i])
			}
		}
	}
}

// segmentsFake is a node's receipts: segment 2 of two tenants, 3 of one; 4 was
// erased, 5 is damaged.
type segmentsFake struct{}

func (segmentsFake) Chain() string { return "h:1" }

func (segmentsFake) Segment(seq uint64, wanted func(string, *receipt.Leaf) bool) (out []receipt.Kept, err error) {
	owners := map[uint64][]string{2: {"acme", "other"}, 3: {"other"}}[seq]
	switch {
	case seq == 5:
		return nil, errors.New("it was changed")
	case owners == nil:
		return nil, fs.ErrNotExist
	}
	some := false
	for _, owner := range owners {
		leaf := receipt.Leaf{Model: "m-" + owner, Outcome: receipt.Answered}
		data, err := leaf.Encode()
		if err != nil {
			return nil, err
		}
		one := receipt.Kept{Hash: ledger.HashLeaf(data)}
		if wanted(owner, &leaf) {
			one.Leaf, some = data, true
		}
		out = append(out, one)
	}
	if !some {
		return nil, nil
	}
	return out, nil
}

// A node's receipts are for replicas of its own region, as far as they were
// asked for; one that is not here is left out.
func TestWhoReadsANodesReceipts(t *testing.T) {
	w, fra, _, _ := mesh3(t)
	fra.ledger.must(t, state.CreateJoinToken{Hash: strings.Repeat("a", 64), Expires: w.clock.now().Add(time.Hour)})
	fra.ledger.must(t, state.JoinNode{TokenHash: strings.Repeat("a", 64), Node: placement.Node{ID: "w1", QUIC: "x:1", API: "https://x:1"}})
	fra.ledger.must(t, state.SetRole{Node: "w1", Role: placement.RoleWorker})
	own := identity.ID{Region: "fra-1", Mesh: testMesh, Node: "fra-1-n1"}
	path := func(q string) string { return MeshPrefix + "/receipts?" + q }
	if run, err := fra.server.segmentsHere(&SegmentsAsk{First: 1, Count: 9}); err != nil || run != nil {
		t.Errorf("where no receipts are kept: %x %v", run, err)
	}
	fra.server.cfg.Segments = segmentsFake{}
	for _, c := range []struct {
		who  identity.ID
		path string
		want int
	}{
		{own, path("first=1&count=4"), http.StatusOK},
		{own, path("first=5&count=1"), http.StatusInternalServerError},
		{own, path("first=1&count=0"), http.StatusBadRequest},
		{own, path("first=1&count=257"), http.StatusBadRequest},
		{own, path("first=x&count=1"), http.StatusBadRequest},
		{own, path("first=1&count=1" + strings.Repeat("&model=m", 257)), http.StatusBadRequest},
		{identity.ID{Region: "ber-1", Mesh: testMesh, Node: "ber-1-n1"}, path("first=1&count=4"), http.StatusForbidden},
		{identity.ID{Region: "fra-1", Mesh: testMesh, Node: "w1"}, path("first=1&count=4"), http.StatusForbidden},
	} {
		if status, p, _ := fra.mesh(t, c.who, http.MethodGet, c.path, nil, ""); status != c.want {
			t.Errorf("%.80s as %s: %d %s, want %d", c.path, c.who, status, p.Code, c.want)
		}
	}
	read := func(ask SegmentsAsk) string {
		t.Helper()
		run, err := fra.server.segmentsHere(&ask)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		err = evidence.ParseSegments(run, func(seq uint64, kept []receipt.Kept) error {
			word := fmt.Sprint(seq, ":")
			for _, k := range kept {
				if k.Leaf == nil {
					word += " hash"
					continue
				}
				l, err := receipt.Decode(k.Leaf)
				if err != nil {
					return err
				}
				word += " " + l.Model
			}
			out = append(out, word)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(out, "; ")
	}
	for _, c := range []struct {
		ask  SegmentsAsk
		want string
	}{
		{SegmentsAsk{First: 1, Count: 9}, "2: m-acme m-other; 3: m-other"},
		{SegmentsAsk{First: 2, Count: 2, Owner: "acme"}, "2: m-acme hash; 3:"},
		{SegmentsAsk{First: 2, Count: 2, Models: []string{"m-other", "x"}}, "2: hash m-other; 3: m-other"},
		{SegmentsAsk{First: 2, Count: 2, Owner: "acme", Models: []string{"m-other"}}, "2:; 3:"},
	} {
		if got := read(c.ask); got != c.want {
			t.Errorf("%+v: %s", c.ask, got)
		}
	}
}
