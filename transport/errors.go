package transport

import (
	"errors"
	"fmt"
	"io"

	"github.com/quic-go/quic-go"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// ErrClosed is returned by what is asked of an endpoint that has stopped.
var ErrClosed = errors.New("transport: the endpoint is closed")

// UnreachableError says that no connection to a peer could be had: nothing was
// sent to it. Whether the peer works is unknown.
type UnreachableError struct {
	Peer  Peer
	Class identity.Class
	Err   error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no %s connection to %s at %s: %v", e.Class, e.Peer.ID, e.Peer.Addr, e.Err)
}

// Unwrap gives the cause: a timeout, or the reason for which a side refused.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint tells an operator where to look.
func (e *UnreachableError) Hint() string {
	return "check that the node runs, that UDP reaches its address, and that its certificate is valid and names it"
}

// EgressError says that the guard let nothing out: no byte was sent and no
// connection was opened.
type EgressError struct {
	From, To placement.RegionID
	Kind     CargoKind
	Err      error
}

func (e *EgressError) Error() string {
	return fmt.Sprintf("%s may not go from %s to %s: %v", e.Kind, e.From, e.To, e.Err)
}

// Unwrap gives the guard's reason, often a residency.Refusal.
func (e *EgressError) Unwrap() error { return e.Err }

// Hint passes the reason's own advice on.
func (e *EgressError) Hint() string {
	var h interface{ Hint() string }
	if errors.As(e.Err, &h) {
		return h.Hint()
	}
	return "only what law 4 lists crosses a border, and only to a region that the policy permits"
}

// CutError says that a stream ended before its end: the sender reset it, or the
// connection was lost. What was read until then is a part, never the whole.
type CutError struct {
	// Code is the sender's code, when it sent one.
	Code uint64
	Err  error
}

func (e *CutError) Error() string { return fmt.Sprintf("the stream was cut: %v", e.Err) }

// Unwrap gives the cause, and makes the error an io.ErrUnexpectedEOF.
func (e *CutError) Unwrap() []error { return []error{io.ErrUnexpectedEOF, e.Err} }

// cutFrom makes a CutError of what a stream's Read returned.
func cutFrom(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	cut := &CutError{Err: err}
	var stream *quic.StreamError
	if errors.As(err, &stream) {
		cut.Code = uint64(stream.ErrorCode)
	}
	return cut
}

// Codes that close a connection or a stream. They are for people reading a
// trace: no decision hangs on them.
const (
	codeNone     = 0x00
	codeShutdown = 0x01 // the endpoint stops
	codeDropped  = 0x02 // the peer was removed or revoked
	codeExpired  = 0x03 // a certificate ran out
	codeHello    = 0x04 // no hello, or another one
	codeRefused  = 0x05 // a class this node does not serve
	codeCanceled = 0x10 // stream: the reader has left
	codeCut      = 0x11 // stream: the writer cannot finish
	codeGarbage  = 0x12 // stream: not in the class's format
)
