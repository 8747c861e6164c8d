// Package ledger is the form of a region's record: leaves, the Merkle tree over
// them, and all that lets an outsider check it: tiles, checkpoints,
// cosignatures, proofs and policies, in the formats of https://c2sp.org.
//
// Three rules hold. A leaf never contains what must be erasable: names,
// commands, environments and prompts appear as salted commitments only, actors
// and subjects as opaque ids. Everything has exactly one encoding: whatever is
// read is written again as the same bytes, so that a root or a signature proves
// every bit. And what was not verified cannot be mistaken for what was: only
// [Verify] makes a [Verified], only [VerifyCheckpoint] a [VerifiedCheckpoint].
//
// The package is pure and imports nothing of ours: no clock, no files, no
// network. consensus/state appends a leaf for every command it applies,
// ledger/store keeps entries and tiles, consensus/evidence judges packs.
package ledger

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// Salt is 128 bits of randomness.
type Salt [16]byte

// Hash is a SHA-256 digest.
type Hash [sha256.Size]byte

// MarshalText writes standard base64, as checkpoints do.
func (h Hash) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, h[:]), nil
}

// UnmarshalText reads what [Hash.MarshalText] wrote.
func (h *Hash) UnmarshalText(text []byte) error {
	data, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(data) != len(h) || base64.StdEncoding.EncodeToString(data) != string(text) {
		return fmt.Errorf("no hash: %d characters, not the base64 of 32 bytes", len(text))
	}
	copy(h[:], data)
	return nil
}

// The domains keep hashes made for one purpose from being used for another.
const (
	domainCommand  = "sovmesh/command/v1\x00"
	domainSubject  = "sovmesh/subject/v1\x00"
	domainLeafSalt = "sovmesh/leaf-salt/v1\x00"
)

// Leaf is one decision of a region, as the ledger records it.
type Leaf struct {
	// Index is the raft index that committed the command. Several commands
	// share one index when they were committed together.
	Index uint64
	// Kind names the command; empty for bytes that no command could be read from.
	Kind string
	// Time is the proposer's clock, to the nanosecond.
	Time time.Time
	// Actor and Subject are opaque ids: who asked, and what it was about.
	Actor   string
	Subject string
	// Code is empty for an accepted command, else the code of its refusal.
	Code string
	// Judged are the residency decisions that were taken: one for an admission,
	// a reservation or a forward, one per task for a placement.
	Judged []Judgement
	// Shown is what an outsider may read of what was decided, see [Shown].
	Shown []Shown
	// Salt makes equal decisions have different leaf hashes. It is derived from
	// the command's own salt one way, so that publishing it does not help in
	// guessing what Commitment hides.
	Salt Salt
	// Commitment is SHA-256(domain || command's salt || command's bytes). The
	// bytes stay in the region's own store; erasing them leaves the leaf valid.
	Commitment Hash
}

// Get gives the first shown value of a name, "" if there is none.
func (l *Leaf) Get(name string) string {
	for i := range l.Shown {
		if l.Shown[i].Name == name {
			return l.Shown[i].Value
		}
	}
	return ""
}

// Accepted reports whether the command took effect.
func (l *Leaf) Accepted() bool { return l.Code == "" }

// Judgement is a residency decision with all that is needed to repeat it.
type Judgement struct {
	// Subject is the opaque id of the job, Place that of the node; empty where
	// a region as a whole was judged.
	Subject, Place string
	// Verdict is permitted, refused or unknown; Rule is the id of the rule
	// that gave it.
	Verdict string
	Rule    string
	// Tag is the canonical form of the effective policy.
	Tag string
	// Facts are those of the region it was judged on; nil when none was (a
	// policy that excludes itself).
	Facts *Facts
	// LawPack is the hash of the pack, On the UTC day its rows were read for.
	LawPack string
	On      string
}

// Facts are what residency was judged on. The legal name of the operator is
// left out: no rule reads it.
type Facts struct {
	Region, Site         string
	Country, Subdivision string
	Home, Parent         string // of the operator
	Claims               []Claim
	Location, Operator   string // assurance levels
	AsOf                 string
}

// Claim is one named claim of a region. Claims are sorted by name.
type Claim struct{ Name, Value string }

// Commit hides the bytes of a command behind its salt.
func Commit(salt Salt, command []byte) Hash { return hash(domainCommand, salt, command) }

// Opaque hides a name behind a command's salt: the region can open it, nobody
// else can guess it.
func Opaque(salt Salt, name string) string {
	h := hash(domainSubject, salt, []byte(name))
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 34)
	out = append(out, "h:"...)
	for _, b := range h[:16] {
		out = append(out, digits[b>>4], digits[b&15])
	}
	return string(out)
}

// LeafSalt derives the public salt of a leaf from its command's salt.
func LeafSalt(salt Salt) Salt {
	h := hash(domainLeafSalt, salt, nil)
	return Salt(h[:16])
}

func hash(domain string, salt Salt, data []byte) Hash {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(salt[:])
	h.Write(data)
	var out Hash
	h.Sum(out[:0])
	return out
}
