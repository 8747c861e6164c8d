package ledger

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"
)

const origin = "fra-1.mesh.example/ledger"

// noon is when the witnesses of the tests cosign.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func seed(n byte) (s [SeedSize]byte) {
	for i := range s {
		s[i] = n + byte(i)
	}
	return s
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// mesh is a log with four witnesses, one of which signs with ML-DSA-44.
type mesh struct {
	*memory
	log       *Signer
	witnesses []*Cosigner
	policy    *Policy
}

func newMesh(t testing.TB, size uint64) *mesh {
	t.Helper()
	m := &mesh{memory: newMemory(t, size), log: must[*Signer](t)(NewSigner(origin, seed(1)))}
	spec := PolicySpec{Logs: []PolicyLog{{m.log.Verifier(), "https://fra-1.mesh.example/ledger"}}, Quorum: "both"}
	for i, name := range []string{"par-1", "dub-1", "waw-1", "outside"} {
		algorithm := CosignatureEd25519
		if i == 3 {
			algorithm = CosignatureMLDSA44
		}
		w := must[*Cosigner](t)(NewCosigner(name+".example/witness", algorithm, seed(byte(10+i))))
		m.witnesses = append(m.witnesses, w)
		spec.Witnesses = append(spec.Witnesses, PolicyWitness{name, w.Verifier(), ""})
	}
	spec.Groups = []PolicyGroup{{"regions", 2, []string{"par-1", "dub-1", "waw-1"}}, {"both", 2, []string{"regions", "outside"}}}
	m.policy = must[*Policy](t)(NewPolicy(spec))
	return m
}

// checkpoint signs the present tree, at noon and a second later by each witness.
func (m *mesh) checkpoint(t testing.TB, witnesses ...int) *SignedCheckpoint {
	t.Helper()
	return m.checkpointOf(t, Checkpoint{Origin: origin, Size: m.edge.Size(), Root: m.edge.Root()}, noon, witnesses...)
}

func (m *mesh) checkpointOf(t testing.TB, c Checkpoint, at time.Time, witnesses ...int) *SignedCheckpoint {
	t.Helper()
	signatures := []Signature{must[Signature](t)(m.log.Sign(c))}
	for i, w := range witnesses {
		signatures = append(signatures, must[Signature](t)(m.witnesses[w].Cosign(c, at.Add(time.Duration(i)*time.Second))))
	}
	return must[*SignedCheckpoint](t)(NewSignedCheckpoint(c, signatures...))
}

func (m *mesh) receipt(t testing.TB, index uint64, witnesses ...int) *Proof {
	t.Helper()
	hashes := must[[]Hash](t)(ProveInclusion(t.Context(), m, m.head(), index))
	return &Proof{Extra: []byte("extra"), Index: index, Hashes: hashes, Checkpoint: m.checkpoint(t, witnesses...)}
}

func encode(t testing.TB, v interface{ Encode() ([]byte, error) }) []byte {
	t.Helper()
	return must[[]byte](t)(v.Encode())
}

func verdictOf(err error) Verdict {
	var v *VerifyError
	if errors.As(err, &v) {
		return v.Verdict
	}
	return ""
}

// root is a self-signed authority.
func root(t testing.TB, name string) []byte {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	return must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
}
