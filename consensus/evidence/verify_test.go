package evidence

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

func TestAPackOfAnHonestMeshHolds(t *testing.T) {
	m := newMesh(t, "")
	rep := verified(t, m.policy, packed(t, m.files(t)))
	for _, v := range rep.Verdicts {
		if v.State != Holds {
			t.Errorf("%s: %s: %q", v.Name, v.State, v.Findings)
		}
	}
	if !rep.OK() || len(rep.Verdicts) != 7 {
		t.Fatalf("%+v", rep)
	}
	if r := rep.Regions[0]; r.Placements != 1 || r.Refusals != 1 || r.Openings != 1 || r.Segments != 2 || r.Requests != 10 || len(r.Witnesses) != 1 {
		t.Errorf("read of fra-1: %+v", r)
	}
}

// A region that takes a job adds its rule to the job's layers, never takes one
// away.
func TestAPolicyMayBecomeNarrower(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	in := judged("EU", "", "permitted", ruleAdmission)
	in.Facts = nil
	l.add(t, kindSubmit, judging(in), func(x *ledger.Leaf) { x.Subject = "fra-1.01" })
	j := l.here("EU & FR")
	j.Subject = "fra-1.01"
	l.add(t, kindAssign, judging(j))
	l.sign()
	rep := verified(t, m.policy, packed(t, m.files(t)))
	mustHold(t, rep)
	if got := strings.Join(rep.NotShownHere, "\n"); !strings.Contains(got, "that 1 decision of region fra-1 went by the tag") {
		t.Errorf("of the story's placement nobody knows the job: %s", got)
	}
}

// A pack of a later time begins at its edge.
func TestAPackMayBeginLate(t *testing.T) {
	m := newMesh(t, "")
	m.logs[1].first = 3
	m.desc.Filter.From = at(3).Add(2 * maxSkew)
	if rep := verified(t, m.policy, packed(t, m.files(t))); !rep.OK() {
		t.Errorf("%+v", rep.Verdicts)
	}
}

// attack changes a mesh before it is packed, or the files after.
type attack struct {
	name    string
	mesh    func(t *testing.T, m *aMesh)
	files   func(t *testing.T, m *aMesh, files []file) []file
	verdict string
	says    string
}

