package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// callers are the ways of tasks to the services in their lists, by the names of
// their jobs, as their drivers were handed them.
type callers struct {
	*Mesh
	mu  sync.Mutex
	way map[string]runner.Connector // guarded by mu
}

// newCallers is a mesh whose jobs may say what processes may. Only Germany has GPUs.
// The eighth node stands at the site edge, those before it in the hall.
func newCallers(t *testing.T, nodes int) *callers {
	c := &callers{way: map[string]runner.Connector{}}
	watch := func(h *host) {
		h.world.FailStart(func(s runner.Spec) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.way[s.Name] = s.Connect
			return nil
		})
	}
	fr, de, us := Region("fra-1", "FR", nodes), Region("ber-1", "DE", 2), Region("iad-1", "US", 1)
	de.GPUs = []placement.Device{h200, h200, h200, h200}
	if nodes == 8 {
		fr.Sites = append(slices.Repeat([]string{"hall"}, 7), "edge")
	}
	for _, s := range []*Spec{&fr, &de, &us} {
		s.Processes, s.Machine = true, watch
	}
	c.Mesh = New(t, fr, de, us)
	return c
}

// runs submits a process that says no more of itself than the rest of its document.
func (c *callers) runs(at *Client, name, rest string) *Job {
	c.t.Helper()
	j := at.Submit(fmt.Sprintf(`{"kind":"process","name":%q,"type":"service","command":["sleep"],%s}`, name, rest))
	c.Within(30*time.Second, name+" runs", j.Is(placement.JobRunning))
	return j
}

func (c *callers) connect(from, service string, port int) (net.Conn, error) {
	c.mu.Lock()
	way := c.way[from]
	c.mu.Unlock()
	if way == nil {
		c.t.Fatalf("no task of %s was started", from)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	return way(ctx, service, port)
}

// reaches says a word to a service, which gives it back.
func (c *callers) reaches(from, service string) {
	c.t.Helper()
	conn, err := c.connect(from, service, fake.EchoPort)
	if err != nil {
		c.t.Errorf("%s does not reach %s: %v", from, service, err)
		return
	}
	defer conn.Close()
	word := strings.Repeat("word ", 40_000)
	go func() {
		_, _ = io.WriteString(conn, word)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if back, err := io.ReadAll(conn); err != nil || string(back) != word {
		c.t.Errorf("%s hears %d bytes of %s, %v", from, len(back), service, err)
	}
}

// refused holds it to that a connection is refused by a rule.
func (c *callers) refused(from, service string, port int, code string) {
	c.t.Helper()
	conn, err := c.connect(from, service, port)
	if err == nil {
		_ = conn.Close()
		c.t.Errorf("%s reaches %s at port %d", from, service, port)
		return
	}
	var rule interface{ Refused() bool }
	if rule, _ = err.(interface{ Refused() bool }); rule == nil || !rule.Refused() || !strings.HasPrefix(api.CodeOf(err), code) {
		c.t.Errorf("%s to %s port %d: %v (%s), want a refusal of %s", from, service, port, err, api.CodeOf(err), code)
	}
}

const portSeven = `"ports":[{"port":7}]`

func lists(services ...string) string {
	quoted := make([]string, len(services))
	for i, s := range services {
		quoted[i] = fmt.Sprintf("%q", "service:"+s)
	}
	return `"network":{"allow":[` + strings.Join(quoted, ",") + `]}`
}

// Within a region a task reaches the ports that its tenant's services of that name
// declare, from every node to every node, and nothing else of them.
func TestAServiceInAListIsReachedWithinARegion(t *testing.T) {
	Run(t, func(t *testing.T) {
		c := newCallers(t, 8) // n8 holds no state
		fr := c.AtNode("fra-1", "n1")
		first := c.runs(fr, "db", `"residency":"FR","node":"n8",`+portSeven)
		c.runs(fr, "web", `"residency":"FR","node":"n2"`) // declares nothing
		c.runs(fr, "near", `"residency":"FR","node":"n2",`+lists("db", "web", "none"))
		c.runs(fr, "far", `"residency":"FR","node":"n8",`+lists("db"))
		for _, from := range []string{"near", "far"} {
			c.reaches(from, "db")
			c.refused(from, "db", 8, api.CodeServicePort)
		}
		c.refused("near", "web", 7, api.CodeServicePort)
		c.refused("far", "web", 7, api.CodeServiceList)
		if _, err := c.connect("near", "none", 7); api.CodeOf(err) != api.CodeNotRunning {
			t.Errorf("a service that there is not: %v", err)
		}
		// Another tenant's of the same name is none of ours.
		_, err := fr.SetTenant(t.Context(), state.Tenant{ID: "other"})
		c.must(err)
		tok, err := fr.CreateToken(t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleSubmitter}, Tenant: "other"})
		c.must(err)
		other := c.AtNodeWith("fra-1", "n1", tok.Secret)
		c.runs(other, "theirs", `"residency":"FR","node":"n3",`+lists("db"))
		if _, err := c.connect("theirs", "db", 7); api.CodeOf(err) != api.CodeNotRunning {
			t.Errorf("another tenant's service: %v", err)
		}
		// What passes a node on its way is at that node's site.
		c.runs(fr, "edge-db", `"residency":"FR,!site:hall","node":"n8",`+portSeven)
		c.runs(fr, "edge", `"residency":"FR,!site:hall","node":"n8",`+lists("edge-db"))
		c.refused("edge", "edge-db", fake.EchoPort, "residency.")
		// A node connects no task but its own, and only for one that the region runs.
		liar := c.rogue(c.stolen("fra-1", "n4"), outside(1))
		defer liar.stop()
		task := c.taskOf("fra-1", first.ID).ID
		caller := c.newest("fra-1", "near")
		for _, path := range []string{"/tasks/" + string(caller) + "/services/db", "/tasks/" + string(task) + "/services/db"} {
			c.unserved(liar, c.peer("fra-1", "n1"), path, api.ServiceHead{Port: 7}, api.CodeRole)
		}
		worker := c.rogue(c.stolen("fra-1", "n8"), outside(2))
		defer worker.stop()
		c.unserved(worker, c.peer("fra-1", "n2"), "/tasks/"+string(task)+"/serve", api.ServiceHead{Port: 7, Tenant: "default"}, api.CodeRole)
		// And the node of a task asks for itself whose it is, and what it serves.
		for _, head := range []api.ServiceHead{{Port: 7, Tenant: "other"}, {Port: 7}, {Port: 8, Tenant: "default"}} {
			c.unserved(liar, c.peer("fra-1", "n8"), "/tasks/"+string(task)+"/serve", head, "")
		}
		// A service that ends takes its connections with it; the next one is found.
		conn, err := c.connect("near", "db", 7)
		c.must(err)
		defer conn.Close()
		c.runs(fr, "db", `"residency":"FR","node":"n5",`+portSeven)
		_, err = fr.StopJob(t.Context(), first.ID, "")
		c.must(err)
		ended := make(chan error, 1)
		go func() { _, err := conn.Read(make([]byte, 1)); ended <- err }()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a service that has ended says something")
			}
		case <-time.After(time.Minute):
			t.Error("an open connection outlives its service by a minute")
		}
		c.Within(30*time.Second, "the first one has stopped", first.Is(placement.JobStopped))
		for range 4 {
			c.reaches("near", "db")
		}
		c.CheckInvariants()
	})
}

