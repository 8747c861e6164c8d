package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// A join token admits one node: not a second one later, not one of two at the
// same moment, not after the region was restarted from its disks.
func TestAReplayedJoinTokenIsRefused(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		fra := m.region("fra-1")
		tok, err := m.At("fra-1").CreateNodeToken(t.Context(), api.NodeTokenRequest{})
		m.must(err)
		thieves := []*host{m.addHost(fra), m.addHost(fra), m.addHost(fra)}
		errs := make([]error, len(thieves))
		var wg sync.WaitGroup
		for i, h := range thieves {
			wg.Go(func() { errs[i] = h.join(tok.Token) })
		}
		wg.Wait()
		in := 0
		for i, err := range errs {
			if err == nil {
				in++
			} else if Code(err) != "token.spent" {
				t.Errorf("%s: %v (code %q)", thieves[i].name, err, Code(err))
			}
		}
		if in != 1 {
			t.Fatalf("one token let %d nodes in", in)
		}
		for _, n := range []placement.NodeID{"n1", "n2", "n3"} {
			m.Kill("fra-1", n)
		}
		for _, n := range []placement.NodeID{"n1", "n2", "n3"} {
			m.Restart("fra-1", n)
		}
		for _, h := range fra.hosts[:3] {
			h.waitReady()
		}
		late := m.addHost(fra)
		if err := late.join(tok.Token); Code(err) != "token.spent" {
			t.Errorf("after a restart: %v (code %q)", err, Code(err))
		}
		if n := len(fra.newest().Nodes()); n != 4 {
			t.Errorf("the region has %d nodes", n)
		}
	})
}

// A grant is for one job, one region, one policy and one minute.
func TestAReplayedGrantIsRefused(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 1)
		wire := "DE"
		hash := sha256.Sum256([]byte(wire))
		grant := func(key string, to placement.RegionID) string {
			g, err := m.At("fra-1").Grant(t.Context(), api.GrantRequest{Audience: to, PolicyHash: hex.EncodeToString(hash[:]), IdempotencyKey: key})
			m.must(err)
			return g.Grant
		}
		const body = `{"kind":"fake","residency":"DE","command":["run","1s"]}`
		show := func(to placement.RegionID, grant, tag, key, body string) (int, string) {
			return m.Raw(http.MethodPost, to, "n1", api.Prefix+"/jobs", http.Header{
				"Authorization": {api.GrantScheme + " " + grant}, api.HeaderResidency: {tag}, api.HeaderIdempotency: {key}, "Content-Type": {"application/json"},
			}, body)
		}
		jobs := func(id placement.RegionID) int { return m.host(id, "n1").node.View().JobCount() }
		good := grant("k1", "ber-1")
		if status, code := show("ber-1", good, "DE,AT", "k1", `{"kind":"fake","residency":"DE,AT","command":["run","1s"]}`); status != http.StatusUnauthorized {
			t.Errorf("another policy: %d %s", status, code)
		}
		if status, code := show("ber-1", good, "DE", "k2", body); status != http.StatusUnauthorized {
			t.Errorf("another key: %d %s", status, code)
		}
		if status, code := show("iad-1", good, "DE", "k1", body); status != http.StatusUnauthorized {
			t.Errorf("another region: %d %s", status, code)
		}
		if status, code := show("fra-1", good, "DE", "k1", body); status != http.StatusUnauthorized {
			t.Errorf("at home: %d %s", status, code)
		}
		if status, code := show("ber-1", good[:len(good)-4]+"AAAA", "DE", "k1", body); status != http.StatusUnauthorized {
			t.Errorf("another signature: %d %s", status, code)
		}
		if jobs("ber-1")+jobs("iad-1")+jobs("fra-1") != 0 {
			t.Fatal("a job was taken")
		}
		if status, code := show("ber-1", good, "DE", "k1", body); status != http.StatusCreated {
			t.Fatalf("the grant itself: %d %s", status, code)
		}
		if status, code := show("ber-1", good, "DE", "k1", body); status != http.StatusOK || jobs("ber-1") != 1 {
			t.Errorf("a repetition gives %d %s, and %d jobs", status, code, jobs("ber-1"))
		}
		if status, code := show("ber-1", good, "DE", "k1", `{"kind":"fake","residency":"DE","command":["run","2s"]}`); status < 400 || jobs("ber-1") != 1 {
			t.Errorf("another body: %d %s, and %d jobs", status, code, jobs("ber-1"))
		}

		// Whoever gets past the API finds the grant spent in the state itself.
		var used *state.Grant
		for _, g := range m.host("ber-1", "n1").node.View().Grants() {
			used = g
		}
		voter := m.rogue(m.stolen("ber-1", "n1"), outside(1))
		taken := m.host("ber-1", "n1").node.View()
		var copied placement.Job
		taken.Jobs("", 1, func(j *placement.Job) bool { copied = *j; return false })
		copied.ID = placement.NewJobID("ber-1", time.Now())
		res, err := voter.propose(m.peer("ber-1", "n1"), state.SubmitJob{Job: copied, Grant: used.ID, GrantExpires: used.Expires}, time.Now())
		if err != nil || res.Refused == nil || res.Refused.Code != "grant.spent" {
			t.Errorf("a second submit under the grant: %+v, %v", res.Refused, err)
		}

		late := grant("k3", "ber-1")
		time.Sleep(api.GrantLife + time.Second)
		if status, code := show("ber-1", late, "DE", "k3", body); status != http.StatusUnauthorized || jobs("ber-1") != 1 {
			t.Errorf("after its minute: %d %s, and %d jobs", status, code, jobs("ber-1"))
		}
	})
}

