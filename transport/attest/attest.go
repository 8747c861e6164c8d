// Package attest turns hardware evidence into claims about a machine.
//
// Evidence is what a [Quoter] reads from the hardware; claims are what a
// verifier may believe after checking it. The rule: evidence that is not
// understood proves nothing. An unknown kind is refused, never passed through,
// and a machine without attested hardware yields no claims at all, so a policy
// that asks for one stays unsatisfied.
//
// Claims is pure. The node hands a Quoter in; transport and placement rely on
// the claims.
package attest

import (
	"context"
	"fmt"
	"time"
)

// KindNone is the evidence of a machine that has no attested hardware.
const KindNone = "none"

// MaxEvidence bounds the bytes of one piece of evidence.
const MaxEvidence = 16 << 10

// Evidence is one signed statement of hardware about itself, as it came from
// the device; Kind names its format.
type Evidence struct {
	Kind string `json:"kind"`
	Data []byte `json:"data,omitempty"`
}

// A Quoter reads evidence from the hardware of this machine. The nonce comes
// from whoever asks and makes the evidence fresh.
type Quoter interface {
	Quote(ctx context.Context, nonce []byte) (Evidence, error)
}

// None is the Quoter of a machine without attested hardware: it says so,
// rather than failing or pretending.
type None struct{}

// Quote returns evidence of kind [KindNone], which carries no data.
func (None) Quote(ctx context.Context, nonce []byte) (Evidence, error) {
	return Evidence{Kind: KindNone}, ctx.Err()
}

// Claims checks evidence as of now and returns what it proves, by claim name.
// Evidence of kind none proves nothing: the map is empty. A kind that this
// binary cannot verify is an [UnknownKindError].
func Claims(e Evidence, now time.Time) (map[string]string, error) {
	if len(e.Data) > MaxEvidence {
		return nil, fmt.Errorf("evidence of kind %.32q has %d bytes, more than %d", e.Kind, len(e.Data), MaxEvidence)
	}
	switch e.Kind {
	case KindNone:
		if len(e.Data) != 0 {
			return nil, fmt.Errorf("evidence of kind %q carries %d bytes; it must carry none", KindNone, len(e.Data))
		}
		return map[string]string{}, nil
	default:
		return nil, &UnknownKindError{Kind: e.Kind}
	}
}

// UnknownKindError says that evidence has a format this binary cannot verify.
type UnknownKindError struct{ Kind string }

func (e *UnknownKindError) Error() string {
	return fmt.Sprintf("evidence of kind %.32q cannot be verified by this binary", e.Kind)
}

// Hint tells the operator what to do next.
func (e *UnknownKindError) Hint() string {
	return "upgrade this node to a version that verifies this kind, or place the job without asking for attested hardware"
}
