package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// aLog is a region's log as the tests make it, with its keys.
type aLog struct {
	region, country string
	origin          string
	signer          *ledger.Signer
	cosigner        *ledger.Cosigner
	leaves          [][]byte
	sizes           []uint64 // signed
	bundle          []byte
	ca              *identity.CA
	certificates    map[string][]byte // PEM by serial
	refused         map[string][]byte // PEM by its hash
	openings        map[uint64][]byte
	answered        []*answered       // segments of receipts
	roots           map[string]string // of the story's segments, hex by a short name
	// cosignedBy is who witnesses it.
	cosignedBy []*ledger.Cosigner
	// late is how much later than that their clocks say it is, for a size.
	late map[uint64]time.Duration
	// first is where the pack begins.
	first uint64
}

func seed(words ...string) (out [32]byte) { return sha256.Sum256(fmt.Append(nil, words)) }

func newLog(t testing.TB, region, country, keys string) *aLog {
	t.Helper()
	l := &aLog{region: region, country: country, origin: region + ".mesh.example/ledger", openings: map[uint64][]byte{}, roots: map[string]string{}, certificates: map[string][]byte{}, refused: map[string][]byte{}}
	var err error
	if l.ca, err = identity.NewCA(placement.RegionID(region), "mesh.example", noon.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if l.bundle, err = l.ca.Bundle().Marshal(); err != nil {
		t.Fatal(err)
	}
	if l.signer, err = ledger.NewSigner(l.origin, seed(region, keys)); err != nil {
		t.Fatal(err)
	}
	if l.cosigner, err = ledger.NewCosigner(region+".mesh.example/witness", ledger.CosignatureEd25519, seed(region, keys, "w")); err != nil {
		t.Fatal(err)
	}
	return l
}

// at is the time of the leaf of that index: ten seconds apart.
func at(index int) time.Time { return noon.Add(time.Duration(index) * 10 * time.Second) }

// add appends a leaf made by change from a plain one.
func (l *aLog) add(t testing.TB, kind string, change ...func(*ledger.Leaf)) uint64 {
	t.Helper()
	i := len(l.leaves)
	random := seed(l.region, fmt.Sprint(i))
	salt := ledger.Salt(random[:16])
	command := append([]byte{1, byte(len(kind))}, kind...)
	command = binary.BigEndian.AppendUint64(command, uint64(at(i).UnixNano()))
	command = append(append(command, salt[:]...), "body"...)
	leaf := &ledger.Leaf{Index: uint64(i + 1), Kind: kind, Time: at(i), Salt: ledger.LeafSalt(salt), Commitment: ledger.Commit(salt, command)}
	for _, c := range change {
		c(leaf)
	}
	entry, err := leaf.Encode()
	if err != nil {
		t.Fatal(err)
	}
	l.leaves = append(l.leaves, entry)
	l.openings[uint64(i)] = command
	return uint64(i)
}

func showing(name, value string) func(*ledger.Leaf) {
	return func(l *ledger.Leaf) { l.Shown = append(l.Shown, ledger.Shown{Name: name, Value: value}) }
}

func judging(j *ledger.Judgement) func(*ledger.Leaf) {
	return func(l *ledger.Leaf) { l.Judged = append(l.Judged, *j) }
}

// here is a placement in the log's own region.
func (l *aLog) here(tag string) *ledger.Judgement {
	j := judged(tag, l.country, "permitted", "tag.allow")
	j.Facts.Region = l.region
	return j
}

// issue has an authority certify a node of the log's region, and puts the chain
// into the pack. It gives the serial number.
func (l *aLog) issue(t testing.TB, ca *identity.CA, node string, when time.Time) string {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssueNode(csr, placement.NodeID(node), when, 0)
	if err != nil {
		t.Fatal(err)
	}
	return l.keep(t, chain)
}

// keep puts a chain into the pack.
func (l *aLog) keep(t testing.TB, chain [][]byte) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	l.certificates[leaf.SerialNumber.String()] = text
	return leaf.SerialNumber.String()
}

// refuse files a chain as one that the region was shown and did not believe.
func (l *aLog) refuse(t testing.TB, chain [][]byte) {
	t.Helper()
	serial := l.keep(t, chain)
	text := l.certificates[serial]
	delete(l.certificates, serial)
	sum := sha256.Sum256(text)
	l.refused[hex.EncodeToString(sum[:])] = text
}

// story fills a log with one of everything.
func (l *aLog) story(t testing.TB) {
	sum := sha256.Sum256(l.bundle)
	l.add(t, "region.init", showing(ledger.ShownRegion, l.region), showing(ledger.ShownBundle, hex.EncodeToString(sum[:])), showing(ledger.ShownPack, residency.Embedded().Hash()))
	l.add(t, "job.submit", judging(l.here("EU")))
	l.sign()
	l.add(t, kindAssign, judging(l.here("EU")))
	l.add(t, "task.report", showing(ledger.ShownJob, l.region+".01 complete 0"))
	l.segment(t, 1, "", "aa")
	l.sign()
	l.segment(t, 2, "aa", "bb")
	l.add(t, kindAssign, func(x *ledger.Leaf) { x.Code = "residency.refused" }, judging(func() *ledger.Judgement { j := l.here("US"); j.Verdict = "refused"; return j }()))
	l.sign()
}

// named is the root of a segment of the story.
func (l *aLog) named(root string) string {
	if hex, ok := l.roots[root]; ok {
		return hex
	}
	return root
}

func (l *aLog) segment(t testing.TB, seq int, prev, root string) {
	l.roots[root] = l.answers(t, seq, 5, l.named(prev)).root()
}

func (l *aLog) sign() { l.sizes = append(l.sizes, uint64(len(l.leaves))) }

