package mesh

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// scrape reads a node's /metrics as a scraper with the token would.
func (m *Mesh) scrape(id placement.RegionID, name placement.NodeID, token string) (int, string) {
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	status, body := m.request(http.MethodGet, id, name, "/metrics", header, "")
	return status, string(body)
}

func TestMetricsOfARunningNode(t *testing.T) {
	Run(t, func(t *testing.T) {
		fra := Region("fra-1", "FR", 1)
		fra.Tune = func(c *node.Config) { c.MetricsOpen = true } // no caller here is on loopback
		m := New(t, fra, Region("ber-1", "DE", 1))
		job := m.At("fra-1").Submit(`{"kind":"fake","name":"secret-project","residency":"FR","command":["run","60s"]}`)
		m.Within(10*time.Second, "the job runs", job.Is(placement.JobRunning))
		viewer, err := m.At("fra-1").CreateToken(t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleViewer}, Tenant: "hush"})
		m.must(err)
		var status int
		var text string
		m.Within(10*time.Second, "the running task is counted", func() bool {
			status, text = m.scrape("fra-1", "n1", viewer.Secret)
			return strings.Contains(text, `sovmesh_runner_tasks{region="fra-1",status="running"} 1`)
		})
		if status != http.StatusOK {
			t.Errorf("status %d", status)
		}
		names, err := os.ReadFile("../../node/metrics/testdata/names.txt")
		m.must(err)
		for line := range bytes.Lines(names) {
			if name, _, _ := strings.Cut(string(line), " "); !strings.Contains(text, "\n"+name+"{") {
				t.Errorf("a running node does not serve %s", name)
			}
		}
		for _, want := range []string{`sovmesh_link_up{peer="ber-1",region="fra-1"} 1`, `sovmesh_node_ready{region="fra-1"} 1`, `sovmesh_consensus_leader{region="fra-1"} 1`, `sovmesh_region_tasks_live{region="fra-1"} 1`} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s", want)
			}
		}
		for _, secret := range []string{"secret-project", "hush", string(job.ID)} {
			if strings.Contains(text, secret) {
				t.Errorf("a scrape shows %s", secret)
			}
		}
		foreign, err := m.At("ber-1").CreateToken(t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleAdmin}})
		m.must(err)
		for name, token := range map[string]string{"no token": "", "a token of another region": foreign.Secret, "no token at all of ours": "x"} {
			if status, text := m.scrape("fra-1", "n1", token); status != http.StatusUnauthorized || strings.Contains(text, "sovmesh_") {
				t.Errorf("%s: status %d", name, status)
			}
		}
		m.must(m.At("fra-1").RevokeToken(t.Context(), viewer.ID))
		if status, _ := m.scrape("fra-1", "n1", viewer.Secret); status != http.StatusUnauthorized {
			t.Errorf("a revoked token: status %d", status)
		}
	})
}

// A worker knows no tokens: it asks a voter, and answers from its own counts.
func TestMetricsOfAWorker(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 8))
		status, text := m.scrape("fra-1", "n8", m.region("fra-1").token)
		if status != http.StatusOK || !strings.Contains(text, `sovmesh_node_info{node="n8",region="fra-1",role="worker"`) || strings.Contains(text, "sovmesh_region_jobs") {
			t.Errorf("status %d:\n%s", status, text)
		}
		for name, token := range map[string]string{"no token": "", "a token nobody made": m.region("fra-1").token + "x"} {
			if status, text := m.scrape("fra-1", "n8", token); status != http.StatusUnauthorized {
				t.Errorf("%s: status %d: %s", name, status, text)
			}
		}
	})
}
