package ledger

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/proof"
)

// Verdict names what about a piece of evidence does not hold. Each has its own
// message, so that an auditor knows what kind of attack or accident to look for.
type Verdict string

const (
	// Unreadable is evidence that is not in its one form: cut, changed or other.
	Unreadable Verdict = "unreadable"
	// WrongOrigin is a log that the policy does not name.
	WrongOrigin Verdict = "origin"
	// BadSignature is a checkpoint that its log did not sign, or one with a
	// signature of a known key that is not over it.
	BadSignature Verdict = "signature"
	// NotWitnessed is a checkpoint that too few witnesses cosigned.
	NotWitnessed Verdict = "witness"
	// WrongSize is an entry or a tree that is beyond the checkpoint's size.
	WrongSize Verdict = "size"
	// NotIncluded is an entry that does not stand where the proof says.
	NotIncluded Verdict = "integrity"
	// NotConsistent are two checkpoints of one log, neither of which extends the
	// other: its history was rewritten.
	NotConsistent Verdict = "consistency"
	// WrongTime is a time that cannot be, or one before what preceded it.
	WrongTime Verdict = "time"
)

// VerifyError says what does not hold.
type VerifyError struct {
	Verdict Verdict
	What    string
}

func (e *VerifyError) Error() string { return fmt.Sprintf("%s: %s", e.Verdict, e.What) }

// Hint tells the auditor what it means and what to do.
func (e *VerifyError) Hint() string {
	switch e.Verdict {
	case Unreadable:
		return "the file was cut or changed; get it again"
	case WrongOrigin:
		return "this is another mesh's or region's evidence, or the policy is too old; compare the policy with the operator's by another way"
	case BadSignature:
		return "the checkpoint was changed after it was signed, or a key in the policy is not the log's"
	case NotWitnessed:
		return "ask for the receipt again after the next witnessing; if it stays, ask the witnesses what they hold of this log"
	case WrongSize:
		return "the receipt is newer than its checkpoint; ask for one with a later checkpoint"
	case NotIncluded:
		return "the entry, its index or its proof was changed; the log does not contain this"
	case NotConsistent:
		return "keep both checkpoints: together they prove that the log was rewritten"
	case WrongTime:
		return "a clock ran back or a time was made up; ask the witnesses for their records"
	}
	return ""
}

func refuse(v Verdict, format string, args ...any) error {
	return &VerifyError{v, fmt.Sprintf(format, args...)}
}

// Witnessed is a witness of the policy that cosigned, and when. The time is
// zero where the witness said nothing about time.
type Witnessed struct {
	Name string // in the policy
	At   time.Time
}

// VerifiedCheckpoint is a checkpoint of a log of the policy, with the witnesses
// the policy asks for. Only [VerifyCheckpoint] makes one.
type VerifiedCheckpoint struct {
	checkpoint Checkpoint
	witnessed  []Witnessed
	at         time.Time
	unknown    []Signature
	policy     *Policy
}

// Origin is the log.
func (v *VerifiedCheckpoint) Origin() string { return v.checkpoint.Origin }

// Head is its tree.
func (v *VerifiedCheckpoint) Head() Head { return v.checkpoint.Head() }

// Checkpoint is all that was signed.
func (v *VerifiedCheckpoint) Checkpoint() Checkpoint { return v.checkpoint }

// Witnesses are those of the policy that cosigned, by name.
func (v *VerifiedCheckpoint) Witnesses() []Witnessed { return slices.Clone(v.witnessed) }

// At is the time by which the quorum had cosigned; zero where the policy asks
// for no witness or the quorum gives no time.
func (v *VerifiedCheckpoint) At() time.Time { return v.at }

// Unknown are signature lines of keys that the policy does not name. C2SP has
// them ignored; evidence that must have one form refuses them.
func (v *VerifiedCheckpoint) Unknown() []Signature { return slices.Clone(v.unknown) }

// VerifyCheckpoint checks a signed checkpoint against a policy: its log is in
// the policy and signed it, no known key's signature is wrong or doubled, and
// the quorum cosigned it, in which the log's own region does not count. Its errors are of type [VerifyError].
func VerifyCheckpoint(policy *Policy, signed []byte) (*VerifiedCheckpoint, error) {
	s, err := ParseSignedCheckpoint(signed)
	if err != nil {
		return nil, refuse(Unreadable, "%v", err)
	}
	return verifyCheckpoint(policy, s)
}

