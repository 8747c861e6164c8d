package metrics

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/gossip"
)

var update = flag.Bool("update", false, "rewrite expected output")

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// fakeReplica is a replica of a region of one node, n1, which leads.
type fakeReplica struct {
	view *state.View
	sick error
}

func (f fakeReplica) View() *state.View { return f.view }
func (f fakeReplica) LedgerStatus() (store.Status, int, int) {
	return store.Status{Size: 3, Missing: 1}, 1, 1
}
func (f fakeReplica) Leader() (placement.NodeID, bool) { return "n1", true }
func (f fakeReplica) Health() error                    { return f.sick }
func (f fakeReplica) Peers() []consensus.Member {
	return []consensus.Member{{Node: "n1", Voter: true}, {Node: "n4"}}
}

type fakeEndpoint struct{ s transport.Stats }

func (f fakeEndpoint) Stats() transport.Stats { return f.s }

type fakePool struct{ members []gossip.Member }

func (fakePool) Stats() gossip.Stats        { return gossip.Stats{ClaimsRefused: 3} }
func (f fakePool) Members() []gossip.Member { return f.members }

// aView is a region with one node of two devices, one of them lost.
func aView(t *testing.T) *state.View {
	t.Helper()
	s := state.New()
	signer, err := ledger.NewSigner("fra-1.mesh.example/ledger", [ledger.SeedSize]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	first := state.InitRegion{
		Region: placement.Region{ID: "fra-1", Mesh: "mesh.example", LogKey: signer.Verifier().String(), Bundle: []byte(`{"spiffe_sequence":1}`), Fingerprint: "f",
			Facts: placement.RegionFacts{Country: "FR", Operator: placement.Operator{Home: "FR", Parent: "none"}}},
		LawPack: residency.Embedded().Tables(),
		Node: placement.Node{ID: "n1", QUIC: "127.0.0.1:7443", API: "https://127.0.0.1:7443", Inventory: placement.Inventory{
			Version: 1, CPU: 64000, Memory: 256 * placement.GiB, States: state.MaxVersion,
			Devices: []placement.Device{{UUID: "a", Model: "m", Memory: 1, Health: placement.DeviceOK}, {UUID: "b", Model: "m", Memory: 1, Health: placement.DeviceLost}},
		}},
	}
	apply := func(salt byte, cmd state.Command) {
		raw, err := state.Encode(state.Head{Version: 1, Time: day, Salt: [16]byte{salt}, Actor: "node:n1"}, cmd)
		if err != nil {
			t.Fatal(err)
		}
		if r := s.Apply(uint64(salt), raw); r.Refused != nil {
			t.Fatal(r.Refused)
		}
	}
	apply(1, first)
	apply(2, state.MarkLog{})
	c := ledger.Checkpoint{Origin: s.LogOrigin(), Size: s.LedgerSize(), Root: s.LedgerRoot()}
	line, err := signer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	note, err := ledger.NewSignedCheckpoint(c, line)
	if err != nil {
		t.Fatal(err)
	}
	apply(3, state.SignLog{Size: c.Size, Note: string(note.Encode())})
	return s.Freeze()
}

// full is a node about which everything is known.
func full(t *testing.T) Config {
	cfg := DefaultConfig()
	cfg.Region, cfg.Self, cfg.Role, cfg.Version = "fra-1", "n1", placement.RoleVoter, "v1"
	cfg.Replica = fakeReplica{view: aView(t)}
	cfg.Endpoint = fakeEndpoint{transport.Stats{EgressRefused: 7}}
	cfg.Pool = fakePool{[]gossip.Member{{Node: "n2", State: gossip.Alive, Behind: true}, {Node: "n3", State: gossip.Suspect}}}
	cfg.Receipts = func() Receipts { return Receipts{Kept: 7, Dropped: 1, Segments: 3, Waiting: 2} }
	cfg.Gateway = func() Gateway { return Gateway{Running: 2, Answered: 5, CompletionTokens: 640} }
	cfg.Runner = func() Runner {
		return Runner{Tasks: map[placement.TaskStatus]int{placement.TaskRunning: 4, "from the wire": 1}, Unsaved: 1, Moves: []Moves{{"live", "given", 2}}, Still: time.Second}
	}
	cfg.Links = func() []Link {
		return []Link{{Peer: "ber-1", Up: true, RTT: 15 * time.Millisecond, Since: day, SamePack: true}, {Peer: "iad-1"}}
	}
	cfg.Node = func() Node { return Node{Ready: true, MeshUntil: day, AppUntil: day.Add(time.Hour)} }
	cfg.GPUs = func() GPUs {
		return GPUs{Faults: map[gpu.Class]uint64{gpu.ClassApplication: 2, gpu.ClassDrain: 1}, Devices: []GPU{
			{Device: placement.Device{UUID: "GPU-1", Model: "NVIDIA H100", Vendor: "nvidia", Health: placement.DeviceOK}, LastXID: 31, XIDs: map[uint64]uint64{31: 2},
				Sample: &gpu.Sample{UUID: "GPU-1", Utilization: new(37), MemoryUsed: new(int64(1 << 30)), MemoryTotal: new(int64(4 << 30)), Power: new(int64(412_000)), Energy: new(int64(5_000)), Throttle: new(uint64(64))}},
			{Device: placement.Device{UUID: "sim-n1-0", Model: "NVIDIA H100", Vendor: "nvidia", Health: placement.DeviceLost, Simulated: true}, Sample: &gpu.Sample{Utilization: new(99)}},
		}}
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	return cfg
}

func gather(t *testing.T, cfg Config) []*dto.MetricFamily {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value is the value of one series; labels are "name=value".
func value(t *testing.T, families []*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetName()+"="+l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no %s%v", name, labels)
	return 0
}

// The names are a contract with rules and dashboards that stand elsewhere too.
func TestGoldenNames(t *testing.T) {
	var lines []string
	for _, f := range gather(t, full(t)) {
		if !strings.HasPrefix(f.GetName(), "sovmesh_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		lines = append(lines, fmt.Sprintf("%s %s {%s}\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ",")))
	}
	got := strings.Join(lines, "")
	const file = "testdata/names.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the names differ from %s; if that is meant, run make golden and change deploy/ too\ngot:\n%s", file, got)
	}
}

