package identity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"golang.org/x/crypto/cryptobyte"
)

// JoinTTL is how long a join token or an invite is good, unless asked otherwise.
const (
	JoinTTL    = 15 * time.Minute
	MaxCodeTTL = 7 * 24 * time.Hour
)

const joinPrefix = "smjoin-1"

// JoinToken lets one node join a region once. It pins the region's keys, so the
// joiner knows the server before the server knows the joiner. The region stores
// only its hash, and a raft command consumes it: this package cannot tell
// whether a token was used before.
type JoinToken struct {
	Region     placement.RegionID
	Mesh       string
	Node       placement.NodeID // the name the joiner must take; empty means any
	RootPin    Pin              // of the root that signs node certificates
	ServingPin Pin              // of the root behind the app listener, where joining happens
	Addresses  []string         // app listeners of voters, host:port
	Expires    time.Time
	Secret     Secret
}

// NewJoinToken makes a token for the region of b. A ttl of zero means [JoinTTL].
func NewJoinToken(b Bundle, node placement.NodeID, addresses []string, now time.Time, ttl time.Duration) (JoinToken, error) {
	region, mesh, err := SplitTrustDomain(b.TrustDomain)
	if err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	if len(b.Roots) == 0 || len(b.ServingRoots) == 0 {
		return JoinToken{}, fmt.Errorf("join token: the bundle of %s has no root or no serving root to pin", b.TrustDomain)
	}
	expires, err := codeExpiry(now, ttl)
	if err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	t := JoinToken{
		Region: region, Mesh: mesh, Node: node, Addresses: addresses, Expires: expires, Secret: newSecret(),
		RootPin: PinOf(b.Roots[len(b.Roots)-1]), ServingPin: PinOf(b.ServingRoots[len(b.ServingRoots)-1]),
	}
	return t, t.Validate()
}

func codeExpiry(now time.Time, ttl time.Duration) (time.Time, error) {
	if ttl == 0 {
		ttl = JoinTTL
	}
	if ttl < time.Second || ttl > MaxCodeTTL {
		return time.Time{}, fmt.Errorf("a lifetime of %s is outside 1s to %s", ttl, MaxCodeTTL)
	}
	return now.Add(ttl).UTC().Truncate(time.Second), nil
}

// Validate reports whether the token's fields can be written and read back.
func (t JoinToken) Validate() error {
	if t.Node != "" && !placement.ValidName(string(t.Node)) {
		return fmt.Errorf("join token: node name %.80q: use lower-case letters, digits and inner hyphens", t.Node)
	}
	if err := checkPlace(t.Region, t.Mesh, t.Addresses); err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	if s := t.Expires.Unix(); s < 0 || s > maxUnix {
		return errors.New("join token: its expiry is out of range")
	}
	return nil
}

// Encode is the secret text that an operator hands to the new node.
func (t JoinToken) Encode() string {
	var b cryptobyte.Builder
	addText(&b, string(t.Region))
	addText(&b, t.Mesh)
	addText(&b, string(t.Node))
	b.AddBytes(t.RootPin[:])
	b.AddBytes(t.ServingPin[:])
	addAddresses(&b, t.Addresses)
	addTime(&b, t.Expires)
	b.AddBytes(t.Secret[:])
	return encodeCode(joinPrefix, b.BytesOrPanic())
}

// ParseJoinToken reads what Encode wrote; white space around it is ignored.
func ParseJoinToken(s string) (JoinToken, error) {
	in, err := decodeCode(joinPrefix, s)
	if err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	var t JoinToken
	var region, node string
	ok := readText(&in, &region) && readText(&in, &t.Mesh) && readText(&in, &node) &&
		in.CopyBytes(t.RootPin[:]) && in.CopyBytes(t.ServingPin[:])
	if ok {
		t.Addresses, ok = readAddresses(&in)
	}
	if !ok || !readTime(&in, &t.Expires) || !in.CopyBytes(t.Secret[:]) || !in.Empty() {
		return JoinToken{}, errors.New("join token: its fields cannot be read; was it made by another version?")
	}
	t.Region, t.Node = placement.RegionID(region), placement.NodeID(node)
	return t, t.Validate()
}

// Hash is what the region stores of the token: SHA-256 of its text, so no field
// can be changed without becoming another, unknown token.
func (t JoinToken) Hash() [sha256.Size]byte { return sha256.Sum256([]byte(t.Encode())) }

// Expired reports whether the token is too old at now.
func (t JoinToken) Expired(now time.Time) bool { return !now.Before(t.Expires) }

// TrustDomain is the trust domain of the region that the token is for.
func (t JoinToken) TrustDomain() string { return TrustDomain(t.Region, t.Mesh) }

// CheckBundle reports whether b, which the server handed over while joining, is
// that of the region the token pins.
func (t JoinToken) CheckBundle(b Bundle) error {
	if err := b.Validate(); err != nil {
		return err
	}
	if b.TrustDomain != t.TrustDomain() || !pinned(b.Roots, t.RootPin) || !pinned(b.ServingRoots, t.ServingPin) {
		return fmt.Errorf("the bundle of %s does not hold the roots that the join token for %s pins", b.TrustDomain, t.TrustDomain())
	}
	return nil
}

// String names the token without its secret, so that it may stand in a log.
func (t JoinToken) String() string {
	return fmt.Sprintf("join token for %s, until %s", t.TrustDomain(), stamp(t.Expires))
}

// GoString and LogValue keep the secret out of %#v and of structured logs.
func (t JoinToken) GoString() string     { return t.String() }
func (t JoinToken) LogValue() slog.Value { return slog.StringValue(t.String()) }
