package identity

import (
	"crypto/hpke"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// SealKey opens what was sealed to a region. Only voters have it; whoever has the
// public half, which the region's record shows, can seal.
//
// Sealing is HPKE in base mode (RFC 9180) with a key encapsulation of ML-KEM-768
// and X25519 together (draft-ietf-hpke-pq): what is recorded today stays closed
// to those who can break either of the two tomorrow.
type SealKey struct{ private hpke.PrivateKey }

// sealedPrefix begins every sealed text and names how it is sealed.
const sealedPrefix = "sealed:v1:"

// MaxSealed bounds what is opened, in bytes of the text.
const MaxSealed = 256 << 10

func sealing() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// NewSealKey derives the key from at least 32 secret bytes, always the same from
// the same.
func NewSealKey(seed []byte) (*SealKey, error) {
	if len(seed) < 32 {
		return nil, fmt.Errorf("a seed of %d bytes makes no key: it takes 32", len(seed))
	}
	kem, _, _ := sealing()
	k, err := kem.DeriveKeyPair(seed)
	if err != nil {
		return nil, fmt.Errorf("derive a sealing key: %w", err)
	}
	return &SealKey{k}, nil
}

// Public is the half that seals, as text.
func (k *SealKey) Public() string {
	return base64.RawStdEncoding.EncodeToString(k.private.PublicKey().Bytes())
}

func parsePublic(public string) (hpke.PublicKey, error) {
	raw, err := base64.RawStdEncoding.DecodeString(public)
	if err != nil {
		return nil, errors.New("a sealing key is base64")
	}
	kem, _, _ := sealing()
	return kem.NewPublicKey(raw)
}

// ValidSealKey reports whether text is the public half of a sealing key.
func ValidSealKey(public string) bool {
	_, err := parsePublic(public)
	return err == nil
}

// Seal closes a secret for the holders of a key, for one purpose: it opens for
// no other. It is different each time.
func Seal(public, purpose string, secret []byte) (string, error) {
	pk, err := parsePublic(public)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	_, kdf, aead := sealing()
	sealed, err := hpke.Seal(pk, kdf, aead, []byte(purpose), secret)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	return sealedPrefix + base64.RawStdEncoding.EncodeToString(sealed), nil
}

// Open gives the secret back. Its errors never quote what was sealed.
func (k *SealKey) Open(purpose, sealed string) ([]byte, error) {
	text, ok := strings.CutPrefix(sealed, sealedPrefix)
	if !ok || len(text) > MaxSealed {
		return nil, errors.New("this is nothing sealed, or of a kind that this program does not know")
	}
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("what was sealed is damaged")
	}
	_, kdf, aead := sealing()
	secret, err := hpke.Open(k.private, kdf, aead, []byte(purpose), raw)
	if err != nil {
		return nil, errors.New("it was not sealed with this key for this purpose, or is damaged")
	}
	return secret, nil
}

// Format keeps every verb of fmt away from the key.
func (k *SealKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "a sealing key") }
