package ledger

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// HashLeaf is the RFC 6962 hash of an entry: SHA-256(0x00 || entry).
func HashLeaf(entry []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(entry)
	var out Hash
	h.Sum(out[:0])
	return out
}

// HashChildren is the RFC 6962 hash of a node: SHA-256(0x01 || left || right).
func HashChildren(left, right Hash) Hash {
	var b [1 + 2*len(left)]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+len(left):], right[:])
	return sha256.Sum256(b[:])
}

// Text is the hash in the base64 of C2SP's formats. It is not called String,
// which would make %x print the letters' codes.
func (h Hash) Text() string { return base64.StdEncoding.EncodeToString(h[:]) }

// ParseHash reads what [Hash.Text] writes and nothing else.
func ParseHash(text string) (Hash, error) {
	b, err := parseBase64(text)
	if err != nil || len(b) != len(Hash{}) {
		return Hash{}, fmt.Errorf("%q is no hash: 32 bytes in base64", shorten(text))
	}
	return Hash(b), nil
}

// parseBase64 refuses what the decoder would forgive: newlines inside, and bits
// behind the last byte. Otherwise a changed text could mean the same bytes.
func parseBase64(text string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err == nil && base64.StdEncoding.EncodeToString(b) != text {
		err = base64.CorruptInputError(0)
	}
	return b, err
}

// parseNumber reads an ASCII decimal without sign or leading zero.
func parseNumber(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, fmt.Errorf("%q is no number: decimal, without sign or leading zero", shorten(text))
	}
	return n, nil
}

// cutLine takes the first line; ok is false where no newline ends it.
func cutLine(text string) (line, rest string, ok bool) { return strings.Cut(text, "\n") }