func TestNamesFollowTheRulesOfPrometheus(t *testing.T) {
	problems, err := promlint.NewWithMetricFamilies(gather(t, full(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestValues(t *testing.T) {
	families := gather(t, full(t))
	for _, tt := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"sovmesh_node_info", []string{"node=n1", "role=voter", "version=v1", "region=fra-1"}, 1},
		{"sovmesh_node_ready", nil, 1},
		{"sovmesh_certificate_not_after_timestamp_seconds", []string{"use=app"}, float64(day.Unix() + 3600)},
		{"sovmesh_consensus_leader", nil, 1},
		{"sovmesh_consensus_healthy", nil, 1},
		{"sovmesh_consensus_applied_index", nil, 3},
		{"sovmesh_consensus_peers", []string{"role=standby"}, 1},
		{"sovmesh_ledger_leaves_total", nil, 1},
		{"sovmesh_ledger_unsigned_leaves", nil, 0},
		{"sovmesh_ledger_checkpoint_timestamp_seconds", nil, float64(day.Unix())},
		{"sovmesh_region_nodes", []string{"state=ready"}, 1},
		{"sovmesh_region_nodes_contact", []string{"contact=unknown"}, 0},
		{"sovmesh_region_devices", []string{"health=lost"}, 1},
		{"sovmesh_region_devices_free", nil, 1},
		{"sovmesh_region_jobs_pending_limit", nil, 100_000},
		{"sovmesh_law_pack_as_of_timestamp_seconds", nil, float64(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC).Unix())},
		{"sovmesh_runner_tasks", []string{"status=running"}, 4},
		{"sovmesh_runner_tasks", []string{"status=other"}, 1},
		{"sovmesh_runner_tasks", []string{"status=lost"}, 0},
		{"sovmesh_runner_tasks_unsaved", nil, 1},
		{"sovmesh_runner_moves_total", []string{"mode=live", "outcome=given"}, 2},
		{"sovmesh_runner_moves_total", []string{"mode=near-live", "outcome=refused"}, 0},
		{"sovmesh_runner_move_still_seconds", nil, 1},
		{"sovmesh_gateway_requests_running", nil, 2},
		{"sovmesh_gateway_tokens_total", []string{"kind=completion"}, 640},
		{"sovmesh_transport_egress_total", []string{"verdict=refused"}, 7},
		{"sovmesh_gossip_members", []string{"state=suspect"}, 1},
		{"sovmesh_gossip_members_behind", nil, 1},
		{"sovmesh_gossip_claims_refused_total", nil, 3},
		{"sovmesh_link_up", []string{"peer=ber-1"}, 1},
		{"sovmesh_link_up", []string{"peer=iad-1"}, 0},
		{"sovmesh_link_rtt_seconds", []string{"peer=ber-1"}, 0.015},
		{"sovmesh_link_law_pack_same", []string{"peer=iad-1"}, 0},
	} {
		if got := value(t, families, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s%v is %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
}

// A word that somebody else chose must not make a series.
func TestWordsFromElsewhereAreNoLabels(t *testing.T) {
	for _, f := range gather(t, full(t)) {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.Contains(l.GetValue(), "wire") {
					t.Errorf("%s has the label %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
}

func TestAWorkerShowsNoRegion(t *testing.T) {
	cfg := full(t)
	cfg.Replica = nil
	cfg.Links = func() []Link { return nil }
	for _, f := range gather(t, cfg) {
		for _, of := range []string{"sovmesh_region_", "sovmesh_consensus_", "sovmesh_law_", "sovmesh_link_", "sovmesh_ledger_"} {
			if strings.HasPrefix(f.GetName(), of) {
				t.Errorf("a worker shows %s", f.GetName())
			}
		}
	}
}

func TestAnEmptyReplicaIsShownAsSuch(t *testing.T) {
	cfg := full(t)
	cfg.Replica = fakeReplica{view: state.New().Freeze(), sick: errors.New("diverged")}
	families := gather(t, cfg)
	if value(t, families, "sovmesh_consensus_healthy") != 0 || value(t, families, "sovmesh_region_jobs") != 0 {
		t.Error("an empty, sick replica looks like another")
	}
}

func TestHandler(t *testing.T) {
	m, err := New(full(t))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{`sovmesh_link_up{peer="ber-1",region="fra-1"} 1`, "process_resident_memory_bytes", "go_goroutines"} {
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("status %d, no %q in\n%s", w.Code, want, w.Body)
		}
	}
}

func TestNewestDate(t *testing.T) {
	for _, tt := range []struct{ table, want string }{
		{"code,as_of\nFR,2026-01-02\nDE,2026-03-04\nUS,\n", "2026-03-04"},
		{"code,as_of\nFR,soon\n", ""},
		{"code\nFR\n", ""},
		{"code,as_of\nFR\n", ""},
		{"", ""},
	} {
		got := ""
		if at := newestDate([]byte(tt.table)); !at.IsZero() {
			got = at.Format(time.DateOnly)
		}
		if got != tt.want {
			t.Errorf("newest of %q is %q, want %q", tt.table, got, tt.want)
		}
	}
}

func TestValidateReportsEverything(t *testing.T) {
	_, err := New(Config{})
	for _, want := range []string{"Region", "Self", "Endpoint", "Gateway", "Log", "ScrapesMax"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}
