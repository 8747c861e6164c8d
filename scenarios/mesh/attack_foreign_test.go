package mesh

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// meshPaths are the operations of the mesh listener that are for nodes of the
// own region only.
var meshPaths = []struct{ method, path string }{
	{http.MethodGet, "/hello"}, {http.MethodPost, "/propose"}, {http.MethodPost, "/judge"}, {http.MethodGet, "/facts"},
	{http.MethodPost, "/certificate"}, {http.MethodGet, "/authority"}, {http.MethodGet, "/tasks/fra-1.01jd0000000000000000000000/0.1/secrets"}, {http.MethodGet, "/keyring"}, {http.MethodPut, "/keyring"}, {http.MethodGet, "/receipts"},
	{http.MethodGet, "/chain"}, {http.MethodGet, "/chain/proof?leaf=0"}, {http.MethodGet, "/chain/keeper?chain=h:x"}, {http.MethodGet, "/tasks/fra-1.x/0.1/logs"},
	{http.MethodGet, "/tasks/fra-1.x/0.1/outputs"}, {http.MethodGet, "/tasks/fra-1.x/0.1/outputs/sha256:00"},
	{http.MethodPost, "/tasks/fra-1.x/0.1/reach/exec"}, {http.MethodPost, "/tasks/fra-1.x/0.1/hold/pause"}, {http.MethodPost, "/tasks/fra-1.x/0.1/services/db"}, {http.MethodPost, "/tasks/fra-1.x/0.1/serve"}, {http.MethodPost, "/tasks/fra-1.x/0.1/move?stream=state"}, {http.MethodPost, "/tasks/fra-1.x/0.1/snapshot"}, {http.MethodPost, "/tasks/fra-1.x/0.1/disks/take"},
	{http.MethodGet, "/tasks/fra-1.x/0.1/isolation"}, {http.MethodGet, "/tasks/fra-1.x/0.1/drift"},
	{http.MethodGet, "/gpus"},
	{http.MethodGet, "/ledger/checkpoints?after=0"}, {http.MethodGet, "/ledger/openings?first=0&count=1"}, {http.MethodGet, "/ledger/tile/entries/000.p/1"},
}

// foreignReads are the operations of the table that anybody may use: the
// ledger's checkpoints and hash tiles cross borders by law 4, and a witness is
// asked by whoever holds a checkpoint that a peer's log signed.
func foreignReads() []string {
	return []string{api.Prefix + "/ledger/checkpoint", api.Prefix + "/ledger/tile/{path}", api.WitnessPrefix + "/add-checkpoint", api.WitnessPrefix + "/{sum}/checkpoint"}
}

// A foreign certificate uses every operation of the table over real HTTP/3: it
// gets none, whatever it says in its headers.
func TestAForeignCertificateHasNoAdministratorsVerb(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("ber-1", "DE", 1))
		r := m.rogue(m.stolen("ber-1", "n1"), outside(1))
		to := m.peer("fra-1", "n1")
		doc := openAPI(t, m)
		before := m.host("fra-1", "n1").node.View().LedgerSize()
		token := "Bearer " + m.region("fra-1").token
		walked := 0
		try := func(method, path string) {
			for _, h := range []http.Header{
				{},
				{"Authorization": {token}},
				{"Authorization": {token}, api.HeaderRelayed: {"n1"}},
				{"Authorization": {token}, api.HeaderRelayed: {"n1"}, api.HeaderResidency: {"EU"}, "Content-Type": {"application/json"}},
			} {
				body := ""
				if method != http.MethodGet {
					body = "{}"
				}
				if status, code := r.answer(method, to, path, h, body); status != http.StatusForbidden || code != api.CodeForeignVerb {
					t.Errorf("%s %s with %d headers: %d %s", method, path, len(h), status, code)
				}
				walked++
			}
		}
		for path, methods := range doc.Paths {
			if slices.Contains(foreignReads(), path) {
				continue // law 4 lists them
			}
			for method := range methods {
				path := strings.NewReplacer("{name}", "n1", "{id}", "founder", "{hash}", "x", "{tenant}", "default").Replace(path)
				try(strings.ToUpper(method), path)
			}
		}
		for _, op := range meshPaths {
			try(op.method, api.MeshPrefix+op.path)
		}
		if walked < 160 {
			t.Fatalf("only %d requests were made: the table has more", walked)
		}
		view := m.host("fra-1", "n1").node.View()
		if view.LedgerSize() != before || view.JobCount() != 0 {
			t.Errorf("something was proposed: %d leaves before, %d after, %d jobs", before, view.LedgerSize(), view.JobCount())
		}
		if status, code := r.answer(http.MethodGet, to, api.MeshPrefix+"/summary", nil, ""); status != http.StatusOK {
			t.Errorf("what it may do: %d %s", status, code)
		}
	})
}

type openapi struct {
	Paths map[string]map[string]json.RawMessage `json:"paths"`
}

