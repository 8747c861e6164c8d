package mesh

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
)

// A region loses two of its three voters for good and is recovered from the
// third. What was before can still be exported from there: a pack of the log that
// ended, with the break in it; a pack of now shows the break at its beginning.
func TestTheLogBeforeARecoveryCanBeExported(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3), Region("ber-1", "DE", 1))
		for range 3 {
			job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
			m.Within(10*time.Second, "it runs and ends", job.Exited(0))
		}
		m.Within(30*time.Second, "it is witnessed", m.cosigned("fra-1"))
		old := m.region("fra-1").newest()
		time.Sleep(time.Minute) // that no clock's tolerance joins before and after
		lost := time.Now()
		time.Sleep(time.Minute)
		for _, h := range m.region("fra-1").hosts {
			h.end(false)
		}
		h := m.host("fra-1", "n1")
		out, err := node.Recover(t.Context(), h.config(), h.deps(nil, nil))
		m.must(err)
		h.start()
		h.waitReady()
		job := m.AtNode("fra-1", "n1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
		m.Within(30*time.Second, "it runs and ends", job.Exited(0))
		m.Within(time.Minute, "the new log is witnessed", m.cosigned("fra-1"))

		text, err := m.AtNode("fra-1", "n1").TrustPolicy(t.Context(), 0)
		m.must(err)
		policy, err := ledger.ParsePolicy([]byte(text))
		m.must(err)
		export := func(f evidence.Filter) *evidence.Report {
			t.Helper()
			rep, err := evidence.Verify(policy, bytes.NewReader(m.exported(m.AtNode("fra-1", "n1").Client, f)), evidence.Options{Now: time.Now()})
			m.must(err)
			for _, v := range rep.Verdicts {
				if v.State != evidence.Holds {
					t.Errorf("%s is %s: %q", v.Name, v.State, v.Findings)
				}
			}
			return rep
		}
		before := export(evidence.Filter{To: lost}).Regions[0]
		if e := before.Ended; before.Origin != old.LogOrigin() || e == nil || e.Origin != out.Origin || e.Quoted != out.Quoted || before.End < old.LedgerSize() || before.Placements != 3 {
			t.Errorf("the log that ended: %+v, ended %+v; recovered: %+v", before, e, out)
		}
		after := export(evidence.Filter{}).Regions[0]
		if b := after.Begun; after.Origin != out.Origin || b == nil || b.Origin != old.LogOrigin() || b.Quoted != out.Quoted || after.Placements != 1 {
			t.Errorf("the log that goes on: %+v, begun %+v", after, b)
		}
		// A node that has joined since has nothing of it, and says who has.
		fresh := m.addHost(m.region("fra-1"))
		tok, err := m.AtNode("fra-1", "n1").CreateNodeToken(t.Context(), api.NodeTokenRequest{Node: fresh.name})
		m.must(err)
		m.must(fresh.join(tok.Token))
		fresh.start()
		fresh.waitReady()
		m.Within(2*time.Minute, "it has the new log", func() bool {
			status, err := m.AtNode("fra-1", fresh.name).Status(t.Context())
			return err == nil && fresh.node.View().LogOrigin() == out.Origin && status.Ledger == nil
		})
		_, err = m.AtNode("fra-1", fresh.name).Export(t.Context(), evidence.Filter{To: lost})
		if api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), old.LogOrigin()) {
			t.Errorf("from a node that joined since: %v", err)
		}
	})
}
