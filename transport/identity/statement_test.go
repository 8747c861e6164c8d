package identity

import (
	"bytes"
	"crypto/elliptic"
	"math/big"
	"strings"
	"testing"
	"time"
)

const grant = "sovmesh grant v1"

func signed(t testing.TB, c *Credential, payload string, at time.Time) string {
	t.Helper()
	s, err := Sign(c, grant, []byte(payload), at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStatementOfBothRegionsOpens(t *testing.T) {
	m := newMesh(t)
	for _, ca := range []*CA{m.fra, m.ber} {
		c := node(t, ca, "n1")
		s := signed(t, c, "payload", t0)
		if strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || len(s) > 2500 {
			t.Errorf("not one short word: %d characters", len(s))
		}
		payload, signer, at, err := Open(s, grant, m.verifier, t0.Add(time.Hour))
		if err != nil || string(payload) != "payload" || signer != c.ID || !at.Equal(t0) {
			t.Errorf("%q, %s, %s, %v", payload, signer, at, err)
		}
	}
}

func TestStatementsThatAreRefused(t *testing.T) {
	m := newMesh(t)
	n1 := node(t, m.fra, "n1")
	good := signed(t, n1, "payload", t0)
	stranger := newCA(t, "par-1")
	const self = "spiffe://fra-1.mesh.example/node/n1"
	other := *n1
	other.Key = node(t, m.fra, "n2").Key
	tests := []struct {
		name, data, context string
		now                 time.Time
		want                Reason
	}{
		{"another context", good, "sovmesh inventory v1", t0, WrongContext},
		{"an expired certificate", good, grant, t0.Add(NodeTTL + time.Second), Expired},
		{"made in the future", signed(t, n1, "p", t0.Add(MaxSkew+time.Second)), grant, t0, BadStatement},
		{"dated before its certificate", signed(t, n1, "p", t0.Add(-time.Hour)), grant, t0, BadStatement},
		{"an unknown region", signed(t, node(t, stranger, "n1"), "p", t0), grant, t0, UnknownTrustDomain},
		{"signed by ber-1 in the name of fra-1", signed(t, forge(t, m.ber.issuing, self, nil), "p", t0), grant, t0, BadCertificate},
		{"a serving certificate", signed(t, servingAsNode(serving(t, m.fra, "h")), "p", t0), grant, t0, BadCertificate},
		{"another key than the certificate's", signed(t, &other, "p", t0), grant, t0, BadStatement},
		{"a CA signs", signed(t, &Credential{Key: m.fra.issuing.key, Chain: [][]byte{m.fra.issuing.cert.Raw}}, "p", t0), grant, t0, BadCertificate},
		{"broken over lines", good[:40] + "\n" + good[40:], grant, t0, BadStatement},
		{"too large", good + strings.Repeat("A", MaxStatement), grant, t0, BadStatement},
		{"empty", "", grant, t0, BadStatement},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			payload, _, _, err := Open(tt.data, tt.context, m.verifier, tt.now)
			if ReasonOf(err) != tt.want || payload != nil {
				t.Errorf("payload %q, %v; want reason %q", payload, err, tt.want)
			}
		})
	}
	if _, err := parseStatement(good + strings.Repeat("A", MaxStatement)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an oversized statement was decoded: %v", err)
	}
	m.revoked.Store(&n1.ID)
	if _, _, _, err := Open(good, grant, m.verifier, t0); ReasonOf(err) != Revoked {
		t.Errorf("a revoked signer: %v", err)
	}
}

