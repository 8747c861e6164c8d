package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/transport"
)

// wholeMax is how much of an answer that does not stream is held back until its
// end, in bytes: a cut before that is a clean error, or another replica.
const wholeMax = 8 << 20

// faultMax bounds the body of an error of a model server, in bytes.
const faultMax = 1 << 20

// errUnfinished is the end of a stream without its mark.
var errUnfinished = errors.New("the stream ended without [DONE]")

// relay passes one answer on to the client. Until committed is set nothing has
// reached the client, and another answer may take its place.
type relay struct {
	w         http.ResponseWriter
	hop       Hop
	watch     *watch
	idle      time.Duration // longest pause between two parts of the answer
	strip     bool          // drop the usage chunk that the gateway asked for
	started   time.Time
	target    target
	home      bool // the target is in this region
	kept      *keeping
	committed bool
	usage     *Usage
}

// run passes the answer on. An error means that it is not whole; what is to be
// done depends on committed.
func (r *relay) run(ctx context.Context) error {
	a := r.hop.Head()
	switch {
	case a.Status >= 400:
		return r.fault(ctx, a)
	case eventStream(a.ContentType):
		return r.stream(ctx)
	}
	return r.whole(ctx, a)
}

// commit sends the header of the answer.
func (r *relay) commit(status int, contentType string, size int64) {
	h := r.w.Header()
	if contentType == "" {
		contentType = "application/json"
	}
	h.Set("Content-Type", contentType)
	if size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	h.Set("X-Sovmesh-Region", string(r.target.region))
	hops := 1
	if r.home {
		hops = 0
		h.Set("X-Sovmesh-Node", string(r.target.node))
	}
	h.Set("X-Sovmesh-Hops", strconv.Itoa(hops))
	h.Set("Openai-Processing-Ms", strconv.FormatInt(time.Since(r.started).Milliseconds(), 10))
	r.w.WriteHeader(status)
	r.committed = true
}

// stream passes events on as they come, each as a whole. Only a stream that had
// its [DONE] is whole, however cleanly the model server closed it.
func (r *relay) stream(ctx context.Context) error {
	in := newEvents()
	buf := make([]byte, 16<<10)
	done := false
	for {
		n, err := r.hop.Read(buf)
		if n > 0 {
			r.watch.heard(r.idle)
			if fault := in.add(buf[:n]); fault != nil {
				return fault
			}
		}
		end, fault := r.pass(ctx, in, err == io.EOF)
		if done = done || end; fault != nil {
			return fault
		}
		switch {
		case err == nil:
		case done:
			return nil // what breaks behind [DONE] takes nothing away
		case err == io.EOF:
			return errUnfinished
		default:
			return err
		}
	}
}

// pass writes the whole events that have come, and flushes them together.
func (r *relay) pass(ctx context.Context, in *events, ended bool) (done bool, err error) {
	var out []byte
	var sent meaning
	event := in.next()
	if event == nil && ended {
		event = in.last()
	}
	for ; event != nil; event = in.next() {
		m := read(event)
		if m.usage != nil {
			r.usage = m.usage
		}
		sent.done, sent.fault = sent.done || m.done, sent.fault || m.fault
		if !r.strip || !m.bare {
			out = append(out, event...)
		}
	}
	if in.overlong() {
		return false, errEventTooLong
	}
	if len(out) == 0 {
		return sent.done, nil
	}
	if !r.committed {
		if err := r.promised(ctx); err != nil {
			return false, err
		}
		r.commit(http.StatusOK, r.hop.Head().ContentType, -1)
	}
	if _, err := r.write(out); err != nil {
		return false, errLeft
	}
	if err := http.NewResponseController(r.w).Flush(); err != nil {
		return false, errLeft
	}
	if sent.fault {
		return false, errToldByUpstream
	}
	return sent.done, nil
}

// errToldByUpstream ends a stream in which the model server itself sent an
// error event: it has been passed on, and no second one follows.
var errToldByUpstream = errors.New("the model server ended its stream with an error")

// whole passes on an answer that does not stream. It is held back up to
// wholeMax bytes, so that a cut can still become an error or another attempt.
func (r *relay) whole(ctx context.Context, a transport.Answer) error {
	var held bytes.Buffer
	n, err := io.Copy(&held, io.LimitReader(heard{r.hop, r.watch, r.idle}, wholeMax+1))
	if err != nil {
		return err
	}
	if n <= wholeMax {
		var c chunk
		if json.Unmarshal(held.Bytes(), &c) == nil {
			r.usage = c.Usage.usage()
		}
		if err := r.complete(ctx, held.Bytes(), ReceiptAnswered, a.Status); err != nil {
			return err
		}
		r.commit(int(a.Status), a.ContentType, n)
		if _, err := r.w.Write(held.Bytes()); err != nil {
			return errLeft
		}
		return nil
	}
	if err := r.promised(ctx); err != nil {
		return err
	}
	r.commit(int(a.Status), a.ContentType, a.Size)
	if _, err := r.write(held.Bytes()); err != nil {
		return errLeft
	}
	into := heard{r.hop, r.watch, r.idle}
	if _, err := io.Copy(writerFunc(r.write), into); err != nil {
		return err
	}
	return nil
}