func (l *aLog) root(size uint64) ledger.Hash {
	tree := ledger.NewTree()
	for _, e := range l.leaves[:size] {
		tree.Append(e)
	}
	return tree.Root()
}

// note is a signed, cosigned checkpoint; the cosignature comes a second after
// the newest leaf.
func (l *aLog) note(t testing.TB, size uint64, root ledger.Hash) []byte {
	t.Helper()
	c := ledger.Checkpoint{Origin: l.origin, Size: size, Root: root}
	sig, err := l.signer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	all := []ledger.Signature{sig}
	for _, w := range l.cosignedBy {
		s, err := w.Cosign(c, at(int(size)-1).Add(time.Second+l.late[size]))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	s, err := ledger.NewSignedCheckpoint(c, all...)
	if err != nil {
		t.Fatal(err)
	}
	return s.Encode()
}

// aMesh is two regions that witness each other, and an auditor's policy.
type aMesh struct {
	logs   []*aLog
	policy *ledger.Policy
	desc   Description
}

func newMesh(t testing.TB, keys string) *aMesh {
	t.Helper()
	a, b := newLog(t, "fra-1", "FR", keys), newLog(t, "ber-1", "DE", keys)
	a.cosignedBy, b.cosignedBy = []*ledger.Cosigner{b.cosigner}, []*ledger.Cosigner{a.cosigner}
	a.story(t)
	// ber-1 quotes a leaf of fra-1.
	h := ledger.HashLeaf(a.leaves[1])
	b.story(t)
	b.add(t, "job.submit", showing(ledger.ShownPeerLeaf, fmt.Sprintf("fra-1 1 %x", h[:])))
	b.sign()
	m := &aMesh{logs: []*aLog{a, b}, desc: Description{Version: 1, Mesh: "mesh.example", ExportedAt: noon.Add(time.Hour), ExportedBy: "fra-1"}}
	spec := ledger.PolicySpec{Quorum: "all"}
	for _, l := range m.logs {
		spec.Logs = append(spec.Logs, ledger.PolicyLog{Key: l.signer.Verifier()})
		for _, root := range l.ca.Bundle().Roots {
			spec.Roots = append(spec.Roots, ledger.PolicyRoot{Region: l.region, DER: root.Raw})
		}
		spec.Witnesses = append(spec.Witnesses, ledger.PolicyWitness{Name: l.region, Key: l.cosigner.Verifier()})
	}
	spec.Groups = []ledger.PolicyGroup{{Name: "all", Need: 1, Members: []string{"fra-1", "ber-1"}}}
	var err error
	if m.policy, err = ledger.NewPolicy(spec); err != nil {
		t.Fatal(err)
	}
	return m
}

type file struct {
	name string
	data []byte
}

// files are the pack's files after the manifest.
func (m *aMesh) files(t testing.TB) []file {
	t.Helper()
	m.desc.Regions = nil
	for _, l := range m.logs {
		m.desc.Regions = append(m.desc.Regions, Region{Name: l.region, Origin: l.origin, First: l.first, End: uint64(len(l.leaves))})
	}
	desc, err := m.desc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out := []file{{ReadmeName, []byte("read me\n")}, {DescriptionName, desc}}
	pack := residency.Embedded()
	tables := pack.Tables()
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		out = append(out, file{lawName(pack.Hash(), table), tables[table]})
	}
	for _, l := range m.logs {
		out = append(out, l.files(t)...)
	}
	return out
}

func (l *aLog) files(t testing.TB) (out []file) {
	sum := sha256.Sum256(l.bundle)
	out = append(out, file{fileName(l.region, dirBundles, hex.EncodeToString(sum[:])+".json"), l.bundle})
	for _, serial := range sorted(l.certificates) {
		out = append(out, file{fileName(l.region, dirCertificates, serial+".pem"), l.certificates[serial]})
	}
	for _, digest := range sorted(l.refused) {
		out = append(out, file{fileName(l.region, dirRefused, digest+".pem"), l.refused[digest]})
	}
	for _, size := range l.sizes {
		if size > l.first {
			out = append(out, file{checkpointName(l.region, size), l.note(t, size, l.root(size))})
		}
	}
	edge := ledger.NewTree()
	var run, opened []byte
	for i, e := range l.leaves {
		if uint64(i) < l.first {
			edge.Append(e)
			continue
		}
		run = AppendEntry(run, e)
		if uint64(i) == l.first+1 {
			opened = AppendOpening(opened, uint64(i), l.openings[uint64(i)])
		}
	}
	out = append(out, file{edgeName(l.region), edge.Marshal()}, file{runName(l.region, dirEntries, 0), run}, file{runName(l.region, dirOpenings, 0), opened})
	var receipts []byte
	for _, a := range l.answered {
		if a.leaf >= l.first {
			receipts = AppendSegment(receipts, a.leaf, a.kept())
		}
	}
	if receipts != nil {
		out = append(out, file{runName(l.region, dirSegments, 0), receipts})
	}
	return out
}

// packed makes the archive of files, with a manifest that fits them.
func packed(t testing.TB, files []file) []byte {
	t.Helper()
	var entries []Entry
	content := map[string][]byte{}
	for _, f := range files {
		entries = append(entries, Entry{f.name, sha256.Sum256(f.data)})
		content[f.name] = f.data
	}
	var buf bytes.Buffer
	if err := WriteArchive(&buf, entries, func(e Entry) ([]byte, error) { return content[e.Name], nil }); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func verified(t testing.TB, policy *ledger.Policy, data []byte) *Report {
	t.Helper()
	rep, err := Verify(policy, bytes.NewReader(data), Options{Now: noon.Add(2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}
