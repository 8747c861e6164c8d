package mesh

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// chat asks a model through a node, and gives the id of the answer's receipt.
func (m *Mesh) chat(id placement.RegionID, node placement.NodeID, model, evidence string) (status int, receipt string) {
	m.t.Helper()
	status, head, _ := m.answer(http.MethodPost, id, node, "/v1/chat/completions", http.Header{
		"Authorization": {"Bearer " + m.region(id).token}, "Content-Type": {"application/json"}, "X-Sovmesh-Evidence": {evidence}, "X-Data-Residency": {"FR"},
	}, `{"model":"`+model+`","messages":[{"role":"user","content":"bonjour"}]}`)
	return status, head.Get("X-Sovmesh-Receipt")
}

// audited judges evidence under the policy that the region hands out.
func (m *Mesh) audited(id placement.RegionID, data []byte) *evidence.Report {
	m.t.Helper()
	text, err := m.At(id).TrustPolicy(m.t.Context(), 1)
	m.must(err)
	policy, err := ledger.ParsePolicy([]byte(text))
	m.must(err)
	rep, err := evidence.Verify(policy, bytes.NewReader(data), evidence.Options{Now: time.Now()})
	m.must(err)
	return rep
}

// Answers of several nodes: each receipt is a file that verifies offline, asked
// for at any node; a pack made at one node has the receipts of all, and says of
// which it has none when their node is away.
func TestReceiptsOfAllNodesAreEvidence(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3), Region("ber-1", "DE", 1))
		m.modelServer("127.0.0.1:8000")
		for _, model := range []string{"m", "other"} {
			job := m.At("fra-1").Submit(`{"kind":"inference","type":"service","restart":{"policy":"on-failure"},"residency":"FR","node":"n1","models":["` + model + `"],"upstream":"http://127.0.0.1:8000","command":["run","1h"]}`)
			m.Within(20*time.Second, "the model server runs", job.Is(placement.JobRunning))
		}
		var ids []string
		for i, node := range []placement.NodeID{"n1", "n2", "n3", "n2", "n1"} {
			model := "m"
			if i == 4 {
				model = "other"
			}
			var id string
			m.Within(10*time.Second, string(node)+" answers with a receipt", func() bool {
				var status int
				status, id = m.chat("fra-1", node, model, "required")
				return status == http.StatusOK && id != ""
			})
			ids = append(ids, id)
			time.Sleep(1500 * time.Millisecond)
		}
		m.Within(30*time.Second, "all is signed and witnessed", m.cosigned("fra-1"))
		asked := m.AtNode("fra-1", "n1")
		for _, id := range ids {
			data, d, err := asked.InferenceReceipt(t.Context(), id, 10*time.Second)
			m.must(err)
			if rep := m.audited("fra-1", data); !rep.OK() || d.State != receipt.Committed || rep.Receipt.ID != id {
				t.Errorf("%s: %+v", id, rep.Verdicts)
			}
		}
		if _, _, err := asked.InferenceReceipt(t.Context(), strings.Replace(ids[0], ".0", ".77", 1), 0); Code(err) != "receipt_not_found" {
			t.Errorf("a receipt that nobody promised: %v", err)
		}

		m.Within(30*time.Second, "all is signed and witnessed", m.cosigned("fra-1"))
		pack := m.exported(asked.Client, evidence.Filter{})
		if rep := m.audited("fra-1", pack); rep.Regions[0].Placements == 0 || strings.Contains(strings.Join(rep.NotShownHere, "\n"), "came in with") || strings.Contains(strings.Join(rep.NotShownHere, "\n"), "quote none") {
			t.Errorf("its %d placements are not all held against the tags of their jobs: %q", rep.Regions[0].Placements, rep.NotShownHere)
		}
		rep := m.audited("fra-1", pack)
		if r := rep.Regions[0]; !rep.OK() || r.Receipts < len(ids) || uint64(r.Receipts) != r.Requests || r.Absent != 0 {
			t.Errorf("%+v\n%+v", r, rep.Verdicts)
		}
		// A tenant's own: those of others would be hashes. Nobody else asked.
		if rep := m.audited("fra-1", m.exported(asked.Client, evidence.Filter{Tenant: "nobody"})); !rep.OK() || rep.Regions[0].Receipts != 0 {
			t.Errorf("%+v", rep)
		}
		if rep := m.audited("fra-1", m.exported(asked.Client, evidence.Filter{Tenant: "default"})); !rep.OK() || rep.Regions[0].Receipts < len(ids) {
			t.Errorf("%+v", rep)
		}
		page, err := asked.Jobs(t.Context(), api.ListOptions{})
		m.must(err)
		for _, j := range page.Items {
			if j.Spec.Models[0] != "other" {
				continue
			}
			if rep := m.audited("fra-1", m.exported(asked.Client, evidence.Filter{Job: string(j.ID)})); !rep.OK() || rep.Regions[0].Receipts != 1 {
				t.Errorf("of one job: %+v", rep)
			}
		}

		m.Kill("fra-1", "n3")
		rep = m.audited("fra-1", m.exported(asked.Client, evidence.Filter{}))
		v := rep.Verdict(evidence.Completeness)
		if rep.OK() || v.State != evidence.NotShown || !strings.Contains(v.Says, "was away") || rep.Regions[0].Absent == 0 {
			t.Errorf("with a node away: %+v", v)
		}
		m.Restart("fra-1", "n3")
		m.Within(30*time.Second, "its receipts are there again", func() bool {
			return m.audited("fra-1", m.exported(asked.Client, evidence.Filter{})).Verdict(evidence.Completeness).State == evidence.Holds
		})
	})
}

