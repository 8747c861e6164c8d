package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// InferStream is an answer at the node that asked. It is not for concurrent use,
// except Close.
type InferStream struct {
	// Answer is the answer's head.
	Answer Answer
	// Peer is who answered, by its certificate.
	Peer identity.ID

	stream *quic.Stream
	body   io.Reader
	stop   func() bool // ends the watch on the caller's context
	once   sync.Once
	ctx    context.Context // the caller's, to name the cause of a cut
}

// OpenInfer sends an inference request, head and body in one write, and waits
// for the answer's head. ctx governs the whole stream: its end cancels the
// request at the peer. The caller closes the stream.
//
// The guard is asked first when the peer's region is not home; cargo is of kind
// inference. A stale connection is replaced once: a prompt whose connection was
// reset before any byte of its answer is not being worked on any more.
func (e *Endpoint) OpenInfer(ctx context.Context, p Peer, cargo Cargo, head Head, body []byte) (*InferStream, error) {
	p = e.complete(p)
	if cargo.Kind != CargoInference {
		return nil, &EgressError{From: e.cfg.Home, To: p.ID.Region, Kind: cargo.Kind, Err: ErrWrongClass}
	}
	if err := e.permit(ctx, p.ID.Region, cargo); err != nil {
		return nil, err
	}
	head.BodySize = uint64(len(body))
	if head.BodySize > InferBodyMax {
		return nil, fmt.Errorf("a prompt of %d bytes is longer than %d", head.BodySize, InferBodyMax)
	}
	message, err := MarshalHead(head)
	if err != nil {
		return nil, err
	}
	message = append(message, body...)

	var out *InferStream
	c, err := e.openStream(ctx, identity.ClassInfer, p, lostWork, func(s *quic.Stream) error {
		out, err = ask(ctx, s, message)
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Peer, err = identity.PeerID(c.ConnectionState().TLS)
	if err != nil {
		_ = out.Close()
		return nil, err
	}
	return out, nil
}

// lostWork reports whether the peer's process has let go of the connection, and
// with it of every request on it. Silence does not say that.
func lostWork(err error) bool {
	var reset *quic.StatelessResetError
	var closed *quic.ApplicationError
	return errors.As(err, &reset) || errors.As(err, &closed) && closed.Remote
}

// ask writes the request and reads the answer's head.
func ask(ctx context.Context, s *quic.Stream, message []byte) (*InferStream, error) {
	in := &InferStream{stream: s, ctx: ctx}
	in.stop = context.AfterFunc(ctx, func() { cancelBoth(s, codeCanceled) })
	answer, err := exchange(s, message)
	if err != nil {
		in.stop()
		return nil, err
	}
	in.Answer = answer
	if answer.Size >= 0 {
		in.body = &bodyReader{r: s, left: uint64(answer.Size)}
	} else {
		in.body = streamReader{s}
	}
	return in, nil
}

func exchange(s *quic.Stream, message []byte) (Answer, error) {
	// A node that refuses unread stops the sending of the body, and its answer is
	// there to be read: that a write or the FIN failed says nothing by itself.
	_, err := s.Write(message)
	var stopped *quic.StreamError
	if err != nil && !errors.As(err, &stopped) {
		return Answer{}, cutFrom(err)
	}
	if err == nil {
		_ = s.Close()
	}
	answer, err := ReadAnswer(s)
	if err != nil {
		return Answer{}, cutFrom(err)
	}
	return answer, nil
}

// streamReader tells a cut from an end.
type streamReader struct{ s *quic.Stream }

func (r streamReader) Read(p []byte) (int, error) {
	n, err := r.s.Read(p)
	return n, cutFrom(err)
}

// Read gives the answer's body as it comes. io.EOF is its whole end; anything
// else is a [CutError], also when the caller's context ended.
func (s *InferStream) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	if cause := context.Cause(s.ctx); cause != nil {
		err = &CutError{Code: codeCanceled, Err: cause}
	}
	return n, err
}

// Close lets go of the stream. Before the body's end this cancels the request
// at the peer. It may be called more than once.
func (s *InferStream) Close() error {
	s.once.Do(func() {
		s.stop()
		cancelBoth(s.stream, codeCanceled)
	})
	return nil
}
