package transport

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func policy(t *testing.T, tag string) residency.Policy {
	if t != nil {
		t.Helper()
	}
	var layers []placement.Layer
	for wire := range strings.SplitSeq(tag, " & ") {
		layers = append(layers, placement.Layer{Origin: residency.OriginJob, Tag: wire})
	}
	p, err := placement.ReadLayers(layers, residency.Embedded(), residency.DateOf(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)))
	if err != nil {
		panic(err)
	}
	return p
}

func anyPolicy() residency.Policy { return policy(nil, "ANY") }

var countries = map[placement.RegionID]string{"fr": "FR", "de": "DE", "us": "US"}

// guardOf is the guard of a region that has approved the others; change sets
// what its ledger says of them.
func guardOf(home placement.RegionID, change ...func(*placement.Region)) *ResidencyGuard {
	pack := residency.Embedded()
	return &ResidencyGuard{
		Home: home,
		Region: func(id placement.RegionID) *placement.Region {
			country, ok := countries[id]
			if !ok {
				return nil
			}
			r := &placement.Region{ID: id, Self: id == home, LawPack: pack.Hash(), Facts: placement.RegionFacts{Country: country, Operator: placement.Operator{Home: country, Parent: "none"}}}
			for _, c := range change {
				c(r)
			}
			return r
		},
		Law: func() placement.Law {
			return placement.Law{Pack: pack, On: residency.DateOf(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC))}
		},
	}
}

func TestResidencyGuard(t *testing.T) {
	tests := []struct {
		name     string
		from, to placement.RegionID
		cargo    Cargo
		rule     string // of the refusal; "" means permitted, "-" refused by another reason
	}{
		{"inside the tag", "fr", "de", Cargo{Kind: CargoJob, Policy: policy(t, "EU")}, ""},
		{"outside the tag", "fr", "us", Cargo{Kind: CargoJob, Policy: policy(t, "EU")}, "tag.allow"},
		{"a prompt outside", "fr", "us", Cargo{Kind: CargoInference, Policy: policy(t, "EEA,CH")}, "tag.allow"},
		{"denied place", "de", "us", Cargo{Kind: CargoJob, Policy: policy(t, "ANY,!US")}, "tag.deny"},
		{"one layer of two forbids", "fr", "us", Cargo{Kind: CargoJob, Policy: policy(t, "ANY & EU")}, "tag.allow"},
		{"home is no lawful relay", "us", "de", Cargo{Kind: CargoJob, Policy: policy(t, "DE")}, "tag.allow"},
		{"an answer goes back to a reader outside", "de", "us", Cargo{Kind: CargoJob, Policy: policy(t, "DE"), Use: placement.UseAnswer}, "tag.allow"},
		{"an answer goes back to a reader inside", "de", "fr", Cargo{Kind: CargoJob, Policy: policy(t, "DE,FR"), Use: placement.UseAnswer}, ""},
		{"no policy", "fr", "de", Cargo{Kind: CargoJob}, "-"},
		{"no policy for a prompt", "fr", "de", Cargo{Kind: CargoInference}, "-"},
		{"a kind nobody listed", "fr", "de", Cargo{Kind: "logs"}, "-"},
		{"no kind", "fr", "de", Cargo{}, "-"},
		{"a summary", "fr", "us", Cargo{Kind: CargoSummary}, ""},
		{"a certificate", "fr", "us", Cargo{Kind: CargoCertificate}, ""},
		{"a summary to a region nobody approved", "fr", "xx", Cargo{Kind: CargoSummary}, "-"},
		{"a job to a region nobody approved", "fr", "xx", Cargo{Kind: CargoJob, Policy: anyPolicy()}, "-"},
		{"a bundle to a region not approved yet", "fr", "xx", Cargo{Kind: CargoBundle}, ""},
		{"a policy on a reservation is judged too", "fr", "us", Cargo{Kind: CargoReservation, Policy: policy(t, "EU")}, "tag.allow"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := guardOf(test.from).PermitEgress(context.Background(), test.from, test.to, test.cargo)
			var refusal *residency.Refusal
			switch {
			case test.rule == "" && err != nil:
				t.Error(err)
			case test.rule == "-" && err == nil:
				t.Error("it was permitted")
			case test.rule != "" && test.rule != "-" && (!errors.As(err, &refusal) || refusal.Rule != test.rule):
				t.Errorf("got %v, want rule %s", err, test.rule)
			}
		})
	}
}