func verifyCheckpoint(policy *Policy, s *SignedCheckpoint) (*VerifiedCheckpoint, error) {
	v := &VerifiedCheckpoint{checkpoint: s.checkpoint, policy: policy}
	c, times := s.checkpoint, map[string]time.Time{}
	if !slices.ContainsFunc(policy.spec.Logs, func(l PolicyLog) bool { return l.Key.name == c.Origin }) {
		return nil, refuse(WrongOrigin, "the policy names no log %s", c.Origin)
	}
	signed := false
	for i, line := range s.signatures {
		key, witness := policy.find(line)
		if key == nil {
			v.unknown = append(v.unknown, line)
			continue
		}
		if slices.ContainsFunc(s.signatures[:i], key.signs) {
			return nil, refuse(BadSignature, "the checkpoint of %s at size %d has two signatures of %s", c.Origin, c.Size, key.name)
		}
		at, err := key.check(c, line)
		if stamp := (*stampError)(nil); errors.As(err, &stamp) {
			return nil, refuse(WrongTime, "the checkpoint of %s at size %d: %v", c.Origin, c.Size, err)
		} else if err != nil {
			return nil, refuse(BadSignature, "the checkpoint of %s at size %d: %v", c.Origin, c.Size, err)
		}
		if witness != "" {
			if !ownWitness(c.Origin, key.name) {
				times[witness] = at
			}
		} else if key.name == c.Origin && (key.algorithm == Ed25519 || len(c.Extensions) == 0) {
			signed = true // ML-DSA does not cover extension lines
		}
	}
	if !signed {
		return nil, refuse(BadSignature, "the checkpoint of %s at size %d has no signature of its log", c.Origin, c.Size)
	}
	if err := v.judgeWitnesses(times); err != nil {
		return nil, err
	}
	return v, nil
}

// ownWitness reports whether a witness is that of the log's own region, by their
// names <host>/witness and <host>/ledger. A policy names all regions' witnesses in
// one group, for the logs of all: a region that cosigned its own log would make up
// the quorum with a key that it holds itself.
func ownWitness(origin, witness string) bool {
	host, ok := strings.CutSuffix(witness, "/witness")
	return ok && (origin == host+"/ledger" || strings.HasPrefix(origin, host+"/ledger/"))
}

// find gives the policy's key for a line, and the witness's name if it is one.
func (p *Policy) find(line Signature) (key *Verifier, witness string) {
	for _, l := range p.spec.Logs {
		if l.Key.signs(line) {
			return l.Key, ""
		}
	}
	for _, w := range p.spec.Witnesses {
		if w.Key.signs(line) {
			return w.Key, w.Name
		}
	}
	return nil, ""
}

// judgeWitnesses asks the policy, and finds the time by which it was satisfied.
func (v *VerifiedCheckpoint) judgeWitnesses(times map[string]time.Time) error {
	for _, name := range slices.Sorted(maps.Keys(times)) {
		v.witnessed = append(v.witnessed, Witnessed{name, times[name]})
	}
	byTime := slices.Clone(v.witnessed)
	slices.SortStableFunc(byTime, func(a, b Witnessed) int { return a.At.Compare(b.At) })
	has := map[string]bool{}
	if v.policy.quorum(has) {
		return nil
	}
	for _, w := range byTime {
		has[w.Name] = true
		if v.policy.quorum(has) {
			v.at = w.At
			return nil
		}
	}
	have := "none"
	if len(has) > 0 {
		have = strings.Join(slices.Sorted(maps.Keys(has)), ", ")
	}
	return refuse(NotWitnessed, "the checkpoint of %s at size %d is not witnessed as the policy asks: the quorum is %s, and of the policy's %d witnesses these cosigned: %s",
		v.checkpoint.Origin, v.checkpoint.Size, v.policy.spec.Quorum, len(v.policy.spec.Witnesses), have)
}

// Verified is an entry that stands in a log of the policy. Only [Verify] makes
// one, so whoever holds one holds proof.
type Verified struct {
	checkpoint *VerifiedCheckpoint
	index      uint64
	entry      []byte
	extra      []byte
}

// Checkpoint is the checkpoint that covers the entry.
func (v *Verified) Checkpoint() *VerifiedCheckpoint { return v.checkpoint }

// Index is the entry's place in the log.
func (v *Verified) Index() uint64 { return v.index }