// A node that is cut off from its quorum knows the law of then: it connects nothing,
// not even what runs beside each other on it.
func TestACutOffNodeConnectsNoServices(t *testing.T) {
	Run(t, func(t *testing.T) {
		c := newCallers(t, 3)
		lost := c.follower("fra-1")
		at := c.AtNode("fra-1", c.Leader("fra-1"))
		c.runs(at, "db", fmt.Sprintf(`"residency":"FR","node":%q,`, lost)+portSeven)
		c.runs(at, "near", fmt.Sprintf(`"residency":"FR","node":%q,`, lost)+lists("db"))
		c.reaches("near", "db")
		c.CutOff("fra-1", lost)
		time.Sleep(2 * time.Second) // longer than the quorum's word holds
		conn, err := c.connect("near", "db", fake.EchoPort)
		if err == nil {
			_ = conn.Close()
			t.Error("it connects by a law of any age")
		}
		c.Heal()
		c.Within(30*time.Second, "it connects again", func() bool {
			conn, err := c.connect("near", "db", fake.EchoPort)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
		c.CheckInvariants()
	})
}

// newest is the live task of the job by that name.
func (c *callers) newest(region placement.RegionID, name string) placement.TaskID {
	c.t.Helper()
	v := c.region(region).newest()
	for _, n := range v.Nodes() {
		for _, t := range v.TasksOn(n.ID) {
			if v.Job(t.Job).Name == name {
				return t.ID
			}
		}
	}
	c.t.Fatalf("region %s runs no %s", region, name)
	return ""
}

// Between regions both tags count, in both directions, and each region asks for
// itself.
func TestAServiceInAListIsReachedInAnotherRegion(t *testing.T) {
	Run(t, func(t *testing.T) {
		c := newCallers(t, 2)
		fr := c.At("fra-1")
		const gpu = `"resources":{"gpus":1},`
		abroad := func(name, rest string) *Job {
			j := c.runs(fr, name, gpu+rest)
			if doc := j.Now(); doc.Region != "ber-1" || j.Landed != "fra-1" {
				t.Fatalf("%s landed in %s and runs in %s", name, j.Landed, doc.Region)
			}
			return j
		}
		// The service abroad, the caller at home.
		abroad("db", `"residency":"EU",`+portSeven)
		c.runs(fr, "home-eu", `"residency":"EU",`+lists("db"))
		c.runs(fr, "home-fr", `"residency":"FR",`+lists("db"))
		c.reaches("home-eu", "db")
		c.refused("home-eu", "db", 8, api.CodeServicePort)
		c.refused("home-fr", "db", 7, "residency.")
		// The service at home, the caller abroad: what it answers comes there.
		c.runs(fr, "front", `"residency":"EU",`+portSeven)
		french := c.runs(fr, "french", `"residency":"FR",`+portSeven)
		away := abroad("away", `"residency":"EU",`+lists("front", "french", "db", "none"))
		c.reaches("away", "front")
		c.reaches("away", "db") // beside it, both forwarded
		c.refused("away", "french", 7, "residency.")
		c.refused("away", "front", 8, api.CodeServicePort)
		// One that stays where its tag says, though it is the only one.
		c.runs(fr, "here", `"residency":"FR",`+lists("french"))
		c.reaches("here", "french")
		// Another tenant at home has one of the name, and it is not taken for ours.
		_, err := fr.SetTenant(t.Context(), state.Tenant{ID: "other"})
		c.must(err)
		tok, err := fr.CreateToken(t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleSubmitter}, Tenant: "other"})
		c.must(err)
		other := c.AtNodeWith("fra-1", "n1", tok.Secret)
		c.runs(other, "none", `"residency":"EU",`+portSeven)
		if _, err := c.connect("away", "none", 7); api.CodeOf(err) != api.CodeNotRunning {
			t.Errorf("another tenant's service: %v", err)
		}

		// A region that lies. It has none of our jobs but those that it was given.
		liar := c.rogue(c.stolen("iad-1", "n1"), outside(1))
		defer liar.stop()
		germany := c.rogue(c.stolen("ber-1", "n1"), outside(2))
		defer germany.stop()
		any := []placement.Layer{{Origin: "job", Tag: "ANY"}}
		own := placement.NewJobID("iad-1", time.Now())
		for _, lie := range []struct {
			who     *rogue
			service string
			head    api.ServiceHead
			code    string
		}{
			{liar, "front", api.ServiceHead{Port: 7, Job: away.ID}, "role."},                                        // which Germany runs
			{liar, "front", api.ServiceHead{Port: 7, Job: french.ID, Policy: any}, "role."},                         // which nobody was given
			{liar, "front", api.ServiceHead{Port: 7, Job: own, Tenant: "default", Policy: any}, api.CodeNotRunning}, // of its own tenant default
			{liar, "front", api.ServiceHead{Port: 7, Job: own, Tenant: "../default", Policy: any}, ""},
			{liar, "front", api.ServiceHead{Port: 7, Job: own, Tenant: "fra-1/default", Policy: any}, ""},
			{liar, "front", api.ServiceHead{Port: 7, Job: own, Region: "fra-1", Tenant: "default", Policy: any}, ""},
			{liar, "front", api.ServiceHead{Port: 7, Tenant: "default", Policy: any}, "role."},                          // of no job
			{germany, "french", api.ServiceHead{Port: 7, Job: away.ID, Policy: any}, "residency."},                      // its tag, not theirs
			{germany, "home-eu", api.ServiceHead{Port: 7, Job: away.ID, Policy: any}, api.CodeServiceList},              // not on its list
			{germany, "none", api.ServiceHead{Port: 7, Job: away.ID, Tenant: "other", Policy: any}, api.CodeNotRunning}, // of another tenant
			{germany, "french", api.ServiceHead{Port: 7, Job: away.ID, Region: "fra-1", Policy: any}, "residency."},     // from where it does not run
			{germany, "front", api.ServiceHead{Port: 0, Job: away.ID}, "input."},
			{germany, "front", api.ServiceHead{Port: 7, Job: placement.JobID(strings.Repeat("x", 4000))}, "role."},
			{germany, strings.Repeat("f", 300), api.ServiceHead{Port: 7, Job: away.ID}, api.CodeServiceList},
		} {
			c.unserved(lie.who, c.peer("fra-1", "n1"), "/services/"+lie.service, lie.head, lie.code)
		}
		c.CheckInvariants()
	})
}

// unserved asks for a connection as somebody who may not have it: it is refused, by
// that code if one is given, and not a byte comes back.
func (c *callers) unserved(who *rogue, to transport.Peer, path string, head api.ServiceHead, code string) {
	c.t.Helper()
	data, err := json.Marshal(head)
	c.must(err)
	frame := func(kind byte, payload string) string {
		return string([]byte{kind, byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload))}) + payload
	}
	body := frame(1, string(data)) + frame(2, "stolen words") + frame(3, "")
	res, err := who.ask(http.MethodPost, to, api.MeshPrefix+path, http.Header{"Content-Type": {api.MediaFrames}}, strings.NewReader(body))
	c.must(err)
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	_, rest, _ := strings.Cut(string(answer), `"code":"`)
	got, _, _ := strings.Cut(rest, `"`)
	if got == "" || !strings.HasPrefix(got, code) || strings.Contains(string(answer), "stolen") {
		c.t.Errorf("%s %.80s as %.200s: %d %q", who, path, data, res.StatusCode, answer)
	}
}
