package evidence

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// aSource is a log of the tests as an exporter sees it.
type aSource struct {
	tilesOf
	l      *aLog
	erased map[uint64]bool
}

func (s *aSource) Entries(first uint64, count int) ([][]byte, error) {
	if first/ledger.TileWidth != (first+uint64(count)-1)/ledger.TileWidth {
		return nil, errors.New("two bundles")
	}
	return s.l.leaves[first : first+uint64(count)], nil
}

func (s *aSource) Opening(leaf uint64) ([]byte, bool, error) {
	if s.erased[leaf] {
		return nil, true, nil
	}
	return s.l.openings[leaf], false, nil
}

func (s *aSource) LawPack(hash string) map[string][]byte {
	if own := residency.Embedded(); own.Hash() == hash {
		return own.Tables()
	}
	return nil
}

func (s *aSource) Bundle(digest string, _ uint64) []byte {
	if sum := sha256.Sum256(s.l.bundle); hex.EncodeToString(sum[:]) == digest {
		return s.l.bundle
	}
	return nil
}

func (l *aLog) exporter(t testing.TB) *Exporter {
	t.Helper()
	e := &Exporter{Mesh: "mesh.example", Region: l.region, Origin: l.origin, Now: noon, Enough: 1, Source: &aSource{l.tiles(t), l, map[uint64]bool{}}}
	for _, size := range l.sizes {
		e.Checkpoints = append(e.Checkpoints, Signed{Size: size, Note: l.note(t, size, l.root(size)), Witnesses: len(l.cosignedBy)})
	}
	e.Segments = func(_ context.Context, chain string, seq uint64) ([]receipt.Kept, error) {
		for _, a := range l.answered {
			if chain == "h:1" && a.seq == seq {
				return a.kept(), nil
			}
		}
		return nil, &AbsentError{AbsentAway}
	}
	return e
}