func attacks() []attack {
	replace := func(suffix string, change func(t *testing.T, m *aMesh, data []byte) []byte) func(*testing.T, *aMesh, []file) []file {
		return func(t *testing.T, m *aMesh, files []file) []file {
			for i := range files {
				if strings.HasSuffix(files[i].name, suffix) {
					files[i].data = change(t, m, bytes.Clone(files[i].data))
					return files
				}
			}
			t.Fatalf("no file %s", suffix)
			return nil
		}
	}
	without := func(part string) func(*testing.T, *aMesh, []file) []file {
		return func(_ *testing.T, _ *aMesh, files []file) (out []file) {
			for _, f := range files {
				if !strings.Contains(f.name, part) {
					out = append(out, f)
				}
			}
			return out
		}
	}
	outside := func(change func(*ledger.Judgement)) func(*testing.T, *aMesh) {
		return func(t *testing.T, m *aMesh) {
			j := m.logs[0].here("EU")
			change(j)
			m.logs[0].add(t, kindAssign, judging(j))
			m.logs[0].sign()
		}
	}
	return []attack{
		{"one byte of a leaf", nil, replace("fra-1/entries/000000000", func(_ *testing.T, _ *aMesh, d []byte) []byte { d[40] ^= 1; return d }), Consistency, "another log than these leaves"},
		{"a leaf left out", nil, replace("fra-1/entries/000000000", func(_ *testing.T, m *aMesh, d []byte) []byte { return d[2+len(m.logs[0].leaves[0]):] }), Completeness, "the end is missing"},
		{"the tail cut and signed again", func(t *testing.T, m *aMesh) {
			// The fork is signed by the log's own key; the witness saw the other.
			l := m.logs[0]
			l.cosignedBy = nil
			l.leaves = l.leaves[:4]
			l.sizes = []uint64{2, 4}
		}, nil, Consistency, "not witnessed as the policy asks"},
		{"the tail cut, signed again and witnessed by itself", func(t *testing.T, m *aMesh) {
			// The policy's group has the witnesses of all regions, one of which is enough:
			// the region's own key is one of them.
			l := m.logs[0]
			l.cosignedBy = []*ledger.Cosigner{l.cosigner}
			l.leaves = l.leaves[:4]
			l.sizes = []uint64{2, 4}
		}, nil, Consistency, "not witnessed as the policy asks"},
		{"a placement outside the tag", outside(func(j *ledger.Judgement) { j.Facts.Country = "US" }), nil, Law, "is refused"},
		{"a placement judged elsewhere", outside(func(j *ledger.Judgement) { j.Facts.Region = "ber-1" }), nil, Law, "judged another region"},
		{"a placement where it may only pass", outside(func(j *ledger.Judgement) { j.Tag, j.Rule = viaFR, "transit.via" }), nil, Law, "may pass through"},
		{"room held in another region", func(t *testing.T, m *aMesh) {
			j := m.logs[0].here("EU")
			j.Facts.Region = "ber-1"
			m.logs[0].add(t, kindReserve, judging(j))
			m.logs[0].sign()
		}, nil, Law, "holds room here, and judged another region"},
		{"a job sent away that nobody judged", func(t *testing.T, m *aMesh) {
			m.logs[0].add(t, kindForward, showing(ledger.ShownJob, "fra-1.01 starting"))
			m.logs[0].sign()
		}, nil, Law, "sends a job to another region"},
		{"a placement by another tag than the job's", func(t *testing.T, m *aMesh) {
			l := m.logs[0]
			in := judged("DE", "", "permitted", ruleAdmission)
			in.Facts = nil
			l.add(t, kindSubmit, judging(in), func(x *ledger.Leaf) { x.Subject = "fra-1.01" })
			j := l.here("EU")
			j.Subject = "fra-1.01"
			l.add(t, kindAssign, judging(j))
			l.sign()
		}, nil, Law, "it came in with DE"},
		{"a placement that nobody judged", func(t *testing.T, m *aMesh) { m.logs[0].add(t, kindAssign); m.logs[0].sign() }, nil, Law, "0 of its 0"},
		{"yesterday's time", func(t *testing.T, m *aMesh) {
			m.logs[0].add(t, "job.submit", func(l *ledger.Leaf) { l.Time = noon.AddDate(0, 0, -1) })
			m.logs[0].sign()
		}, nil, Time, "witnesses saw the log without it"},
		{"a witness whose clock ran back", func(_ *testing.T, m *aMesh) {
			m.logs[0].late = map[uint64]time.Duration{5: 10 * time.Minute}
		}, nil, Time, "ran back"},
		{"a clock a month ahead", func(t *testing.T, m *aMesh) {
			m.logs[0].add(t, "job.submit", func(l *ledger.Leaf) { l.Time = noon.AddDate(0, 1, 0) })
			m.logs[0].sign()
		}, nil, Time, "witnesses had seen it by"},
		{"a segment left out", func(t *testing.T, m *aMesh) { m.logs[0].segment(t, 4, "cc", "dd"); m.logs[0].sign() }, nil, Completeness, "what is between is missing"},
		{"receipts lost", func(t *testing.T, m *aMesh) {
			m.logs[0].add(t, kindSegment, showing(ledger.ShownChain, "h:1"), showing(ledger.ShownSegment, "3"), showing(ledger.ShownPrev, m.logs[0].named("bb")), showing(ledger.ShownMissing, "2"))
			m.logs[0].sign()
		}, nil, Completeness, "MISSING"},
		{"another region's leaf misquoted", func(t *testing.T, m *aMesh) {
			m.logs[1].add(t, "job.submit", showing(ledger.ShownPeerLeaf, "fra-1 2 "+strings.Repeat("ab", 32)))
			m.logs[1].sign()
		}, nil, Consistency, "which is another there"},
		{"an opening changed", nil, replace("fra-1/openings/000000000", func(_ *testing.T, _ *aMesh, d []byte) []byte { d[len(d)-1] ^= 1; return d }), Integrity, "not what the leaf commits to"},
		{"an opening of no leaf", nil, replace("fra-1/openings/000000000", func(_ *testing.T, _ *aMesh, d []byte) []byte { d[7] = 99; return d }), Integrity, "not here"},
		{"no law pack", nil, without("law/"), Law, "not here"},
		{"a law pack that was changed", nil, replace("countries.csv", func(_ *testing.T, _ *aMesh, d []byte) []byte { return bytes.Replace(d, []byte("FR"), []byte("FX"), 1) }), Integrity, "law pack"},
		{"no certificates", nil, without("fra-1/bundles"), Completeness, "certificates"},
		{"other certificates", nil, func(_ *testing.T, _ *aMesh, files []file) []file {
			extra := file{fileName("fra-1", dirBundles, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.json"), nil}
			i := 0
			for !strings.Contains(files[i].name, "fra-1/bundles") {
				i++
			}
			return append(files[:i:i], append([]file{extra}, files[i:]...)...)
		}, Origin, "no leaf names"},
		{"no checkpoint", nil, without("fra-1/checkpoints"), Freshness, "no checkpoint"},
		{"the last checkpoint missing", func(_ *testing.T, m *aMesh) { m.logs[0].sizes = m.logs[0].sizes[:2] }, nil, Freshness, "covers 5 leaves of 7"},
		{"no edge", nil, without("fra-1/edge"), Integrity, "no edge"},
		{"regions swapped", nil, func(_ *testing.T, m *aMesh, files []file) []file {
			for i := range files {
				switch n := files[i].name; {
				case strings.Contains(n, "/fra-1/"):
					files[i].name = strings.Replace(n, "/fra-1/", "/ber-1/", 1)
				case strings.Contains(n, "/ber-1/"):
					files[i].name = strings.Replace(n, "/ber-1/", "/fra-1/", 1)
				}
			}
			return files
		}, Integrity, "not the next"},
		{"a region left out", nil, without("regions/ber-1"), Integrity, "names 2 regions"},
		{"re-keyed", func(t *testing.T, m *aMesh) { policy := m.policy; *m = *newMesh(t, "other"); m.policy = policy }, nil, Origin, "signature"},
		{"a signature line of nobody", nil, replace("fra-1/checkpoints/00000000000000000007", func(_ *testing.T, _ *aMesh, d []byte) []byte {
			return append(d, "— somebody AAAAAAAA\n"...)
		}), Integrity, "does not name"},
		{"a foreign witness alone", func(t *testing.T, m *aMesh) {
			w, err := ledger.NewCosigner("w.example", ledger.CosignatureEd25519, seed("w"))
			if err != nil {
				t.Fatal(err)
			}
			m.logs[0].cosignedBy = []*ledger.Cosigner{w}
		}, nil, Consistency, "not witnessed"},
		{"a beginning that is not there", func(_ *testing.T, m *aMesh) {
			m.logs[0].first, m.desc.Filter.From = 4, at(2)
		}, nil, Completeness, "is said to begin at"},
		{"a time without a leaf", func(_ *testing.T, m *aMesh) {
			// All that stood in the log at noon is left out, of a pack of noon.
			m.logs[1].first, m.logs[1].sizes = uint64(len(m.logs[1].leaves)), append(m.logs[1].sizes, uint64(len(m.logs[1].leaves)))
			m.desc.Filter.From, m.desc.Filter.To = at(0), at(3)
		}, func(t *testing.T, m *aMesh, files []file) (out []file) {
			l := m.logs[1]
			for _, f := range files {
				switch {
				case strings.Contains(f.name, "fra-1"), strings.Contains(f.name, "ber-1/openings"), strings.Contains(f.name, "ber-1/entries"):
				case strings.HasSuffix(f.name, "ber-1/"+fileEdge):
					out = append(out, file{checkpointName(l.region, l.first), l.note(t, l.first, l.root(l.first))}, f)
				case f.name == DescriptionName:
					d, err := ParseDescription(f.data)
					if err != nil {
						t.Fatal(err)
					}
					d.Regions = d.Regions[1:]
					data, err := d.Encode()
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, file{f.name, data})
				default:
					out = append(out, f)
				}
			}
			return out
		}, Completeness, "no leaf is here"},
		{"an end that is not there", func(_ *testing.T, m *aMesh) { m.desc.Filter.To = at(100) }, nil, Freshness, "is said to reach to"},
		{"erased what is not there", nil, replace(DescriptionName, func(_ *testing.T, _ *aMesh, d []byte) []byte {
			return bytes.Replace(d, []byte("\"end\": 7\n"), []byte("\"end\": 7,\n      \"erased\": [\n        9\n      ]\n"), 1)
		}), Completeness, "not of this pack"},
	}
}

// Each attack is found, by a verdict and in words of its own.
func TestAttacksOnPacks(t *testing.T) {
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			m := newMesh(t, "")
			if a.mesh != nil {
				a.mesh(t, m)
			}
			files := m.files(t)
			if a.files != nil {
				files = a.files(t, m, files)
			}
			rep := verified(t, m.policy, packed(t, files))
			v := rep.Verdict(a.verdict)
			if rep.OK() || v.State == Holds || !strings.Contains(strings.Join(v.Findings, "\n"), a.says) {
				t.Errorf("%s is %s: %q, want %q; all: %+v", a.verdict, v.State, v.Findings, a.says, rep.Verdicts)
			}
		})
	}
}

