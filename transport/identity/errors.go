package identity

import (
	"errors"
	"fmt"
)

// Reason is why a peer, a statement or a bundle was refused.
type Reason string

const (
	UnknownTrustDomain Reason = "unknown trust domain"
	ForeignRegion      Reason = "foreign region on a class for the home region"
	NotRaftPeer        Reason = "not a voter or standby"
	WrongPeer          Reason = "not the peer that was dialed"
	Revoked            Reason = "certificate revoked"
	Expired            Reason = "certificate expired"
	NotYetValid        Reason = "certificate not yet valid"
	BadCertificate     Reason = "certificate not acceptable"
	UnknownClass       Reason = "no known traffic class"
	NoCredential       Reason = "this node has no certificate to show"
	BadStatement       Reason = "statement not acceptable"
	WrongContext       Reason = "statement made for another purpose"
)

// RefusedError is the answer to a peer or statement that is not believed. It is
// what the VerifyConnection functions and [Open] return.
type RefusedError struct {
	Reason Reason
	Peer   string // the SPIFFE ID that was claimed, as far as it could be read
	Detail string
	Err    error // the cause, when there is one
}

func (e *RefusedError) Error() string {
	s := "peer refused: " + string(e.Reason)
	if e.Reason == NoCredential { // the fault is at this end
		s = string(e.Reason)
	}
	if e.Peer != "" {
		s = "peer " + e.Peer + " refused: " + string(e.Reason)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *RefusedError) Unwrap() error { return e.Err }

// Hint tells the operator what to do next.
func (e *RefusedError) Hint() string {
	switch e.Reason {
	case UnknownTrustDomain:
		return "no bundle of that region is accepted here; federate with it first: sovmesh region invite NAME, then join and approve"
	case ForeignRegion:
		return "raft and gossip stay inside a region; check the address, it belongs to a node of another region"
	case NotRaftPeer:
		return "only current voters and standbys speak raft; see who they are: sovmesh node list"
	case WrongPeer:
		return "another node answers at that address; look it up again: sovmesh node list"
	case Revoked:
		return "the node was removed; if it shall come back, join it again with a new token: sovmesh node token create"
	case Expired:
		return "the peer did not renew its certificate; check that it reaches its voters and that both clocks are right"
	case NotYetValid:
		return "the clocks of the two nodes differ by more than five minutes; set them right"
	case UnknownClass:
		return "the peer offered none of the protocols of this port; is it another program, or a much older version?"
	case NoCredential:
		return "this node has not joined a region yet, or its certificate file is missing"
	default:
		return "the other side does not follow the rules of this mesh; check its version and its certificate files"
	}
}

// ReasonOf tells why err refused somebody; it is empty when err is no refusal.
func ReasonOf(err error) Reason {
	var r *RefusedError
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

func refuse(reason Reason, peer string, format string, args ...any) *RefusedError {
	return &RefusedError{Reason: reason, Peer: peer, Detail: fmt.Sprintf(format, args...)}
}
