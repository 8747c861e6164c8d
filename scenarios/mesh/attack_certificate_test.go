package mesh

import (
	"net/http"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// The CA of one region cannot name a node of another: not to the region that
// it names, not to a third one, not as a caller and not as a listener.
func TestAForgedCertificateIsRefused(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 1)
		honest := m.rogue(m.credential("ber-1", "n1", 0), outside(1))
		forger := m.rogue(m.forged("fra-1", "ber-1", "n1"), outside(2))
		for _, class := range identity.Classes() {
			if err := honest.knock(class, m.peer("ber-1", "n1")); err != nil {
				t.Errorf("%s: the very certificate that the attack forges does not open it: %v", class, err)
			}
			mustRefuse(m, "the forged certificate on "+string(class), forger.knock(class, m.peer("ber-1", "n1")))
		}
		for _, class := range []identity.Class{identity.ClassHTTP, identity.ClassInfer} {
			mustRefuse(m, "the forged certificate in a third region on "+string(class), forger.knock(class, m.peer("iad-1", "n1")))
			mustRefuse(m, "the forged certificate at its own maker on "+string(class), forger.knock(class, m.peer("fra-1", "n1")))
		}
		forger.stop()
		honest.stop()

		// In Germany's place, at Germany's address: nobody takes it for Germany.
		m.Kill("ber-1", "n1")
		impostor := m.rogue(m.forged("fra-1", "ber-1", "n1"), m.host("ber-1", "n1").addr)
		asked := false
		impostor.endpoint.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked = true }))
		time.Sleep(20 * time.Second)
		for _, from := range []placement.RegionID{"fra-1", "iad-1"} {
			if s, err := m.At(from).Region(t.Context(), "ber-1"); err != nil || s.Link != api.LinkUnknown {
				t.Errorf("%s takes the impostor for Germany: %v, %v", from, s, err)
			}
		}
		if asked {
			t.Error("a request was sent to the impostor")
		}
	})
}

// A certificate ends: connections that it opened too.
func TestAnExpiredCertificateIsRefused(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("ber-1", "DE", 1))
		r := m.rogue(m.credential("ber-1", "n1", time.Minute), outside(1))
		to := m.peer("fra-1", "n1")
		if status, _ := r.answer(http.MethodGet, to, api.MeshPrefix+"/summary", nil, ""); status != http.StatusOK {
			t.Fatalf("a certificate that is good gives %d", status)
		}
		time.Sleep(61 * time.Second)
		for _, class := range []identity.Class{identity.ClassHTTP, identity.ClassInfer} {
			mustRefuse(m, "an expired certificate on "+string(class), r.knock(class, to))
		}
		home := m.rogue(m.credential("fra-1", "n1", time.Minute), outside(2))
		if err := home.knock(identity.ClassRaft, to); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Second)
		for _, class := range identity.Classes() {
			mustRefuse(m, "an expired certificate of a voter on "+string(class), home.knock(class, to))
		}
	})
}