func TestWithoutAPolicyNothingIsAnybodys(t *testing.T) {
	m := newMesh(t, "")
	rep := verified(t, nil, packed(t, m.files(t)))
	if v := rep.Verdict(Origin); rep.OK() || v.State != Fails || !strings.HasPrefix(v.Says, "self-declared") {
		t.Errorf("%+v", v)
	}
}

func TestAgeIsJudgedWhenAsked(t *testing.T) {
	m := newMesh(t, "")
	data := packed(t, m.files(t))
	rep, err := Verify(m.policy, bytes.NewReader(data), Options{Now: noon.Add(48 * time.Hour), MaxAge: 24 * time.Hour})
	if err != nil || rep.Verdict(Freshness).State != Fails {
		t.Errorf("%v, %+v", err, rep.Verdict(Freshness))
	}
}

// Whatever byte of whatever file changes, with a manifest made to fit, some
// verdict fails; only the text for people may say something else. The second
// region's files are of the same kinds, and tried here and there.
func TestEveryByteOfEveryFileCounts(t *testing.T) {
	m := newMesh(t, "")
	files := m.files(t)
	for i := range files {
		if files[i].name == ReadmeName || strings.HasPrefix(files[i].name, "law/") {
			continue // a law pack's hash is its own
		}
		step := 1
		if testing.Short() || strings.Contains(files[i].name, "/ber-1/") {
			step = 23
		}
		for at := 0; at < len(files[i].data); at += step {
			if line := lineAt(files[i].data, at); strings.Contains(line, "exported_") {
				continue // when and by whom the pack was made is nobody's to prove
			}
			changed := append([]file(nil), files...)
			changed[i].data = bytes.Clone(files[i].data)
			changed[i].data[at] ^= 1 << (at % 7)
			if rep := verified(t, m.policy, packed(t, changed)); rep.OK() {
				t.Fatalf("byte %d of %s changed, and all holds", at, files[i].name)
			}
		}
	}
}