// heard tells the watch of each part that comes.
type heard struct {
	hop   Hop
	watch *watch
	idle  time.Duration
}

func (h heard) Read(p []byte) (int, error) {
	n, err := h.hop.Read(p)
	if n > 0 {
		h.watch.heard(h.idle)
	}
	return n, err
}

// fault passes an error of the model server on, in OpenAI's form: llama.cpp
// sends numbers as codes, others a bare text.
func (r *relay) fault(ctx context.Context, a transport.Answer) error {
	body, err := io.ReadAll(io.LimitReader(heard{r.hop, r.watch, r.idle}, faultMax))
	if err != nil {
		return err
	}
	if a.RetryAfter > 0 {
		r.w.Header().Set("Retry-After", strconv.Itoa(seconds(a.RetryAfter)))
	}
	body = openAIError(int(a.Status), body)
	if err := r.complete(ctx, body, ReceiptFailed, a.Status); err != nil {
		return err
	}
	r.commit(int(a.Status), "application/json", int64(len(body)))
	if _, err := r.w.Write(body); err != nil {
		return errLeft
	}
	return nil
}

// write sends a part of the answer, which its receipt covers.
func (r *relay) write(p []byte) (int, error) {
	r.kept.wrote(p)
	return r.w.Write(p)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// promised puts the receipt's id into the header of an answer that begins.
func (r *relay) promised(ctx context.Context) error {
	id, e := r.kept.promise(ctx)
	if e != nil {
		return e
	}
	r.head(id)
	return nil
}

// complete finishes the receipt of an answer that is here as a whole, before
// any of it goes out.
func (r *relay) complete(ctx context.Context, body []byte, o ReceiptOutcome, status uint16) error {
	r.kept.wrote(body)
	id, e := r.kept.finish(ctx, o, int(status))
	if e != nil {
		return e
	}
	r.head(id)
	return nil
}

func (r *relay) head(id string) {
	if id != "" {
		r.w.Header().Set(receiptHeader, id)
	}
}

// settle finishes the receipt of an answer that streamed, before its end goes
// out.
func (r *relay) settle(ctx context.Context) error {
	if _, e := r.kept.finish(ctx, ReceiptAnswered, int(r.hop.Head().Status)); e != nil {
		return fmt.Errorf("%w: %w", errNoEvidence, e)
	}
	return nil
}

// openAIError gives an upstream's error the form that every SDK reads.
func openAIError(status int, body []byte) []byte {
	var theirs struct {
		Error struct {
			Message string `json:"message"`
			Type    string `json:"type"`
			Param   any    `json:"param"`
			Code    any    `json:"code"`
		} `json:"error"`
	}
	e := &Error{Status: status, Code: "upstream_error"}
	if json.Unmarshal(body, &theirs) != nil || theirs.Error.Message == "" {
		e.Message = fmt.Sprintf("the model server answered with status %d: %s", status, clean(string(body[:min(len(body), 500)]), 500))
		return e.wire()
	}
	out := wireError{errorBody{Message: theirs.Error.Message, Type: theirs.Error.Type}}
	if out.Error.Type == "" {
		out.Error.Type = e.kind()
	}
	switch code := theirs.Error.Code.(type) {
	case string:
		out.Error.Code = &code
	case float64:
		text := strconv.FormatFloat(code, 'f', -1, 64)
		out.Error.Code = &text
	}
	if param, ok := theirs.Error.Param.(string); ok {
		out.Error.Param = &param
	}
	encoded, err := json.Marshal(out)
	if err != nil {
		return e.wire()
	}
	return encoded
}

// abort ends an answer of which a part has reached the client: with an error
// event where it streams, and always with a broken body, never a clean end. It
// does not return.
func (r *relay) abort(ctx context.Context, e *Error) {
	streams := eventStream(r.hop.Head().ContentType)
	if streams && ctx.Err() == nil {
		event := append(append([]byte("data: "), e.wire()...), "\n\n"...)
		if _, err := r.w.Write(event); err == nil {
			_ = http.NewResponseController(r.w).Flush()
		}
	}
	panic(http.ErrAbortHandler)
}
