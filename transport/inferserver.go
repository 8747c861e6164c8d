package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// InferBodyMax bounds the body of one inference request, in bytes.
const InferBodyMax = 100 << 20

// InferHandler answers one inference request. ctx ends when the client cancels
// or its connection is lost; [PeerFrom] tells who asks. A handler that returns
// without Close has cut its answer. It reads or refuses the body before it
// streams an answer: the client sends the whole body first.
type InferHandler func(ctx context.Context, s *Stream)

// ServeInfer sets the handler of inference streams. Until then they are refused
// with 503. It may be called before or after Run.
func (e *Endpoint) ServeInfer(h InferHandler) { e.infer.Store(&h) }

// Stream is one inference request at the node that answers it. It belongs to
// its handler and is not for concurrent use, except that Write and Read may run
// at the same time.
type Stream struct {
	// Head is the request's, already checked for form. Whether the tag permits
	// this node is for the handler to check again.
	Head Head
	// Peer is the sender by its certificate.
	Peer identity.ID

	stream   *quic.Stream
	body     io.Reader
	answered bool
	head     []byte // encoded Answer, sent with the first bytes
	done     bool
}

// Body reads the request's body. io.EOF is its whole end; anything else is a
// [CutError], and a request that was cut must not be answered from its part.
func (s *Stream) Body() io.Reader { return s.body }

// Answer sets the answer's head; it goes out with the first bytes of the body,
// or with Close. It may be called once, before Write.
func (s *Stream) Answer(a Answer) error {
	if s.answered {
		return errors.New("an inference stream was answered twice")
	}
	head, err := MarshalAnswer(a)
	if err != nil {
		return err
	}
	s.answered, s.head = true, head
	return nil
}

// Refuse answers with a code and no body, and closes the stream. The body of the
// request need not have been read.
func (s *Stream) Refuse(a Answer) error {
	if a.Code == "" {
		return errors.New("a refusal needs a code")
	}
	a.Size = 0
	if err := s.Answer(a); err != nil {
		return err
	}
	return s.Close()
}

// Write sends a part of the answer's body at once, unbuffered.
func (s *Stream) Write(p []byte) (int, error) {
	if !s.answered {
		return 0, errors.New("an inference stream was written before it was answered")
	}
	if s.head == nil {
		return s.stream.Write(p)
	}
	head := s.head
	s.head = nil
	n, err := s.stream.Write(append(head, p...))
	return max(n-len(head), 0), err
}

// Close ends the answer as a whole one.
func (s *Stream) Close() error {
	if s.done {
		return nil
	}
	if !s.answered {
		return errors.New("an inference stream was closed before it was answered")
	}
	if s.head != nil {
		if _, err := s.Write(nil); err != nil {
			return err
		}
	}
	s.done = true
	s.stream.CancelRead(codeNone)
	return s.stream.Close()
}

// Cut ends the answer as a broken one: the client's Read gives a [CutError].
// After Close it does nothing.
func (s *Stream) Cut() {
	if s.done {
		return
	}
	s.done = true
	// What was written before the cut still arrives (draft-ietf-quic-reliable-stream-reset).
	s.stream.SetReliableBoundary()
	cancelBoth(s.stream, codeCut)
}

// serveInfer answers the connection's hello on its first stream, then serves
// the others.
func (e *Endpoint) serveInfer(c *quic.Conn, peer identity.ID) {
	ctx, cancel := context.WithTimeout(c.Context(), helloTimeout)
	first, err := c.AcceptStream(ctx)
	cancel()
	if err == nil {
		if err = answerHello(first); err == nil {
			first.CancelRead(codeNone)
			// It fails where the client has read the answer and wants no more of
			// the stream, which is no fault of the connection.
			_ = first.Close()
		}
	}
	if err != nil {
		e.counts.garbage.Add(1)
		_ = c.CloseWithError(codeHello, "no hello")
		return
	}
	e.serveStreams(c, func(_ *quic.Conn, s *quic.Stream) { e.handleInfer(s, peer) })
}

// handleInfer reads one request's head and runs the handler on it.
func (e *Endpoint) handleInfer(qs *quic.Stream, peer identity.ID) {
	_ = qs.SetReadDeadline(time.Now().Add(helloTimeout))
	s := &Stream{Peer: peer, stream: qs}
	if err := readHead(qs, &s.Head); err != nil {
		e.counts.garbage.Add(1)
		e.cfg.Log.Debug("inference head refused", "peer", peer, "err", err)
		cancelBoth(qs, codeGarbage)
		return
	}
	_ = qs.SetReadDeadline(time.Time{})
	if s.Head.BodySize > InferBodyMax {
		_ = s.Refuse(Answer{Status: 413, Code: "body_too_large",
			Message: fmt.Sprintf("the body has %d bytes, the limit is %d", s.Head.BodySize, InferBodyMax)})
		return
	}
	s.body = &bodyReader{r: qs, left: s.Head.BodySize}
	h := e.infer.Load()
	if h == nil {
		_ = s.Refuse(Answer{Status: 503, Code: "not_ready", Message: "this node has just started", RetryAfter: time.Second})
		return
	}
	e.counts.inferServed.Add(1)
	e.runInfer(*h, s)
}

// runInfer calls the handler and leaves no stream half open.
func (e *Endpoint) runInfer(h InferHandler, s *Stream) {
	// The stream's context ends with its sending side: on STOP_SENDING, on the
	// connection's end, and on Close.
	ctx := WithPeer(s.stream.Context(), s.Peer)
	defer func() {
		if p := recover(); p != nil {
			e.cfg.Log.Error("an inference handler panicked", "err", p, "stack", string(debug.Stack()))
		}
		if !s.done {
			e.counts.inferCut.Add(1)
			s.Cut()
		}
	}()
	h(ctx, s)
}

// bodyReader gives exactly the announced bytes: an end before them is a cut, and
// so is anything after them.
type bodyReader struct {
	r    io.Reader
	left uint64
	err  error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.left == 0 {
		b.err = b.end()
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(uint64(len(p)), b.left)])
	b.left -= uint64(n)
	if err == io.EOF {
		if err = nil; b.left > 0 {
			err = &CutError{Err: fmt.Errorf("it ended %d bytes early", b.left)}
		} else if n == 0 {
			err = io.EOF
		}
	}
	if err != nil {
		b.err = cutFrom(err)
	}
	return n, b.err
}

// end checks that the sender has ended too: only its FIN makes the body whole.
func (b *bodyReader) end() error {
	var one [1]byte
	n, err := b.r.Read(one[:])
	switch {
	case n > 0:
		return &CutError{Err: errors.New("it has more bytes than it announced")}
	case err == io.EOF:
		return io.EOF
	case err == nil:
		return &CutError{Err: io.ErrNoProgress}
	}
	return cutFrom(err)
}