// A pack that is cut anywhere is none; and a file in it that is cut, with a
// manifest made to fit, fails some verdict. What is left out whole, and shows
// nothing that is asked for, may be: an opening, and the cosignatures of a state
// before the last.
func TestEveryTruncationShows(t *testing.T) {
	m := newMesh(t, "")
	files := m.files(t)
	whole := packed(t, files)
	for at := 0; at < len(whole); at += 487 {
		if rep := verified(t, m.policy, whole[:at]); rep.OK() || rep.Verdict(Integrity).State != Fails {
			t.Fatalf("cut at %d of %d: %+v", at, len(whole), rep.Verdicts)
		}
	}
	for i := range files {
		if files[i].name == ReadmeName || strings.HasPrefix(files[i].name, "law/") || strings.Contains(files[i].name, "/ber-1/") {
			continue
		}
		step := 1
		if testing.Short() || len(files[i].data) > 600 {
			step = 13
		}
		for at := 0; at < len(files[i].data); at += step {
			left := files[i].data[:at]
			mayGo := strings.Contains(files[i].name, dirOpenings) && at == 0 ||
				strings.Contains(files[i].name, dirCheckpoints) && !strings.HasSuffix(files[i].name, "07") && bytes.Count(left, []byte("— ")) == 1 && bytes.HasSuffix(left, []byte("\n"))
			changed := append([]file(nil), files...)
			changed[i].data = left
			if rep := verified(t, m.policy, packed(t, changed)); rep.OK() && !mayGo {
				t.Fatalf("%s cut at %d, and all holds", files[i].name, at)
			}
		}
	}
}

