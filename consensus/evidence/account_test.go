package evidence

import (
	"bytes"
	"fmt"
	unescape "html"
	"io"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// paged packs a mesh and makes the page of it.
func paged(t *testing.T, m *aMesh, job string, regimes ...string) *Page {
	t.Helper()
	files := map[string][]byte{"pack.tar": packed(t, m.files(t)), "policy": []byte(m.policy.Text())}
	q := Request{Policy: "policy", Files: []string{"pack.tar"}, Options: Options{Now: noon}, Open: func(name string) (io.ReadCloser, error) {
		if data, ok := files[name]; ok {
			return io.NopCloser(bytes.NewReader(data)), nil
		}
		return nil, fmt.Errorf("no file %s", name)
	}}
	p, err := q.Page(job, regimes)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnAccountTellsWhatHappened(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	job := func(id string) func(*ledger.Leaf) { return showing(ledger.ShownJob, id+" running") }
	l.add(t, kindAssign, judging(l.here("EU")), job("j1"))
	for _, to := range []struct{ region, country string }{{"ber-1", "DE"}, {"tyo-1", "JP"}, {"iad-2", "IN"}} {
		j := judged("ANY", to.country, "permitted", "tag.allow")
		j.Facts.Region = to.region
		l.add(t, kindForward, judging(j), job("j2"))
	}
	l.add(t, kindGrant, showing(ledger.ShownRole, "admin"), showing(ledger.ShownRegion, "ber-1"))
	l.add(t, kindGrant, showing(ledger.ShownRole, "admin"), showing(ledger.ShownRegion, "ber-1"))
	used := func(x *ledger.Leaf) { x.Subject = "j7" }
	l.add(t, kindUsed, used, showing(ledger.ShownRole, "node"), showing(ledger.ShownRegion, "ber-1"), showing(ledger.ShownGrant, "g"), showing(ledger.ShownPeerLeaf, "ber-1 9999 "+strings.Repeat("ab", 32)))
	l.add(t, "job.submit", judging(l.here("EU")), showing(ledger.ShownRole, "admin"))
	l.add(t, "node.drain", showing(ledger.ShownRole, "admin+operator"), showing(ledger.ShownState, "draining <script>alert(1)</script>"), func(x *ledger.Leaf) { x.Actor = "h:<script>alert(2)</script>" })
	l.add(t, "node.certificate", showing(ledger.ShownRole, "node"), showing(ledger.ShownCertificate, "4711 2026-12-01T00:00:00Z"))
	l.add(t, kindSubmit, showing(ledger.ShownRole, "grant"), showing(ledger.ShownPeerLeaf, "waw-1 7 "+strings.Repeat("ab", 32)))
	l.sign()
	p := paged(t, m, "", "gdpr", "nis2")
	r := p.Account.Regions[0]
	if len(r.Places) != 1 || r.Places[0].Count != 2 || r.Country != "FR" || len(r.Refusals) != 1 || len(r.Certificates) != 1 || len(r.Transfers) != 5 || len(r.Acts) != 2 {
		t.Fatalf("%+v", r)
	}
	for i, want := range []string{"it stays in the EEA", "adequacy ", "a basis outside of the law pack must be named", "judged by the region that took the job: see its pack; 1 of 2 known to have been used", "the exporter's to name"} {
		if got := r.Transfers[i].What; !strings.Contains(got[len(got)-1], want) {
			t.Errorf("basis of a transfer to %s: %q, want %q", got[2], got[len(got)-1], want)
		}
	}
	var html, text bytes.Buffer
	if err := p.WriteHTML(&html); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{unescape.UnescapeString(html.String()), text.String()} {
		for _, want := range []string{"node.drain", "admin+operator", "4711", "44-49", "23(4)", "The evidence holds", "regions and all the witnesses"} {
			if !strings.Contains(strings.ToLower(out), strings.ToLower(want)) {
				t.Errorf("the page lacks %q", want)
			}
		}
	}
	if strings.Contains(html.String(), "<script>") || strings.Contains(html.String(), "http://") || strings.Contains(html.String(), "src=") {
		t.Error("the page runs or fetches something")
	}
	if r.Transfers[3].Count != 2 {
		t.Errorf("two grants, one of them used, are %d crossings", r.Transfers[3].Count)
	}
	if one := paged(t, m, "j7").Account.Regions[0].Transfers; len(one) != 1 || one[0].Count != 1 || !strings.Contains(one[0].What[6], "1 of 1 known") {
		t.Errorf("of a job that went by a grant: %+v", one)
	}
	if one := paged(t, m, "j1").Account.Regions[0]; len(one.Places) != 1 || one.Places[0].Count != 1 || len(one.Transfers) != 0 {
		t.Errorf("of one job: %+v", one)
	}
}

// Who acted and where from stand in a leaf as commitments: the account says so,
// or opens them where the openings are here and fit.
func TestAnAccountOpensWhoActed(t *testing.T) {
	salt := ledger.Salt{7}
	command := func(actor string) []byte {
		out := append([]byte{1, 10}, "node.drain01234567"...)
		out = append(out, salt[:]...)
		out = append(out, byte(len(actor)>>8), byte(len(actor)))
		return append(append(out, actor...), "{}"...)
	}
	leaf := &ledger.Leaf{Kind: "node.drain", Actor: ledger.Opaque(salt, "tok-1"), Time: noon,
		Shown: []ledger.Shown{{Name: ledger.ShownRole, Value: "operator"}, {Name: ledger.ShownWhere, Value: ledger.Opaque(salt, "n2 192.0.2.7")}}}
	for _, tt := range []struct{ actor, who, where string }{
		{"", "hidden: the region can open it", "hidden: the region can open it"},
		{"tok-1@n2 192.0.2.7", "tok-1", "n2 192.0.2.7"},
		{"tok-2@n2 192.0.2.7", "hidden: the region can open it", "n2 192.0.2.7"},
		{"tok-1@n2 192.0.2.8", "tok-1", "hidden: the region can open it"},
	} {
		a := &Account{}
		a.Leaf("fra-1", 9, leaf)
		if tt.actor != "" {
			a.Opening("fra-1", 9, command(tt.actor))
		}
		a.Opening("fra-1", 9, []byte{1, 200})
		a.Close(nil)
		if acts := a.Regions[0].Acts; len(acts) != 1 || acts[0].What[2] != tt.who || acts[0].What[3] != tt.where {
			t.Errorf("opened with %q: %+v", tt.actor, acts)
		}
	}
}

// Every section that a duty names is one of the report, and the words of the
// table reach the flag.
func TestDutiesSpeakOfTheReport(t *testing.T) {
	for _, d := range Duties() {
		switch d.Section {
		case "places", "transfers", "refusals", "acts", "certificates", "segments", "completeness", "erased", "not shown":
		default:
			t.Errorf("%s %s: no section %q", d.Regime, d.Article, d.Section)
		}
		if d.What == "" || d.Shows == "" || d.Article == "" {
			t.Errorf("%+v", d)
		}
	}
	for _, want := range []string{"gdpr", "ai-act", "nis2"} {
		if len(Duties(want)) == 0 {
			t.Errorf("no duties of %s", want)
		}
	}
	if len(Duties("astrology")) != 0 {
		t.Error("duties of what there is not")
	}
}

func TestABasisIsOfItsDay(t *testing.T) {
	pack := residency.Embedded()
	for _, tc := range []struct{ day, from, to, want string }{
		{"2026-11-21", "FR", "FR", "stays in FR"},
		{"2026-11-21", "FR", "NO", "stays in the EEA"},
		{"2026-11-21", "FR", "JP", "adequacy"},
		{"2001-01-01", "FR", "JP", "no row"},
		{"2026-11-21", "FR", "IN", "no row"},
	} {
		on, err := residency.ParseDate(tc.day)
		if err != nil {
			t.Fatal(err)
		}
		if got := basisBetween(pack, on, tc.day, tc.from, tc.to); !strings.Contains(got, tc.want) {
			t.Errorf("%s to %s on %s: %q, want %q", tc.from, tc.to, tc.day, got, tc.want)
		}
	}
}
