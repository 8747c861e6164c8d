package api

import (
	"context"
	"net/http"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
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