// Whatever byte of the policy changes, it is no policy any more, or the evidence
// is no longer that of whom it names; only what people are told may change.
func TestEveryByteOfThePolicyCounts(t *testing.T) {
	m := newMesh(t, "")
	data, text := packed(t, m.files(t)), m.policy.Text()
	for at := range text {
		for _, bit := range []byte{1, 0x10} {
			changed := []byte(text)
			changed[at] ^= bit
			policy, err := ledger.ParsePolicy(changed)
			if err == nil && verified(t, policy, data).OK() {
				t.Fatalf("bit %#x of byte %d changed, and all holds: %q", bit, at, lineAt(changed, at))
			}
		}
		if policy, err := ledger.ParsePolicy([]byte(text[:at])); err == nil && verified(t, policy, data).OK() {
			t.Fatalf("cut at %d, and all holds", at)
		}
	}
}

// Each region exports its own pack: read together, what they say of each other
// is compared; alone, it is said not to be shown.
func TestQuotesAreComparedAcrossFiles(t *testing.T) {
	read := func(m *aMesh, logs ...*aLog) []*Report {
		t.Helper()
		a := NewAuditor(m.policy, Options{Now: noon, Several: len(logs) > 1})
		for _, l := range logs {
			if err := a.Read(l.region, bytes.NewReader(exported(t, l.exporter(t)))); err != nil {
				t.Fatal(err)
			}
		}
		return a.Reports()
	}
	m := newMesh(t, "")
	for _, rep := range read(m, m.logs...) {
		mustHold(t, rep)
		if strings.Contains(strings.Join(rep.NotShownHere, "\n"), "crossings") {
			t.Errorf("%s: %q", rep.File, rep.NotShownHere)
		}
	}
	if rep := read(m, m.logs[1])[0]; !rep.OK() || !strings.Contains(strings.Join(rep.NotShownHere, "\n"), "the other half of 1 crossings") {
		t.Errorf("alone: %+v", rep)
	}
	m.logs[1].add(t, "job.submit", showing(ledger.ShownPeerLeaf, "fra-1 2 "+strings.Repeat("ab", 32)))
	m.logs[1].sign()
	reports := read(m, m.logs...)
	mustHold(t, reports[0])
	if v := reports[1].Verdict(Consistency); v.State != Fails || !strings.Contains(v.Says, "which is another there") {
		t.Errorf("%+v", v)
	}
}