func exported(t testing.TB, e *Exporter) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := e.Write(t.Context(), &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func mustHold(t *testing.T, rep *Report) {
	t.Helper()
	for _, v := range rep.Verdicts {
		if v.State != Holds {
			t.Errorf("%s: %s: %q", v.Name, v.State, v.Findings)
		}
	}
}

func TestAnExportHolds(t *testing.T) {
	m := newMesh(t, "")
	for range 600 {
		m.logs[0].add(t, "job.submit", judging(m.logs[0].here("EU")))
	}
	m.logs[0].sign()
	rep := verified(t, m.policy, exported(t, m.logs[0].exporter(t)))
	mustHold(t, rep)
	if r := rep.Regions[0]; r.Leaves != 607 || r.Openings != 0 || rep.ExportedBy != "fra-1" {
		t.Errorf("%+v", rep)
	}
}

// Of a long log the leaves of a time are enough, with proofs to both sides.
func TestAnExportOfATimeHolds(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	for i := range 900 {
		l.add(t, "job.submit", judging(l.here("EU")))
		if i%50 == 0 {
			l.sign()
		}
	}
	l.sign()
	e := l.exporter(t)
	e.Filter.From, e.Filter.To = at(300), at(600)
	rep := verified(t, m.policy, exported(t, e))
	mustHold(t, rep)
	r := rep.Regions[0]
	if r.First > 290 || r.First < 270 || r.End < 610 || r.End > 640 || r.Size <= r.End || r.Size > 700 || r.Checkpoints < 6 {
		t.Errorf("%+v", r)
	}
	// Whoever cuts it shorter than it says is found out, at either end.
	for _, f := range []Filter{{From: at(100), To: at(600)}, {From: at(300), To: at(700)}} {
		x := *e
		x.Filter = f
		if rep := verified(t, m.policy, rewritten(t, exported(t, e), f)); rep.OK() {
			t.Errorf("it is said to reach from %v to %v, and all holds", f.From, f.To)
		}
	}
}

// rewritten puts another filter into a pack.
func rewritten(t *testing.T, data []byte, f Filter) []byte {
	t.Helper()
	files := unpacked(t, data)
	d, err := ParseDescription(files[1].data)
	if err != nil {
		t.Fatal(err)
	}
	d.Filter = f
	if files[1].data, err = d.Encode(); err != nil {
		t.Fatal(err)
	}
	return packed(t, files)
}

func unpacked(t testing.TB, data []byte) (files []file) {
	t.Helper()
	a, err := OpenArchive(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for range a.Entries() {
		name, data, err := a.Next()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file{name, data})
	}
	return files
}

// Every byte of the proof to a later checkpoint counts.
func TestEveryByteOfATailCounts(t *testing.T) {
	m := newMesh(t, "")
	l := m.logs[0]
	for range 60 {
		l.add(t, "job.submit", judging(l.here("EU")))
	}
	l.sign()
	e := l.exporter(t)
	e.Filter.To = at(20)
	files := unpacked(t, exported(t, e))
	mustHold(t, verified(t, m.policy, packed(t, files)))
	i := slices.IndexFunc(files, func(f file) bool { return strings.HasSuffix(f.name, "/tail") })
	for at := range files[i].data {
		changed := slices.Clone(files)
		changed[i].data = bytes.Clone(files[i].data)
		changed[i].data[at] ^= 1
		if rep := verified(t, m.policy, packed(t, changed)); rep.Verdict(Consistency).State != Fails {
			t.Fatalf("byte %d changed, and it holds", at)
		}
	}
	if rep := verified(t, m.policy, packed(t, slices.Delete(slices.Clone(files), i, i+1))); rep.OK() {
		t.Error("without it all holds")
	}
}

// Openings go in as selected; what was erased is said to be.
func TestAnExportSaysWhatIsErased(t *testing.T) {
	m := newMesh(t, "")
	e := m.logs[0].exporter(t)
	e.Source.(*aSource).erased[2] = true
	e.Selects = func(l *ledger.Leaf, open func() []byte) bool { return l.Kind == kindAssign || l.Kind == "job.submit" }
	data := exported(t, e)
	rep := verified(t, m.policy, data)
	mustHold(t, rep)
	if r := rep.Regions[0]; r.Openings != 2 || r.Erased != 1 {
		t.Errorf("%+v", r)
	}
	if bytes.Contains(data, m.logs[0].openings[2]) || !bytes.Contains(data, m.logs[0].openings[1]) {
		t.Error("the pack holds the wrong openings")
	}
}

func TestNothingSignedIsNothingToExport(t *testing.T) {
	e := newMesh(t, "").logs[0].exporter(t)
	e.Checkpoints = nil
	var unready *Unready
	if err := e.Write(t.Context(), new(bytes.Buffer)); !errors.As(err, &unready) {
		t.Errorf("%v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newMesh(t, "").logs[0].exporter(t).Write(ended, new(bytes.Buffer)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The last checkpoint is one that enough witnesses cosigned.
func TestAnExportEndsWhereWitnessesHaveCome(t *testing.T) {
	m := newMesh(t, "")
	e := m.logs[0].exporter(t)
	e.Checkpoints[2].Witnesses = 0
	if x, err := e.plan(t.Context()); err != nil || x.end != 5 {
		t.Errorf("%v, %+v", err, x)
	}
}

// The recipe in the pack's README finds what it should, with other people's
// programs alone.
func TestTheRecipe(t *testing.T) {
	for _, tool := range []string{"sh", "tar", "sha256sum", "python3", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the recipe needs %s, which is not here", tool)
		}
	}
	var script []string
	for line := range strings.Lines(readme) {
		if rest, ok := strings.CutPrefix(line, "    "); ok {
			script = append(script, rest)
		}
	}
	if n := len(script); n < 15 || n > 40 || !strings.HasPrefix(script[0], "sha256sum") || !strings.HasPrefix(script[n-1], "openssl") {
		t.Fatalf("the recipe has %d lines: %q", n, script)
	}
	run := func(pack []byte, policy string) (string, error) {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "pack.tar"), pack, 0o600), os.WriteFile(filepath.Join(dir, "policy"), []byte(policy), 0o600)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", "tar xf pack.tar || exit 1\n"+strings.Join(script, ""))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "R=fra-1", "POLICY=policy")
		cmd.WaitDelay = time.Minute
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	m, other := newMesh(t, ""), newMesh(t, "other")
	for range 40 {
		m.logs[0].add(t, "job.submit", judging(m.logs[0].here("EU")))
	}
	m.logs[0].sign()
	e := m.logs[0].exporter(t)
	e.Filter.From = at(30) // an edge of several hashes
	pack := exported(t, e)
	if out, err := run(pack, m.policy.Text()); err != nil || !strings.Contains(out, "Verified Successfully") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := run(pack, other.policy.Text()); err == nil {
		t.Errorf("another mesh's policy, and the recipe holds: %s", out)
	}
	files := unpacked(t, pack)
	for i := range files {
		if strings.Contains(files[i].name, "entries/") {
			files[i].data[20] ^= 1
		}
	}
	if out, err := run(packed(t, files), m.policy.Text()); err == nil || !strings.Contains(out, "NOT the log") {
		t.Errorf("a leaf was changed, and the recipe says: %v %s", err, out)
	}
	pack[len(pack)-3000] ^= 1
	if out, err := run(pack, m.policy.Text()); err == nil {
		t.Errorf("a byte was changed, and the recipe holds: %s", out)
	}
}

// Openings that were asked for are here, or erased, or the pack is not whole.
func TestOpeningsThatWereAskedForAreHere(t *testing.T) {
	const job = "fra-1.01"
	about := func(m *aMesh) (*aLog, []uint64) {
		l := m.logs[0]
		first := l.add(t, "job.submit", judging(l.here("EU")), showing(ledger.ShownJob, job+" pending"))
		second := l.add(t, "job.stop", showing(ledger.ShownRole, "admin"), showing(ledger.ShownJob, job+" stopped"))
		return l, []uint64{first, second}
	}
	for _, tt := range []struct {
		name      string
		filter    Filter
		have      int  // of the two
		erased    bool // the first is
		recorded  bool
		ok        bool
		findings  string
		unproven  string
		nothingOf string
	}{
		{name: "all", filter: Filter{Job: job}, have: 2, ok: true},
		{name: "one left out", filter: Filter{Job: job}, have: 1, findings: "openings of 1 leaf that the pack was asked for"},
		{name: "one left out of acts", filter: Filter{Acts: true}, have: 1, findings: "openings of 1 leaf that"},
		{name: "none was asked for", have: 0, ok: true},
		{name: "erased, on record", filter: Filter{Job: job}, have: 2, erased: true, recorded: true, ok: true, nothingOf: "were erased, and not left out"},
		{name: "erased, by its own word", filter: Filter{Job: job}, have: 2, erased: true, ok: true, unproven: "1 opening of region fra-1 were erased, and not left out"},
		{name: "of a tenant", filter: Filter{Tenant: "t"}, have: 2, ok: true, unproven: "all openings of the tenant"},
	} {
		m := newMesh(t, "")
		l, leaves := about(m)
		if tt.recorded {
			l.add(t, "audit.erase", showing(ledger.ShownErased, fmt.Sprintf("%d", leaves[0])))
		}
		l.sign()
		e := l.exporter(t)
		e.Filter = tt.filter
		e.Source.(*aSource).erased[leaves[0]] = tt.erased
		for _, leaf := range leaves[tt.have:] {
			delete(l.openings, leaf)
		}
		e.Selects = func(l *ledger.Leaf, _ func() []byte) bool {
			return tt.filter.opens(l) || tt.filter.Tenant != "" && slices.Contains(JobsOf(l), job)
		}
		rep := verified(t, m.policy, exported(t, e))
		v, rest := rep.Verdict(Completeness), strings.Join(rep.NotShownHere, "\n")
		if rep.OK() != tt.ok || !strings.Contains(strings.Join(v.Findings, "\n"), tt.findings) || !strings.Contains(rest, tt.unproven) || tt.nothingOf != "" && strings.Contains(rest, tt.nothingOf) {
			t.Errorf("%s: %+v\n%s", tt.name, rep.Verdicts, rest)
		}
	}
}