// Room is reserved for one job of the region whose certificate asked, once.
func TestAReplayedReservationIsRefused(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 1)
		to := m.peer("ber-1", "n1")
		fra := m.rogue(m.stolen("fra-1", "n1"), outside(1))
		iad := m.rogue(m.stolen("iad-1", "n1"), outside(2))
		ber := m.host("ber-1", "n1").node
		layers := []placement.Layer{{Origin: residency.OriginJob, Tag: "EU"}}
		ask := api.ReserveRequest{
			Job: placement.NewJobID("fra-1", time.Now()), Attempt: 1, Kind: placement.KindFake, Resources: placement.Resources{CPU: 100, GPUs: 1},
			Policy: layers, LawPack: residency.Embedded().Hash(),
		}
		held, err := fra.mesh.Reserve(t.Context(), to, ask)
		m.must(err)
		for range 3 {
			again, err := fra.mesh.Reserve(t.Context(), to, ask)
			if err != nil || again.Key != held.Key || !again.Held {
				t.Errorf("asked again: %+v, %v", again, err)
			}
		}
		if got := ber.View().Node("n1").Used.Devices; len(got) != 1 {
			t.Errorf("asking again held %v", got)
		}
		other := ask
		other.Job = placement.NewJobID("iad-1", time.Now())
		if _, err := fra.mesh.Reserve(t.Context(), to, other); err == nil {
			t.Error("France reserved for a job of the US")
		}
		if err := iad.mesh.Release(t.Context(), to, held.Key); err == nil {
			t.Error("the US gave back what France holds")
		}

		spec := placement.JobSpec{Kind: placement.KindFake, Type: placement.TypeBatch, Command: []string{"run", "1h"}, Resources: ask.Resources,
			Restart: placement.Restart{Policy: "never"}, Evidence: placement.EvidenceBestEffort}
		job := func(id placement.JobID) api.ForwardedJob {
			return api.ForwardedJob{Job: id, Tenant: "default", Residency: "EU", Policy: layers, Spec: spec, Reservation: held.Key, SubmittedAt: time.Now(), Hops: 1}
		}
		pack, on := residency.Embedded(), residency.DateOf(time.Now())
		tag, err := residency.ParseWire("EU", pack, on)
		m.must(err)
		policy := residency.NewPolicy(residency.Layer{Origin: residency.OriginJob, Tag: tag})
		stranger := job(placement.NewJobID("iad-1", time.Now()))
		if _, err := iad.mesh.Forward(t.Context(), to, policy, stranger); err == nil {
			t.Error("the US used the room that France holds")
		}
		if _, err := fra.mesh.Forward(t.Context(), to, policy, job(placement.NewJobID("fra-1", time.Now()))); Code(err) != "reservation.foreign" {
			t.Errorf("another job in the room: %v (code %q)", err, Code(err))
		}
		_, err = fra.mesh.Forward(t.Context(), to, policy, job(ask.Job))
		m.must(err)
		m.Within(10*time.Second, "it runs", func() bool { return slices.Contains(running(m, "ber-1"), ask.Job) })
		if _, err = fra.mesh.Forward(t.Context(), to, policy, job(placement.NewJobID("fra-1", time.Now()))); err == nil {
			t.Error("a second job in the room")
		}
		if _, err := fra.mesh.Forward(t.Context(), to, policy, job(ask.Job)); err != nil {
			t.Errorf("the same job once more is no error: %v", err)
		}
		_, _ = fra.mesh.Reserve(t.Context(), to, ask)
		next := ask
		next.Attempt = 2
		_, _ = fra.mesh.Reserve(t.Context(), to, next) // whatever it answers, no more room may be held
		time.Sleep(2 * time.Second)
		if got := running(m, "ber-1"); len(got) != 1 {
			t.Errorf("running: %v", got)
		}
		if used := ber.View().Node("n1").Used; len(used.Devices) != 1 || used.Tasks != 1 {
			t.Errorf("held in the end: %+v", used)
		}
		m.CheckInvariants()
	})
}

// running are the jobs whose tasks run in a region now.
func running(m *Mesh, id placement.RegionID) (out []placement.JobID) {
	for _, h := range m.region(id).hosts {
		for _, task := range h.world.Running() {
			out = append(out, task.Job())
		}
	}
	return out
}