func TestBothPacksMustPermit(t *testing.T) {
	ctx := context.Background()
	on := func(hash string) func(*placement.Region) {
		return func(r *placement.Region) {
			if !r.Self {
				r.LawPack = hash
			}
		}
	}
	cargo := Cargo{Kind: CargoJob, Policy: anyPolicy()}
	var refusal *residency.Refusal
	if err := guardOf("fr", on("newer")).PermitEgress(ctx, "fr", "de", cargo); !errors.As(err, &refusal) || refusal.Rule != residency.RuleNotHeld {
		t.Errorf("a pack not held: %v", err)
	}
	g := guardOf("fr", on("newer"))
	law, asked := g.Law(), ""
	law.Held = func(hash string) *residency.Pack { asked = hash; return residency.Embedded() }
	g.Law = func() placement.Law { return law }
	if err := g.PermitEgress(ctx, "fr", "de", cargo); err != nil || asked != "newer" {
		t.Errorf("a pack that is held: %v, asked for %q", err, asked)
	}
	if err := guardOf("fr", on("")).PermitEgress(ctx, "fr", "de", cargo); err == nil {
		t.Error("the peer's pack is unknown, and unknown fails")
	}
}

// A caller that forgot the border's rule is not let through for it.
func TestTheGuardAddsTheExportRule(t *testing.T) {
	g := guardOf("de", func(r *placement.Region) {
		if r.Self {
			r.Export = "DE"
		}
	})
	for _, use := range []placement.Use{placement.UseRun, placement.UseAnswer, placement.UseLogs} {
		var refusal *residency.Refusal
		err := g.PermitEgress(context.Background(), "de", "fr", Cargo{Kind: CargoJob, Policy: policy(t, "EU"), Use: use})
		if !errors.As(err, &refusal) || refusal.Layer != residency.OriginExport {
			t.Errorf("use %d: %v", use, err)
		}
	}
	if err := g.PermitEgress(context.Background(), "de", "fr", Cargo{Kind: CargoSummary}); err != nil {
		t.Errorf("a summary has no policy: %v", err)
	}
}

// What the guard refuses must not so much as open a connection.
func TestNothingLeavesUnguarded(t *testing.T) {
	guards := map[string]struct {
		guard  Guard
		cargo  Cargo
		reason error
	}{
		"no guard":         {nil, Cargo{Kind: CargoSummary}, ErrNoGuard},
		"unknown kind":     {allowAll{}, Cargo{Kind: "gossip"}, ErrCargoKind},
		"job no policy":    {allowAll{}, Cargo{Kind: CargoJob}, ErrNoPolicy},
		"outside the tag":  {guardOf("fr"), Cargo{Kind: CargoJob, Policy: policy(t, "FR")}, nil},
		"prompt elsewhere": {guardOf("fr"), Cargo{Kind: CargoInference, Policy: policy(t, "FR")}, nil},
	}
	for name, test := range guards {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1500, func(t *testing.T, m *testMesh) {
				cfg := m.config("fr", "n1", "10.0.0.1:7000")
				cfg.Guard = test.guard
				a, b := m.run(cfg), m.node("us", "n1", "10.0.0.2:7000")
				b.ServeH3(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") }))
				b.ServeInfer(func(context.Context, *Stream) { t.Error("a prompt arrived") })
				_, err := a.Do(ctxFor(t, 5*time.Second), b.peer(), test.cargo, request(t, "GET", "/", nil))
				check := func(err error, reason error) {
					t.Helper()
					var refused *EgressError
					if !errors.As(err, &refused) || refused.Hint() == "" || reason != nil && !errors.Is(err, reason) {
						t.Errorf("got %v", err)
					}
				}
				check(err, test.reason)
				_, err = a.OpenInfer(ctxFor(t, 5*time.Second), b.peer(), test.cargo, head(), []byte("secret"))
				check(err, nil)
				if n := m.wan.packetsFrom(a.addr); n != 0 {
					t.Errorf("%d packets left the node", n)
				}
				if a.Stats().EgressRefused == 0 {
					t.Error("the refusal is not counted")
				}
			})
		})
	}
}

func TestWithinTheRegionNoGuardIsAsked(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		cfg := m.config("fr", "n1", "10.0.0.1:7000")
		cfg.Guard = nil
		a, b := m.run(cfg), m.node("fr", "n2", "10.0.0.2:7000")
		b.ServeH3(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		res, err := a.Do(ctxFor(t, 5*time.Second), b.peer(), Cargo{Kind: CargoStatus}, request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	})
}

// A region cannot be smuggled in under a name that is permitted: the guard's
// answer is bound to the certificate that is found there.
func TestPermittedRegionMustBeFoundThere(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		cfg := m.config("fr", "n1", "10.0.0.1:7000")
		cfg.Guard = guardOf("fr")
		m.ca("de")
		a, us := m.run(cfg), m.node("us", "n1", "10.0.0.2:7000")
		us.ServeH3(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("job bytes reached the US") }))
		p := us.peer()
		p.ID.Region = "de"
		p.ID.Node = ""
		_, err := a.Do(ctxFor(t, 5*time.Second), p, Cargo{Kind: CargoJob, Policy: policy(t, "EU")}, request(t, "POST", "/", nil))
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) {
			t.Errorf("got %v", err)
		}
	})
}
