package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// aLog is a log of a few leaves, as an exporter reads it.
type aLog struct {
	signer *ledger.Signer
	leaves [][]byte
}

func newLog(t *testing.T, keys string) *aLog {
	t.Helper()
	signer, err := ledger.NewSigner("fra-1.mesh.example/ledger", sha256.Sum256([]byte(keys)))
	if err != nil {
		t.Fatal(err)
	}
	l := &aLog{signer: signer}
	for i := range 3 {
		leaf := ledger.Leaf{Index: uint64(i), Kind: "node.drain", Time: noon.Add(time.Duration(i) * time.Second), Shown: []ledger.Shown{{Name: ledger.ShownRole, Value: "admin"}}}
		entry, err := leaf.Encode()
		if err != nil {
			t.Fatal(err)
		}
		l.leaves = append(l.leaves, entry)
	}
	return l
}

func (l *aLog) Entries(first uint64, count int) ([][]byte, error) {
	return l.leaves[first : first+uint64(count)], nil
}
func (l *aLog) Opening(uint64) ([]byte, bool, error) { return nil, false, nil }
func (l *aLog) LawPack(string) map[string][]byte     { return nil }
func (l *aLog) Bundle(string, uint64) []byte         { return nil }
func (l *aLog) ReadTile(context.Context, ledger.Tile) ([]byte, error) {
	return nil, errors.New("a pack from the beginning to the end needs no tile")
}

func (l *aLog) pack(t *testing.T) []byte {
	t.Helper()
	tree := ledger.NewTree()
	for _, e := range l.leaves {
		tree.Append(e)
	}
	c := ledger.Checkpoint{Origin: l.signer.Verifier().Name(), Size: tree.Size(), Root: tree.Root()}
	sig, err := l.signer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	line, err := l.witness(t).Cosign(c, noon.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	note, err := ledger.NewSignedCheckpoint(c, sig, line)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	x := evidence.Exporter{Mesh: "mesh.example", Region: "fra-1", Origin: c.Origin, Now: noon, Source: l, Checkpoints: []evidence.Signed{{Size: c.Size, Note: note.Encode()}}}
	if err := x.Write(t.Context(), &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (l *aLog) witness(t *testing.T) *ledger.Cosigner {
	t.Helper()
	w, err := ledger.NewCosigner("w.example", ledger.CosignatureEd25519, sha256.Sum256([]byte("witness")))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (l *aLog) policy(t *testing.T) []byte {
	t.Helper()
	p, err := ledger.NewPolicy(ledger.PolicySpec{Logs: []ledger.PolicyLog{{Key: l.signer.Verifier()}}, Witnesses: []ledger.PolicyWitness{{Name: "w", Key: l.witness(t).Verifier()}}, Quorum: "w"})
	if err != nil {
		t.Fatal(err)
	}
	return []byte(p.Text())
}

// The exit code is the answer: 0 only where everything holds, 2 only where
// nothing was judged.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	l, other := newLog(t, "keys"), newLog(t, "others")
	whole := l.pack(t)
	changed := bytes.Clone(whole)
	changed[len(changed)-2000] ^= 1
	pack, policy := put("pack.tar", whole), put("policy", l.policy(t))
	tests := []struct {
		name       string
		args       []string
		exit       int
		out, error string
	}{
		{"holds", []string{"--policy", policy, pack}, 0, "the evidence holds", ""},
		{"flags behind", []string{pack, "--policy=" + policy}, 0, "the evidence holds", ""},
		{"no policy", []string{pack}, 1, "self-declared", ""},
		{"another policy", []string{"--policy", put("other", other.policy(t)), pack}, 1, "FAILS", ""},
		{"changed", []string{"--policy", policy, put("changed.tar", changed)}, 1, "not an evidence pack", ""},
		{"cut", []string{"--policy", policy, put("cut.tar", whole[:len(whole)/2])}, 1, "ends too early", ""},
		{"empty", []string{"--policy", policy, put("empty", nil)}, 1, "ends too early", ""},
		{"one of two", []string{"--policy", policy, pack, filepath.Join(dir, "cut.tar")}, 1, "1 of 2 files", ""},
		{"too old", []string{"--policy", policy, "--max-age", "1h", pack}, 1, "more than 1h", ""},
		{"no file", []string{"--policy", policy}, 2, "", "no evidence"},
		{"no such file", []string{"--policy", policy, filepath.Join(dir, "none")}, 2, "", "no such file"},
		{"no such policy", []string{"--policy", filepath.Join(dir, "none"), pack}, 2, "", "no such file"},
		{"a policy that is none", []string{"--policy", pack, pack}, 2, "", "is no policy"},
		{"a policy that counts on a key it does not name", []string{"--policy", put("unknown", bytes.Replace(l.policy(t), []byte("quorum "), []byte("group more any nobody\nquorum "), 1)), pack}, 2, "", "which no line above defines"},
		{"no such flag", []string{"--trust-me", pack}, 2, "", "trust-me"},
		{"help", []string{"--help"}, 0, "usage:", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if exit := run(tc.args, &out, &errs, noon.Add(24*time.Hour)); exit != tc.exit {
				t.Errorf("exit %d, want %d\n%s%s", exit, tc.exit, out.String(), errs.String())
			}
			if !strings.Contains(out.String(), tc.out) || !strings.Contains(errs.String(), tc.error) {
				t.Errorf("want %q and %q:\n%s%s", tc.out, tc.error, out.String(), errs.String())
			}
		})
	}
	var out, errs bytes.Buffer
	var doc struct {
		OK      bool
		Reports []evidence.Report
	}
	if exit := run([]string{"--json", "--policy", policy, pack}, &out, &errs, noon); exit != 0 || json.Unmarshal(out.Bytes(), &doc) != nil || !doc.OK || len(doc.Reports) != 1 {
		t.Errorf("as JSON: %d\n%s%s", exit, out.String(), errs.String())
	}
	sum := sha256.Sum256(whole[512 : 512+bytes.IndexByte(whole[512:], 0)])
	if doc.Reports[0].SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("it is named %s", doc.Reports[0].SHA256)
	}
}

// The program knows the ledger's forms, the law and certificates, and nothing
// of a running mesh.
func TestItIsSmall(t *testing.T) {
	const module = "github.com/sovmesh/sovmesh/"
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	may := []string{"cli/sovmesh-verify", "consensus/evidence", "consensus/evidence/receipt", "consensus/ledger", "placement", "placement/residency", "transport/identity"}
	for _, dep := range strings.Fields(string(out)) {
		if own, ok := strings.CutPrefix(dep, module); ok && !slices.Contains(may, own) {
			t.Errorf("it imports %s", own)
		}
		if dep == "net/http" || strings.Contains(dep, "quic") || strings.Contains(dep, "raft") {
			t.Errorf("it imports %s", dep)
		}
	}
}