// No character can change, and nobody but the signer can make a second text of
// a statement: a grant that was used once cannot come back in other letters.
func TestStatementHasOneSpelling(t *testing.T) {
	m := newMesh(t)
	n1 := node(t, m.fra, "n1")
	good := signed(t, n1, "payload", t0)
	for i := range good {
		flipped := []byte(good)
		if flipped[i] = 'A'; good[i] == 'A' {
			flipped[i] = 'B'
		}
		if _, _, _, err := Open(string(flipped), grant, m.verifier, t0); err == nil {
			t.Fatalf("character %d changed: opened", i)
		}
	}
	change := func(f func(*statement)) string {
		s, err := parseStatement(good)
		if err != nil {
			t.Fatal(err)
		}
		f(s)
		return s.encode()
	}
	high := change(func(s *statement) {
		sv := new(big.Int).SetBytes(s.signature[32:])
		sv.Sub(elliptic.P256().Params().N, sv).FillBytes(s.signature[32:])
	})
	renewed, err := m.fra.IssueNode(mustCSR(t, n1), "n2", t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{
		"the other s":                    high,
		"one more certificate":           change(func(s *statement) { s.chain = append(s.chain, m.fra.root.cert.Raw) }),
		"another certificate of the key": change(func(s *statement) { s.chain = renewed }),
		"another time":                   change(func(s *statement) { s.at = s.at.Add(time.Millisecond) }),
		"another payload":                change(func(s *statement) { s.payload = bytes.ToUpper(s.payload) }),
		"no certificate":                 change(func(s *statement) { s.chain = nil }),
	} {
		if _, _, _, err := Open(s, grant, m.verifier, t0); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	// The same, with the context written anew: the signature covers it.
	if _, _, _, err := Open(change(func(s *statement) { s.context = "other" }), "other", m.verifier, t0); ReasonOf(err) != BadStatement {
		t.Errorf("another context written in: %v", err)
	}
}

func mustCSR(t *testing.T, c *Credential) []byte {
	t.Helper()
	csr, err := NewCSR(c.Key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestStatementsOutOfBoundsAreNotMade(t *testing.T) {
	c := node(t, newCA(t, "fra-1"), "n1")
	if _, err := Sign(c, "", nil, t0); err == nil {
		t.Error("no context")
	}
	if _, err := Sign(c, strings.Repeat("c", 65), nil, t0); err == nil {
		t.Error("a long context")
	}
	if _, err := Sign(c, grant, make([]byte, MaxPayload+1), t0); err == nil {
		t.Error("a large payload")
	}
	m := newMesh(t)
	m.bundles.Set(newCA(t, "fra-1").Bundle())
	full, err := Sign(node(t, m.ber, "n1"), grant, make([]byte, MaxPayload), t0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := Open(full, grant, m.verifier, t0); err != nil {
		t.Errorf("the largest payload: %v", err)
	}
}

func FuzzOpenStatement(f *testing.F) {
	m := newMesh(f)
	c := node(f, m.fra, "n1")
	good := signed(f, c, "payload", t0)
	f.Add(good)
	f.Add(statementPrefix)
	f.Fuzz(func(t *testing.T, data string) {
		if s, err := parseStatement(data); err == nil && s.encode() != data {
			t.Fatalf("%q has a second spelling", data)
		}
		payload, signer, _, err := Open(data, grant, m.verifier, t0)
		if err == nil && (data != good || string(payload) != "payload" || signer != c.ID) {
			t.Fatalf("opened %q", data)
		}
	})
}

// Evidence outlives certificates: a statement opens as of its own time, and only
// if the certificate lived then.
func TestAPastStatementOpensAsOfItsTime(t *testing.T) {
	m := newMesh(t)
	n1, later := node(t, m.fra, "n1"), t0.AddDate(3, 0, 0)
	payload, signer, at, err := OpenPast(signed(t, n1, "payload", t0), grant, m.verifier, later)
	if err != nil || string(payload) != "payload" || signer != n1.ID || !at.Equal(t0) {
		t.Errorf("%q, %s, %s, %v", payload, signer, at, err)
	}
	for name, s := range map[string]string{
		"after its certificate":  signed(t, n1, "p", t0.Add(NodeTTL+time.Second)),
		"before its certificate": signed(t, n1, "p", t0.Add(-time.Hour)),
		"of the future":          signed(t, n1, "p", later.Add(2*MaxSkew)),
		"of an unknown region":   signed(t, node(t, newCA(t, "par-1"), "n1"), "p", t0),
	} {
		if _, _, _, err := OpenPast(s, grant, m.verifier, later); err == nil {
			t.Errorf("a statement %s opens", name)
		}
	}
}
