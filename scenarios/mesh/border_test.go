package mesh

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

var h200 = placement.Device{Model: "NVIDIA H200", Memory: 141 * placement.GiB, Health: placement.DeviceOK, Simulated: true}

// three is a mesh of FR, DE and US in which only Germany has GPUs.
func three(t *testing.T, nodes int) *Mesh {
	de := Region("ber-1", "DE", nodes)
	de.GPUs = []placement.Device{h200, h200}
	return New(t, Region("fra-1", "FR", nodes), de, Region("iad-1", "US", nodes))
}

func TestAJobTaggedDERunsInGermany(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 1)
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"DE","command":["run","2s"]}`)
		if job.Landed != "ber-1" {
			t.Errorf("the body was sent to %s, not to Germany directly", job.Landed)
		}
		m.Within(10*time.Second, "the job ends", job.Exited(0))
		if doc := job.Now(); doc.Region != "ber-1" {
			t.Errorf("it ran in %s", doc.Region)
		}
		if m.host("fra-1", "n1").node.View().Job(job.ID) != nil {
			t.Error("France holds the job")
		}
		m.CheckInvariants()
	})
}

func TestAnEUJobIsForwardedToWhereTheGPUsAre(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 1)
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"EU","command":["run","2s"],"resources":{"gpus":1,"gpu_model":"H200"}}`)
		if job.Landed != "fra-1" {
			t.Errorf("it entered at %s, not at its home", job.Landed)
		}
		m.Within(15*time.Second, "home hears that it ended in Germany", func() bool {
			doc := job.Now()
			return doc.Status == placement.JobComplete && doc.Region == "ber-1" && doc.Hops == 1
		})
		m.CheckInvariants()
	})
}

func TestAnyButTheUSNeverReachesTheUS(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 1)
		// France is full: cordoned. Germany too. Only the US has room.
		for _, r := range []placement.RegionID{"fra-1", "ber-1"} {
			_, err := m.At(r).Cordon(t.Context(), "n1")
			m.must(err)
		}
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"ANY,!US","command":["run","1s"]}`)
		time.Sleep(30 * time.Second) // of the mesh's time
		if doc := job.Now(); doc.Status != placement.JobPending {
			t.Errorf("%s", job)
		}
		if j := m.host("iad-1", "n1").node.View().Job(job.ID); j != nil {
			t.Error("the US holds the job")
		}
		_, err := m.At("ber-1").Resume(t.Context(), "n1")
		m.must(err)
		m.Within(30*time.Second, "it runs where it may", func() bool { return job.Now().Status == placement.JobComplete })
		m.CheckInvariants()
	})
}

func TestAnIsolatedRegionServesItsOwn(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 1)
		m.Isolate("fra-1")
		m.Within(10*time.Second, "Germany is unknown in France", func() bool {
			s, err := m.At("fra-1").Region(t.Context(), "ber-1")
			return err == nil && s.Link == api.LinkUnknown
		})
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"EU","command":["run","1s"]}`)
		m.Within(10*time.Second, "a job of its own ends", job.Exited(0))

		begin := time.Now()
		_, err := m.At("fra-1").TrySubmit(`{"kind":"fake","residency":"DE","command":["run","1s"]}`)
		if Code(err) != api.CodePeerUnknown {
			t.Errorf("a job for Germany: %v (code %q), want %s", err, Code(err), api.CodePeerUnknown)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the answer took %s", took)
		}
		m.Heal()
		m.Within(10*time.Second, "Germany is back", func() bool {
			s, err := m.At("fra-1").Region(t.Context(), "ber-1")
			return err == nil && s.Link == api.LinkUp
		})
		m.CheckInvariants()
	})
}

func TestEuropeIsRefusedWithASuggestion(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1))
		_, err := m.At("fra-1").TrySubmit(`{"kind":"fake","residency":"Europe"}`)
		if Code(err) != "tag.unknown-place" {
			t.Errorf("Europe: %v (code %q)", err, Code(err))
		}
	})
}

func TestAPendingJobNamesItsDominantReason(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1))
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","resources":{"gpus":1}}`)
		time.Sleep(time.Second) // of the mesh's time
		doc, err := m.At("fra-1").Job(t.Context(), job.ID)
		m.must(err)
		if doc.Status != placement.JobPending || doc.Code != "gpu.count" || doc.Reason == "" {
			t.Errorf("status %s, code %q, reason %q; want pending for want of GPUs", doc.Status, doc.Code, doc.Reason)
		}
	})
}
