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

const invitePrefix = "sminvite-1"

// Invite is the code by which another region asks to federate with ours. It
// shows whom to call and what to find there; the two operators still compare
// fingerprints on both sides, and neither join nor approve works without.
type Invite struct {
	Region      placement.RegionID // who invites
	Mesh        string
	Addresses   []string // its front doors: app listeners, host:port
	Fingerprint string   // of its bundle, as [Bundle.Fingerprint] prints it
	ServingPin  Pin      // of the root behind its app listeners
	Expires     time.Time
	Secret      Secret // shown once, with the joiner's bundle
}

// NewInvite makes an invite by the region of b. A ttl of zero means [JoinTTL].
func NewInvite(b Bundle, addresses []string, now time.Time, ttl time.Duration) (Invite, error) {
	region, mesh, err := SplitTrustDomain(b.TrustDomain)
	if err != nil {
		return Invite{}, fmt.Errorf("invite: %w", err)
	}
	if len(b.ServingRoots) == 0 {
		return Invite{}, fmt.Errorf("invite: the bundle of %s has no serving root to pin", b.TrustDomain)
	}
	expires, err := codeExpiry(now, ttl)
	if err != nil {
		return Invite{}, fmt.Errorf("invite: %w", err)
	}
	inv := Invite{
		Region: region, Mesh: mesh, Addresses: addresses, Fingerprint: b.Fingerprint(),
		ServingPin: PinOf(b.ServingRoots[len(b.ServingRoots)-1]), Expires: expires, Secret: newSecret(),
	}
	return inv, inv.Validate()
}

// Validate reports whether the invite's fields can be written and read back.
func (v Invite) Validate() error {
	if err := checkPlace(v.Region, v.Mesh, v.Addresses); err != nil {
		return fmt.Errorf("invite: %w", err)
	}
	if !ValidFingerprint(v.Fingerprint) {
		return errors.New("invite: its fingerprint is not whole")
	}
	if s := v.Expires.Unix(); s < 0 || s > maxUnix {
		return errors.New("invite: its expiry is out of range")
	}
	return nil
}

// Encode is the secret text that one operator hands to the other.
func (v Invite) Encode() string {
	var b cryptobyte.Builder
	addText(&b, string(v.Region))
	addText(&b, v.Mesh)
	addAddresses(&b, v.Addresses)
	addText(&b, plainFingerprint(v.Fingerprint))
	b.AddBytes(v.ServingPin[:])
	addTime(&b, v.Expires)
	b.AddBytes(v.Secret[:])
	return encodeCode(invitePrefix, b.BytesOrPanic())
}

// ParseInvite reads what Encode wrote; white space around it is ignored.
func ParseInvite(s string) (Invite, error) {
	in, err := decodeCode(invitePrefix, s)
	if err != nil {
		return Invite{}, fmt.Errorf("invite: %w", err)
	}
	var v Invite
	var region, fingerprint string
	ok := readText(&in, &region) && readText(&in, &v.Mesh)
	if ok {
		v.Addresses, ok = readAddresses(&in)
	}
	if !ok || !readText(&in, &fingerprint) || !in.CopyBytes(v.ServingPin[:]) ||
		!readTime(&in, &v.Expires) || !in.CopyBytes(v.Secret[:]) || !in.Empty() {
		return Invite{}, errors.New("invite: its fields cannot be read; was it made by another version?")
	}
	if plainFingerprint(fingerprint) != fingerprint {
		return Invite{}, errors.New("invite: its fingerprint is not whole")
	}
	v.Region, v.Fingerprint = placement.RegionID(region), groupFingerprint(fingerprint)
	return v, v.Validate()
}

// Hash is what the inviting region stores: SHA-256 of the text.
func (v Invite) Hash() [sha256.Size]byte { return sha256.Sum256([]byte(v.Encode())) }

// Expired reports whether the invite is too old at now.
func (v Invite) Expired(now time.Time) bool { return !now.Before(v.Expires) }

// TrustDomain is the trust domain of the region that invites.
func (v Invite) TrustDomain() string { return TrustDomain(v.Region, v.Mesh) }

// CheckBundle reports whether b, fetched from a front door, is the bundle whose
// fingerprint the invite carries.
func (v Invite) CheckBundle(b Bundle) error {
	if err := b.Validate(); err != nil {
		return err
	}
	if b.TrustDomain != v.TrustDomain() || !FingerprintEqual(b.Fingerprint(), v.Fingerprint) {
		return fmt.Errorf("the bundle of %s has fingerprint %s; the invite of %s says %s",
			b.TrustDomain, b.Fingerprint(), v.TrustDomain(), v.Fingerprint)
	}
	return nil
}

// String names the invite without its secret, so that it may stand in a log.
func (v Invite) String() string {
	return fmt.Sprintf("invite by %s, until %s", v.TrustDomain(), stamp(v.Expires))
}

// GoString and LogValue keep the secret out of %#v and of structured logs.
func (v Invite) GoString() string     { return v.String() }
func (v Invite) LogValue() slog.Value { return slog.StringValue(v.String()) }
