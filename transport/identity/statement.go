package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a signed statement. MaxSkew is how far its time may lie ahead.
const (
	MaxPayload   = 256 << 10
	MaxStatement = 400 << 10
	MaxSkew      = 60 * time.Second
)

// A statement is a payload that a node signed, with the time and the chain:
// "sms1." and base64url of
//
//	context (8-bit length) | unix ms (64) | payload (24-bit length) |
//	number of certificates (8), each (16-bit length) | signature (64 bytes, r||s)
//
// The signature covers a fixed label, the context, the time, the payload and the
// SHA-256 of each certificate, so neither purpose nor signer can be exchanged.
// s is the lower of its two values, so that one signature has one spelling and
// nobody but the signer can make a second text of a statement.
const (
	statementPrefix = "sms1."
	statementLabel  = "sovmesh statement v1\x00"
)

// Statement is a statement taken apart. Nothing in it is verified: only [Open]
// gives out a payload to believe.
type statement struct {
	context   string
	at        time.Time
	payload   []byte
	chain     [][]byte
	signature [64]byte
}

// Sign makes a statement. The context names its purpose, as in
// "sovmesh grant v1"; a statement made for one context opens in no other. The
// result is one word of URL- and header-safe characters.
func Sign(c *Credential, context string, payload []byte, now time.Time) (string, error) {
	if context == "" || len(context) > 64 || len(payload) > MaxPayload {
		return "", fmt.Errorf("sign statement %.64q: the context has 1 to 64 bytes and the payload at most %d", context, MaxPayload)
	}
	if ms := now.UnixMilli(); ms < 0 || ms > maxUnix*1000 {
		return "", fmt.Errorf("sign statement %q: the time is out of range", context)
	}
	s := statement{context: context, at: now, payload: payload, chain: c.Chain}
	digest := s.digest()
	der, err := c.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("sign statement %q: %w", context, err)
	}
	if s.signature, err = lowSignature(der); err != nil {
		return "", fmt.Errorf("sign statement %q: %w", context, err)
	}
	return s.encode(), nil
}

// Open verifies a statement and returns its payload, who signed it and when.
// The signer is believed only through the bundle of the trust domain that it
// claims, as of now; a time more than [MaxSkew] ahead is refused. How old a
// statement may be, and whether it may be used twice, is for the caller.
func Open(data, context string, v *Verifier, now time.Time) (payload []byte, signer ID, at time.Time, err error) {
	return open(data, context, v, now, func(time.Time) time.Time { return now })
}

// OpenPast is [Open] for a statement that is kept as evidence: its signer is
// believed as of the time that the statement itself says, so that it opens when
// the certificate has long ended. Whoever has the key of an ended certificate can
// make one of its time; what else bounds that time is for the caller.
func OpenPast(data, context string, v *Verifier, now time.Time) (payload []byte, signer ID, at time.Time, err error) {
	return open(data, context, v, now, func(said time.Time) time.Time { return said })
}

func open(data, context string, v *Verifier, now time.Time, believed func(said time.Time) time.Time) (payload []byte, signer ID, at time.Time, err error) {
	s, err := parseStatement(data)
	if err != nil {
		return nil, ID{}, time.Time{}, &RefusedError{Reason: BadStatement, Err: err}
	}
	if s.context != context {
		return nil, ID{}, time.Time{}, refuse(WrongContext, "", "it says %.64q, expected %q", s.context, context)
	}
	chain := make([]*x509.Certificate, len(s.chain))
	for i, der := range s.chain {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, ID{}, time.Time{}, &RefusedError{Reason: BadStatement, Err: err}
		}
	}
	id, refused := v.verifyChain(chain, x509.ExtKeyUsageClientAuth, believed(s.at))
	if refused != nil {
		return nil, ID{}, time.Time{}, refused
	}
	if !s.signedBy(chain[0]) {
		return nil, ID{}, time.Time{}, refuse(BadStatement, id.String(), "the signature is not its own")
	}
	if s.at.After(now.Add(MaxSkew)) || s.at.Before(chain[0].NotBefore) {
		return nil, ID{}, time.Time{}, refuse(BadStatement, id.String(), "it is dated %s, and it is %s", stamp(s.at), stamp(now))
	}
	return s.payload, id, s.at, nil
}

func (s *statement) digest() [sha256.Size]byte {
	var b cryptobyte.Builder
	b.AddBytes([]byte(statementLabel))
	s.addSigned(&b)
	for _, der := range s.chain {
		sum := sha256.Sum256(der)
		b.AddBytes(sum[:])
	}
	return sha256.Sum256(b.BytesOrPanic())
}

func (s *statement) addSigned(b *cryptobyte.Builder) {
	addText(b, s.context)
	b.AddUint64(uint64(s.at.UnixMilli()))
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s.payload) })
	b.AddUint8(uint8(len(s.chain)))
}

func (s *statement) encode() string {
	var b cryptobyte.Builder
	s.addSigned(&b)
	for _, der := range s.chain {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(der) })
	}
	b.AddBytes(s.signature[:])
	return statementPrefix + base64.RawURLEncoding.EncodeToString(b.BytesOrPanic())
}

func parseStatement(data string) (*statement, error) {
	if len(data) > MaxStatement {
		return nil, fmt.Errorf("%d bytes are more than %d", len(data), MaxStatement)
	}
	text, ok := strings.CutPrefix(data, statementPrefix)
	if !ok || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("it is no signed statement: it must be one word that begins with %q", statementPrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, err
	}
	in := cryptobyte.String(raw)
	var s statement
	var ms uint64
	var size uint32
	var count uint8
	ok = readText(&in, &s.context) && in.ReadUint64(&ms) && ms <= maxUnix*1000 &&
		in.ReadUint24(&size) && size <= MaxPayload && in.ReadBytes(&s.payload, int(size)) &&
		in.ReadUint8(&count) && count >= 1 && count <= maxChain
	for range count {
		var der cryptobyte.String
		ok = ok && in.ReadUint16LengthPrefixed(&der)
		s.chain = append(s.chain, der)
	}
	if !ok || !in.CopyBytes(s.signature[:]) || !in.Empty() {
		return nil, errors.New("its fields cannot be read")
	}
	s.at = time.UnixMilli(int64(ms)).UTC()
	return &s, nil
}

func (s *statement) signedBy(leaf *x509.Certificate) bool {
	pub, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return false
	}
	r, sv := new(big.Int).SetBytes(s.signature[:32]), new(big.Int).SetBytes(s.signature[32:])
	if sv.Cmp(halfOrder()) > 0 {
		return false
	}
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1BigInt(r); b.AddASN1BigInt(sv) })
	digest := s.digest()
	return ecdsa.VerifyASN1(pub, digest[:], b.BytesOrPanic())
}

func halfOrder() *big.Int { return new(big.Int).Rsh(elliptic.P256().Params().N, 1) }

// lowSignature turns the DER form of a P-256 signature into r||s with the lower s.
func lowSignature(der []byte) (out [64]byte, err error) {
	r, s := new(big.Int), new(big.Int)
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, casn1.SEQUENCE) || !seq.ReadASN1Integer(r) || !seq.ReadASN1Integer(s) ||
		r.Sign() <= 0 || s.Sign() <= 0 || r.BitLen() > 256 || s.BitLen() > 256 {
		return out, errors.New("the key does not make P-256 signatures")
	}
	if s.Cmp(halfOrder()) > 0 {
		s.Sub(elliptic.P256().Params().N, s)
	}
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}