// Home's leaf of a used grant and the leaf that it quotes are compared: hash,
// grant and job. A job that came in by another grant, or by none, is told apart.
func TestGrantsAreComparedAcrossFiles(t *testing.T) {
	landed := func(grant, job string) func(*ledger.Leaf) {
		return func(l *ledger.Leaf) { l.Actor, l.Subject = "grant:"+grant, job }
	}
	for _, c := range []struct {
		name, grant, job string
		at               int
		spoil            byte
		says             string
	}{
		{"the truth", "g1", "ber-1.j1", 0, 0, ""},
		{"another leaf's hash", "g1", "ber-1.j1", 0, 1, "which is another there"},
		{"another grant's job", "g2", "ber-1.j1", 0, 0, "says otherwise"},
		{"a job that came in by another grant", "g1", "ber-1.j2", 0, 0, "says otherwise"},
		{"the leaf of another grant", "g1", "ber-1.j1", 1, 0, "says otherwise"},
		{"the leaf of a job of the region itself", "g1", "ber-1.j3", 2, 0, "says otherwise"},
	} {
		m := newMesh(t, "")
		home, there := m.logs[0], m.logs[1]
		leaves := []uint64{there.add(t, kindSubmit, landed("g1", "ber-1.j1")), there.add(t, kindSubmit, landed("g2", "ber-1.j2")),
			there.add(t, kindSubmit, func(l *ledger.Leaf) { l.Actor, l.Subject = "h:x", "ber-1.j3" })}
		there.sign()
		h := ledger.HashLeaf(there.leaves[leaves[c.at]])
		h[0] ^= c.spoil
		home.add(t, kindUsed, func(l *ledger.Leaf) { l.Subject = c.job }, showing(ledger.ShownRegion, "ber-1"), showing(ledger.ShownGrant, c.grant),
			showing(ledger.ShownPeerLeaf, fmt.Sprintf("ber-1 %d %x", leaves[c.at], h[:])))
		home.sign()
		a := NewAuditor(m.policy, Options{Now: noon, Several: true})
		for _, l := range m.logs {
			if err := a.Read(l.region, bytes.NewReader(exported(t, l.exporter(t)))); err != nil {
				t.Fatal(err)
			}
		}
		reports := a.Reports()
		mustHold(t, reports[1])
		if v := reports[0].Verdict(Consistency); c.says == "" && !reports[0].OK() || c.says != "" && (v.State != Fails || !strings.Contains(v.Says, c.says)) {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

func lineAt(data []byte, at int) string {
	from := bytes.LastIndexByte(data[:at], '\n') + 1
	line, _, _ := bytes.Cut(data[from:], []byte{'\n'})
	return string(line)
}

// Whoever leaves checkpoints out to make room for false times shows how much room
// there is.
func TestTheGapBetweenCosignaturesIsTold(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	for range 3 {
		l.add(t, "job.submit", judging(l.here("EU")))
		l.sign()
	}
	all := verified(t, m.policy, packed(t, m.files(t))).Regions[0]
	l.sizes = []uint64{l.sizes[0], l.sizes[len(l.sizes)-1]}
	fewer := verified(t, m.policy, packed(t, m.files(t))).Regions[0]
	if all.Apart == 0 || fewer.Apart <= all.Apart {
		t.Errorf("with all checkpoints %d s apart, with fewer %d s", all.Apart, fewer.Apart)
	}
}

// A crossing that quotes nothing cannot be compared, and is told.
func TestACrossingWithoutAQuoteIsTold(t *testing.T) {
	for _, tt := range []struct {
		kind, role string
		told       bool
	}{{kindReserve, "region", true}, {kindSubmit, "region", true}, {kindSubmit, "grant", true}, {kindUsed, "node", true}, {kindSubmit, "submitter", false}} {
		m := newMesh(t, "")
		l := m.logs[0]
		l.add(t, tt.kind, judging(l.here("EU")), showing(ledger.ShownRole, tt.role))
		l.sign()
		rep := verified(t, m.policy, packed(t, m.files(t)))
		if got := strings.Contains(strings.Join(rep.NotShownHere, "\n"), "quote none"); got != tt.told {
			t.Errorf("%s by a %s: told %v, want %v", tt.kind, tt.role, got, tt.told)
		}
	}
}
