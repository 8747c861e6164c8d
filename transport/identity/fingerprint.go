package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/binary"
	"slices"
	"strings"
)

// fingerprintBits is 160: 32 letters in eight groups of four, still readable
// aloud, and far beyond a search for a second bundle that matches.
const fingerprintBits = 160

// alphabet is Crockford's: no i, l, o or u to mishear.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// Fingerprint is what two operators compare: a hash of the trust domain and of
// the public keys of all roots and serving roots, in eight groups of four.
func (b Bundle) Fingerprint() string {
	h := sha256.New()
	h.Write([]byte("sovmesh bundle fingerprint v1\x00"))
	h.Write([]byte{byte(len(b.TrustDomain))})
	h.Write([]byte(b.TrustDomain))
	for _, set := range [][]*x509.Certificate{b.Roots, b.ServingRoots} {
		pins := make([]string, len(set))
		for i, c := range set {
			p := PinOf(c)
			pins[i] = string(p[:])
		}
		slices.Sort(pins)
		pins = slices.Compact(pins)
		_ = binary.Write(h, binary.BigEndian, uint32(len(pins))) // a hash never fails to write
		for _, p := range pins {
			h.Write([]byte(p))
		}
	}
	text := base32.NewEncoding(alphabet).WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:fingerprintBits/8])
	return groupFingerprint(text)
}

func groupFingerprint(text string) string {
	var groups []string
	for ; len(text) >= 4; text = text[4:] {
		groups = append(groups, text[:4])
	}
	return strings.Join(groups, "-")
}

// FingerprintEqual compares two fingerprints as people type them: case, spaces
// and hyphens do not matter, and o reads as 0, i and l as 1. Both must be whole:
// a prefix, however long, equals nothing.
func FingerprintEqual(a, b string) bool {
	a, b = plainFingerprint(a), plainFingerprint(b)
	return a != "" && a == b
}

// ValidFingerprint reports whether s is a whole fingerprint, in any spelling.
func ValidFingerprint(s string) bool { return plainFingerprint(s) != "" }

// plainFingerprint is the 32 letters of s, or empty when s is no fingerprint.
func plainFingerprint(s string) string {
	if len(s) > 256 {
		return ""
	}
	s = strings.NewReplacer("-", "", " ", "", "\t", "", "\n", "", "\r", "", "o", "0", "i", "1", "l", "1").Replace(strings.ToLower(s))
	if len(s) != fingerprintBits/5 || strings.Trim(s, alphabet) != "" {
		return ""
	}
	return s
}
