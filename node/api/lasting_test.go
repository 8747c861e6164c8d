package api

import (
	"context"
	"hash/maphash"
	"net/http"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// carried is a mesh that writes down how the requests went, and answers nothing good.
type carried struct{ all []transport.Cargo }

func (c *carried) Do(_ context.Context, _ transport.Peer, cargo transport.Cargo, r *http.Request) (*http.Response, error) {
	c.all = append(c.all, cargo)
	return &http.Response{StatusCode: http.StatusConflict, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
}

func (c *carried) Permit(context.Context, placement.RegionID, transport.Cargo) error { return nil }

// What a person or a task reads as it likes never goes by the connection that carries
// everything else.
func TestWhatMayStandStillHasItsOwnConnections(t *testing.T) {
	w := &carried{}
	m := NewMeshClient(w).For("acme")
	p, task, job := transport.Peer{Addr: "10.0.0.1:1"}, placement.TaskID("a/0.1"), placement.JobID("a")
	for what, c := range map[string]struct {
		ask  func()
		want transport.Lasting
		of   string
	}{
		"a task's output":      {func() { _, _ = m.TaskLogs(t.Context(), p, task, 0, true) }, transport.LastingSession, "acme"},
		"a job's output":       {func() { _, _ = m.JobLogs(t.Context(), p, job, 0, true) }, transport.LastingSession, "acme"},
		"a task's file":        {func() { _, _ = m.TaskOutput(t.Context(), p, task, "d") }, transport.LastingSession, "acme"},
		"a job's file":         {func() { _, _ = m.JobOutput(t.Context(), p, job, "d") }, transport.LastingSession, "acme"},
		"a service":            {func() { _, _ = m.Service(t.Context(), p, task, "db", 1) }, transport.LastingService, "acme"},
		"a disk that moves":    {func() { _, _ = m.MoveStream(t.Context(), p, residency.Policy{}, task, "disk0", false) }, transport.LastingMove, string(task)},
		"a session that moves": {func() { _, _ = m.MoveStream(t.Context(), p, residency.Policy{}, task, "session0", true) }, transport.LastingSession, "acme"},
	} {
		w.all = nil
		c.ask()
		if len(w.all) != 1 || w.all[0].Lasting != c.want || w.all[0].Whose != c.of {
			t.Errorf("%s goes as %+v, want %s of %s", what, w.all, c.want, c.of)
		}
	}
	s := &Server{cfg: Config{Peers: w}, mesh: m, seed: maphash.MakeSeed()}
	w.all = nil
	r, err := http.NewRequest(http.MethodPost, "https://a/", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	_ = s.reachOn(&call{s: s, r: r, w: silent{}}, &placement.Job{Tenant: "other"}, p, cargo(transport.CargoStatus), "/x", ReachHead{})
	if len(w.all) != 1 || w.all[0].Lasting != transport.LastingSession || w.all[0].Whose != "other" {
		t.Errorf("a session that is passed on goes as %+v", w.all)
	}
	if c := s.passedOn(&call{r: r}); c.Lasting != transport.LastingSession || c.Whose == "" {
		t.Errorf("a relayed request goes as %+v", c)
	}
}

type silent struct{}

func (silent) Header() http.Header         { return http.Header{} }
func (silent) Write(p []byte) (int, error) { return len(p), nil }
func (silent) WriteHeader(int)             {}