func openAPI(t *testing.T, m *Mesh) (doc openapi) {
	t.Helper()
	status, body := m.Fetch("fra-1", "n1", api.Prefix+"/openapi.json")
	if status != http.StatusOK {
		t.Fatalf("the OpenAPI document: %d", status)
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// A bearer token opens its own region and no other; the other does not even
// look it up.
func TestABearerTokenShownToAnotherRegionIsRefused(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("ber-1", "DE", 1))
		token := http.Header{"Authorization": {"Bearer " + m.region("fra-1").token}}
		for _, path := range []string{"/status", "/jobs", "/nodes", "/tokens", "/whoami"} {
			if status, code := m.Raw(http.MethodGet, "fra-1", "n1", api.Prefix+path, token, ""); status != http.StatusOK {
				t.Fatalf("%s at home: %d %s", path, status, code)
			}
			if status, code := m.Raw(http.MethodGet, "ber-1", "n1", api.Prefix+path, token, ""); status != http.StatusUnauthorized || code != api.CodeForeignToken {
				t.Errorf("%s elsewhere: %d %s", path, status, code)
			}
		}
		// Not even when that region's own nodes pass it on.
		r := m.rogue(m.stolen("ber-1", "n1"), outside(1))
		h := token.Clone()
		h.Set(api.HeaderRelayed, "n1")
		if status, code := r.answer(http.MethodGet, m.peer("ber-1", "n1"), api.Prefix+"/tokens", h, ""); status != http.StatusUnauthorized || code != api.CodeForeignToken {
			t.Errorf("passed on: %d %s", status, code)
		}
	})
}

// A region that says of itself, in its summaries or by federating again, that
// it lies elsewhere: the facts that an operator approved stay.
func TestAForeignRegionCannotRedeclareItsCountry(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("iad-1", "US", 1))
		facts := func() placement.RegionFacts { return m.host("fra-1", "n1").node.View().Region("iad-1").Facts }
		pinned := facts()
		_, err := m.At("fra-1").Cordon(t.Context(), "n1")
		m.must(err)

		// Its own certificate, its own address, and a summary that lies.
		cred := m.stolen("iad-1", "n1")
		m.Kill("iad-1", "n1")
		liar := m.rogue(cred, m.host("iad-1", "n1").addr)
		asked := 0
		liar.endpoint.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.URL.Path, api.WitnessPrefix+"/") {
				w.WriteHeader(http.StatusTeapot) // a checkpoint names nobody's work
				return
			}
			if req.URL.Path != api.MeshPrefix+"/summary" {
				asked++
				w.WriteHeader(http.StatusTeapot)
				return
			}
			summary := placement.RegionSummary{
				Region: "iad-1", Generated: time.Now(), Expires: time.Now().Add(time.Minute), LawPack: residency.Embedded().Hash(),
				Classes: []placement.ClassSummary{{Class: "cpu", Free: 256, Largest: 256}},
			}
			said := map[string]any{
				"summary":     lie(t, summary, "country", "FR", "facts", map[string]any{"country": "FR"}),
				"front_doors": []placement.FrontDoor{{QUIC: m.peer("iad-1", "n1").Addr, API: "https://" + m.peer("iad-1", "n1").Addr}},
				"law_pack":    residency.Embedded().Hash(),
				"facts":       map[string]any{"country": "FR", "operator": map[string]string{"home": "FR", "parent": "none"}},
				"country":     "FR",
			}
			payload, err := json.Marshal(said)
			if err != nil {
				panic(err)
			}
			statement, err := identity.Sign(cred, api.ContextSummary, payload, time.Now())
			if err != nil {
				panic(err)
			}
			_, _ = w.Write([]byte(statement))
		}))
		m.Within(20*time.Second, "France hears the liar", func() bool {
			s, err := m.At("fra-1").Region(t.Context(), "iad-1")
			return err == nil && s.Link == api.LinkUp && s.Summary != nil && len(s.Summary.Classes) == 1 && s.Summary.Classes[0].Free == 256
		})
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"EU","command":["run","1s"]}`)
		time.Sleep(30 * time.Second)
		if got := facts(); got.Country != pinned.Country || got.Operator != pinned.Operator {
			t.Errorf("the facts are %+v now", got)
		}
		if asked > 0 || !job.Is(placement.JobPending)() {
			t.Errorf("the liar was asked %d times; %s", asked, job)
		}
		liar.stop()
	})
}

// lie writes a value as JSON with further fields.
func lie(t *testing.T, v any, more ...any) map[string]any {
	data, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Error(err)
	}
	for i := 0; i+1 < len(more); i += 2 {
		out[more[i].(string)] = more[i+1]
	}
	return out
}

// Federating again with other facts changes nothing until an operator of this
// region approves them.
func TestFederatingAgainChangesNoFacts(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("iad-1", "US", 1))
		fra := m.host("fra-1", "n1").node
		before := fra.View().Region("iad-1").Facts
		if _, err := m.At("fra-1").InviteRegion(t.Context(), "iad-1"); Code(err) != "peer.exists" {
			t.Errorf("an active peer is invited once more: %v", err)
		}
		bundle, err := m.ca("iad-1").Bundle().Marshal()
		m.must(err)
		card := api.RegionCard{
			Region: "iad-1", Mesh: Domain, Bundle: bundle, ServingCA: string(m.ca("iad-1").ServingRootPEM()), LawPack: residency.Embedded().Hash(),
			Facts:      placement.RegionFacts{Country: "FR", Operator: placement.Operator{Home: "FR", Parent: "none"}},
			FrontDoors: []placement.FrontDoor{{QUIC: m.peer("iad-1", "n1").Addr, API: "https://" + m.peer("iad-1", "n1").Addr}},
		}
		for _, code := range []string{"", "nonsense"} {
			body, err := json.Marshal(api.FederationJoin{Code: code, Region: card})
			m.must(err)
			if status, what := m.Raw(http.MethodPost, "fra-1", "n1", api.Prefix+"/federation/join", http.Header{"Content-Type": {"application/json"}}, string(body)); status < 400 {
				t.Errorf("code %q: %d %s", code, status, what)
			}
		}
		if after := fra.View().Region("iad-1").Facts; after.Country != before.Country {
			t.Errorf("the facts are %+v now", after)
		}
	})
}
