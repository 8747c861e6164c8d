package evidence

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func judged(tag, country, verdict, rule string) *ledger.Judgement {
	return &ledger.Judgement{Verdict: verdict, Rule: rule, Tag: tag, LawPack: residency.Embedded().Hash(), On: "2026-11-21",
		Facts: &ledger.Facts{Region: "r-1", Country: country, Home: country, Parent: "none", Location: "documented", Operator: "documented", AsOf: "2026-10-01"}}
}

// viaFR allows DE, by a path that leads through France.
const viaFR = "json:eyJyZXNpZGVuY3kiOnsiYWxsb3ciOlsiREUiXX0sInRyYW5zaXQiOnsidmlhIjpbIkZSIl19fQ"

func onNode(j *ledger.Judgement) *ledger.Judgement {
	j.Place = "a node"
	return j
}

func TestDecisionsAreRepeated(t *testing.T) {
	pack := residency.Embedded()
	packs := Packs{pack.Hash(): pack}
	tests := []struct {
		name string
		j    *ledger.Judgement
		says string // empty: the decision holds
	}{
		{"permitted as recorded", judged("EU", "FR", "permitted", "tag.allow"), ""},
		{"refused as recorded", judged("EU", "US", "refused", "tag.allow"), ""},
		{"one of two layers refuses", judged("DE & EU", "FR", "refused", "tag.allow"), ""},
		{"a placement outside the tag", judged("EU", "US", "permitted", "tag.allow"), "is refused"},
		{"a lawful one denied", judged("EU", "FR", "refused", "tag.allow"), "is permitted"},
		{"another rule than that which decided", judged("EU", "US", "refused", "tag.deny"), "no layer of it says so"},
		{"held on its way", judged(viaFR, "FR", "permitted", "transit.via"), ""},
		{"held off its way", judged(viaFR, "US", "permitted", "transit.via"), "the path"},
		{"run where it may only pass", onNode(judged(viaFR, "FR", "permitted", "transit.via")), "is refused"},
		{"a tag that is none", judged("Europe", "FR", "permitted", "tag.allow"), "Europe"},
		{"an admitted policy that excludes itself", &ledger.Judgement{Verdict: "permitted", Rule: "tag.read", Tag: "DE & FR", LawPack: pack.Hash(), On: "2026-11-21"}, "no place"},
		{"an admission", &ledger.Judgement{Verdict: "permitted", Rule: "tag.read", Tag: "EU", LawPack: pack.Hash(), On: "2026-11-21"}, ""},
		{"a day that is none", &ledger.Judgement{Verdict: "permitted", Rule: "tag.read", Tag: "EU", LawPack: pack.Hash(), On: "soon"}, "soon"},
	}
	for _, tt := range tests {
		err := Rejudge(tt.j, packs)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
	if err := Rejudge(judged("EU", "FR", "permitted", "tag.allow"), Packs{}); !errors.Is(err, ErrNoPack) {
		t.Errorf("without its pack: %v", err)
	}
}

// What was judged before is not judged again; a judgement that only looks like
// it is.
func TestOnlyWhatIsAlikeIsJudgedOnce(t *testing.T) {
	shifted := func() (lawful, unlawful *ledger.Judgement) {
		// Both print alike, field by field with spaces between.
		lawful, unlawful = judged("EU", "FR", "permitted", "tag.allow"), judged("EU", "US", "permitted", "tag.allow")
		lawful.Facts.Site, unlawful.Facts.Site = "hall US", "hall"
		f := unlawful.Facts
		f.Subdivision, f.Home, f.Parent = "FR", "", "FR none"
		return lawful, unlawful
	}
	passing, running := judged(viaFR, "FR", "permitted", "transit.via"), onNode(judged(viaFR, "FR", "permitted", "transit.via"))
	lawful, unlawful := shifted()
	for name, two := range map[string][2]*ledger.Judgement{"moved over": {lawful, unlawful}, "passing, then running": {passing, running}} {
		pack := residency.Embedded()
		v := &verifier{packs: Packs{pack.Hash(): pack}, judged: map[string]error{}}
		if err := v.rejudge(two[0]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := v.rejudge(two[1]); err == nil {
			t.Errorf("%s: the second was taken for the first", name)
		}
	}
}

// A region whose replicas all lie can write a law of its own, pin it and bring it
// along: the decisions repeat under it, and the auditor is told that it is not the
// law of this program.
func TestALawOfTheRegionsOwnIsNamed(t *testing.T) {
	tables := residency.Embedded().Tables()
	tables["groups.csv"] = append(tables["groups.csv"], "EU,US,2020-01-01,,member,of its own making,high\n"...)
	own, err := residency.LoadPack(tables)
	if err != nil {
		t.Fatal(err)
	}
	const line = "says what the law says"
	m := newMesh(t, "")
	if rep := verified(t, m.policy, packed(t, m.files(t))); strings.Contains(strings.Join(rep.NotShownHere, "\n"), line) {
		t.Errorf("of this program's own law: %q", rep.NotShownHere)
	}
	j := m.logs[0].here("EU")
	j.LawPack, j.Facts.Country = own.Hash(), "US"
	m.logs[0].add(t, kindAssign, judging(j))
	m.logs[0].sign()
	files := m.files(t)
	at := slices.IndexFunc(files, func(f file) bool { return strings.HasPrefix(f.name, lawDir+"/") })
	var law []file
	for _, name := range sorted(tables) {
		law = append(law, file{lawName(own.Hash(), name), tables[name]})
	}
	rep := verified(t, m.policy, packed(t, slices.Insert(files, at, law...)))
	if all := strings.Join(rep.NotShownHere, "\n"); !strings.Contains(all, line) || !strings.Contains(all, own.Hash()) {
		t.Errorf("law %s, not shown: %q", rep.Verdict(Law).State, all)
	}
}

// What is printed of receipts is of packs: the file of one receipt has that one.
func TestReceiptsHereAreToldInWords(t *testing.T) {
	for _, tt := range []struct {
		r    RegionReport
		kind string
		want string
	}{
		{RegionReport{Segments: 2, Requests: 3, Receipts: 3}, KindPack, "0 MISSING; 3 receipts here\n"},
		{RegionReport{Segments: 2, Requests: 3, Receipts: 1, Absent: 1}, KindPack, "0 MISSING; 1 receipt here, of 1 segment none\n"},
		{RegionReport{Segments: 1, Requests: 1}, KindInference, "0 MISSING\n"},
	} {
		var out bytes.Buffer
		(&printer{w: &out}).region(&tt.r, tt.kind)
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("%q, want %q", out.String(), tt.want)
		}
	}
}