// A job that a client lands in another region by a grant stands in both ledgers,
// and each quotes the other's leaf. Both packs together show it, and that nothing is quoted which is
// not there.
func TestALandedJobIsQuotedByBothLedgers(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("ber-1", "DE", 3))
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"DE","command":["run","1s"]}`)
		if job.Landed != "ber-1" {
			t.Fatalf("it landed in %q", job.Landed)
		}
		used := func() *state.Grant {
			for _, g := range m.region("fra-1").newest().Grants() {
				if g.Issued && g.Job == job.ID {
					return g
				}
			}
			return nil
		}
		m.Within(20*time.Second, "home quotes the leaf that admitted the job", func() bool { return used() != nil })
		for _, id := range []placement.RegionID{"fra-1", "ber-1"} {
			m.Within(time.Minute, string(id)+" is witnessed", m.cosigned(id))
		}
		text, err := m.At("fra-1").TrustPolicy(t.Context(), 1)
		m.must(err)
		policy, err := ledger.ParsePolicy([]byte(text))
		m.must(err)
		quotes := map[string]int{}
		a := evidence.NewAuditor(policy, evidence.Options{Now: time.Now(), Several: true, Leaf: func(region string, _ uint64, l *ledger.Leaf) {
			if l.Get(ledger.ShownPeerLeaf) != "" && (l.Kind == string(state.KindUseGrant) || l.Kind == string(state.KindSubmitJob)) {
				quotes[region+" "+l.Subject]++
			}
		}})
		for _, id := range []placement.RegionID{"fra-1", "ber-1"} {
			m.must(a.Read(string(id), bytes.NewReader(m.exported(m.At(id).Client, evidence.Filter{}))))
		}
		for _, rep := range a.Reports() {
			if v := rep.Verdict(evidence.Consistency); v.State != evidence.Holds || strings.Contains(strings.Join(rep.NotShownHere, "\n"), "crossing") {
				t.Errorf("%s: %+v\n%q", rep.File, rep.Verdicts, rep.NotShownHere)
			}
		}
		if quotes["fra-1 "+string(job.ID)] != 1 || quotes["ber-1 "+string(job.ID)] != 1 {
			t.Errorf("quotes %v", quotes)
		}
	})
}
