package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"golang.org/x/crypto/cryptobyte"
)

// Codes that people copy (join tokens, invites) are a prefix that names kind and
// version, then base64url of length-prefixed fields and a check sum of four
// bytes, which tells a truncated paste from a wrong code. A code has exactly one
// spelling.
const (
	maxCode      = 4 << 10
	maxAddresses = 16
	checksumSize = 4
)

// Secret is the random part of a code: 128 bits.
type Secret [16]byte

func newSecret() Secret {
	var s Secret
	_, _ = rand.Read(s[:]) // crypto/rand.Read never returns an error
	return s
}

func encodeCode(prefix string, body []byte) string {
	sum := sha256.Sum256(append([]byte(prefix), body...))
	return prefix + base64.RawURLEncoding.EncodeToString(append(body, sum[:checksumSize]...))
}

func decodeCode(prefix, s string) (cryptobyte.String, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxCode {
		return nil, fmt.Errorf("%d characters are more than %d", len(s), maxCode)
	}
	text, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return nil, fmt.Errorf("it must begin with %q", prefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < checksumSize {
		return nil, errors.New("it is damaged or cut short; copy it whole")
	}
	body := raw[:len(raw)-checksumSize]
	// Comparing the whole text also refuses line breaks, which the decoder skips.
	if encodeCode(prefix, append([]byte(nil), body...)) != s {
		return nil, errors.New("its check sum is wrong, or it is broken over several lines; copy it whole")
	}
	return body, nil
}

func addText(b *cryptobyte.Builder, s string) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

func readText(in *cryptobyte.String, out *string) bool {
	var s cryptobyte.String
	if !in.ReadUint8LengthPrefixed(&s) {
		return false
	}
	*out = string(s)
	return true
}

func addAddresses(b *cryptobyte.Builder, list []string) {
	b.AddUint8(uint8(len(list)))
	for _, a := range list {
		addText(b, a)
	}
}

func readAddresses(in *cryptobyte.String) ([]string, bool) {
	var n uint8
	if !in.ReadUint8(&n) || n > maxAddresses {
		return nil, false
	}
	list := make([]string, n)
	for i := range list {
		if !readText(in, &list[i]) {
			return nil, false
		}
	}
	return list, true
}

// checkPlace validates what join tokens and invites both carry.
func checkPlace(region placement.RegionID, mesh string, addresses []string) error {
	if !placement.ValidName(string(region)) || !ValidMesh(mesh) {
		return fmt.Errorf("%.80q is no trust domain", TrustDomain(region, mesh))
	}
	if len(addresses) == 0 || len(addresses) > maxAddresses {
		return fmt.Errorf("needs 1 to %d addresses, not %d", maxAddresses, len(addresses))
	}
	for _, a := range addresses {
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	return nil
}

func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil || len(a) > 255 {
		return fmt.Errorf("address %.80q is not host:port", a)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("address %.80q has no port from 1 to 65535", a)
	}
	if net.ParseIP(host) == nil && !validHost(host) {
		return fmt.Errorf("address %.80q names neither a DNS name nor an IP address", a)
	}
	return nil
}

func addTime(b *cryptobyte.Builder, t time.Time) { b.AddUint64(uint64(t.Unix())) }

// maxUnix is the last second of the year 9999: beyond it time.Time does not
// format, so no code or statement may name it.
const maxUnix = 253402300799

func readTime(in *cryptobyte.String, out *time.Time) bool {
	var s uint64
	if !in.ReadUint64(&s) || s > maxUnix {
		return false
	}
	*out = time.Unix(int64(s), 0).UTC()
	return true
}