// Entry is the entry's bytes.
func (v *Verified) Entry() []byte { return slices.Clone(v.entry) }

// UnsignedExtra is what came along with the proof. Nobody signed it.
func (v *Verified) UnsignedExtra() []byte { return slices.Clone(v.extra) }

// Verify checks a receipt: that a log of the policy, witnessed as the policy
// asks, has the entry at the place the proof says. There is no other way to a
// [Verified], and no part of the check can be left out. Its errors are of type
// [VerifyError].
func Verify(policy *Policy, receipt, entry []byte) (*Verified, error) {
	p, err := ParseProof(receipt)
	if err != nil {
		return nil, refuse(Unreadable, "%v", err)
	}
	c, err := verifyCheckpoint(policy, p.Checkpoint)
	if err != nil {
		return nil, err
	}
	head := c.Head()
	if p.Index >= head.Size {
		return nil, refuse(WrongSize, "entry %d is not in a log of %d: the receipt is newer than its checkpoint", p.Index, head.Size)
	}
	if want := proofLength(p.Index, head.Size); len(p.Hashes) != want {
		return nil, refuse(NotIncluded, "a proof of entry %d of %d has %d hashes, this one has %d", p.Index, head.Size, want, len(p.Hashes))
	}
	if checkInclusion(head, p.Index, HashLeaf(entry), p.Hashes) != nil {
		return nil, refuse(NotIncluded, "the log %s does not have this entry at %d: entry or proof was changed", c.Origin(), p.Index)
	}
	return &Verified{c, p.Index, slices.Clone(entry), p.Extra}, nil
}

// proofLength is the number of hashes of an inclusion proof.
func proofLength(index, size uint64) int {
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		return -1
	}
	_, begin, end := nodes.Ephem()
	length := len(nodes.IDs)
	if end > begin {
		length -= end - begin - 1 // these are hashed into one
	}
	return length
}

// VerifyConsistency checks that the newer checkpoint's log begins with the
// older's, both under the policy, and that no witness's clock ran back between
// them. It gives both. Its errors are of type [VerifyError].
func VerifyConsistency(policy *Policy, older, newer []byte, hashes []Hash) (first, second *VerifiedCheckpoint, err error) {
	if first, err = VerifyCheckpoint(policy, older); err != nil {
		return nil, nil, err
	}
	if second, err = VerifyCheckpoint(policy, newer); err != nil {
		return nil, nil, err
	}
	if first.Origin() != second.Origin() {
		return nil, nil, refuse(WrongOrigin, "the checkpoints are of two logs, %s and %s", first.Origin(), second.Origin())
	}
	a, b := first.Head(), second.Head()
	if a.Size > b.Size {
		return nil, nil, refuse(WrongSize, "the newer checkpoint of %s has size %d, the older %d: the log was cut, or they are in the wrong order", first.Origin(), b.Size, a.Size)
	}
	if len(hashes) > MaxProofHashes {
		return nil, nil, refuse(Unreadable, "a proof has at most %d hashes, not %d", MaxProofHashes, len(hashes))
	}
	if a.Size == b.Size && a.Root != b.Root {
		return nil, nil, refuse(NotConsistent, "the log %s signed two roots for size %d: %s and %s", first.Origin(), a.Size, a.Root.Text(), b.Root.Text())
	}
	if checkConsistency(a, b, hashes) != nil {
		return nil, nil, refuse(NotConsistent, "the log %s at size %d does not begin with its checkpoint at size %d, or the proof was changed", first.Origin(), b.Size, a.Size)
	}
	if err := clocksRan(first, second); err != nil {
		return nil, nil, err
	}
	return first, second, nil
}

// clocksRan refuses witnesses that saw the larger tree before the smaller: a
// cosignature says it was the largest by then.
func clocksRan(first, second *VerifiedCheckpoint) error {
	if first.Head().Size == second.Head().Size {
		return nil
	}
	for _, a := range first.witnessed {
		for _, b := range second.witnessed {
			if a.Name == b.Name && !a.At.IsZero() && !b.At.IsZero() && b.At.Before(a.At) {
				return refuse(WrongTime, "the clock of witness %s ran back: it cosigned %s at size %d at %s, and at size %d at %s", a.Name, first.Origin(),
					first.Head().Size, a.At.Format(time.RFC3339), second.Head().Size, b.At.Format(time.RFC3339))
			}
		}
	}
	return nil
}
