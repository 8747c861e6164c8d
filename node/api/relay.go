package api

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/transport"
)

// relay passes a request on to a voter of the own region, over HTTP/3: a worker
// holds no state, so it can neither know tokens nor judge. Of a submit it sends
// the headers first; only what the voter would take is read here.
func (s *Server) relay(c *call) error {
	if c.r.Header.Get(HeaderRelayed) != "" {
		return newProblem(http.StatusLoopDetected, CodeUnavailable, "the request was passed on twice", "ask a voter: sovmesh node list")
	}
	// Whoever asks is known to a voter alone: of a body nothing is read, let alone
	// 16 MiB, before a voter knows the caller and would take it.
	if c.op.Unread || c.r.ContentLength != 0 {
		if err := s.relayJudge(c); err != nil {
			return err
		}
	}
	if c.op.Duplex {
		return c.ending(s.relayFrames(c))
	}
	var body []byte
	if c.r.ContentLength != 0 {
		var err error
		if body, err = c.readBody(c.op.bodyMax()); err != nil {
			return err
		}
	}
	res, err := s.relaySend(c, c.r.Method, c.r.URL.RequestURI(), body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	h := c.w.Header()
	for _, name := range []string{"Content-Type", "Cache-Control", "Location", "Retry-After", HeaderIndex, HeaderShouldRetry, "Www-Authenticate", "X-Accel-Buffering"} {
		if v := res.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	h[HeaderReceipt] = res.Header[HeaderReceipt]
	if c.op.Stream != "" && res.StatusCode/100 == 2 {
		return c.copyStream(res.Header.Get("Content-Type"), res.Body)
	}
	c.w.WriteHeader(res.StatusCode)
	if _, err := io.Copy(c.w, res.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// relayFrames passes a session on to the first voter that is reached.
func (s *Server) relayFrames(c *call) error {
	body, stop := c.feed(func(io.Writer) error { return nil })
	defer stop()
	var last error
	for _, peer := range s.cfg.Voters() {
		// A connection that cannot be made has read nothing of the body.
		req, err := http.NewRequestWithContext(c.r.Context(), http.MethodPost, "https://"+peer.Addr+c.r.URL.RequestURI(), io.NopCloser(body))
		if err != nil {
			return fmt.Errorf("pass %s on: %w", c.op.ID, err)
		}
		for _, name := range []string{"Authorization", "Content-Type"} {
			if v, ok := c.r.Header[name]; ok {
				req.Header[name] = v
			}
		}
		req.Header.Set(HeaderRelayed, addressOf(c.r.RemoteAddr))
		res, err := s.cfg.Peers.Do(c.r.Context(), peer, s.passedOn(c), req)
		if err != nil {
			last = err
			continue
		}
		defer res.Body.Close()
		if res.StatusCode/100 != 2 {
			res.Request = req
			return readProblem(res)
		}
		c.w.Header()[HeaderReceipt] = res.Header[HeaderReceipt]
		return c.passFrames(c.answerFrames(), res.Body)
	}
	s.cfg.Log.Warn("no voter took a session", "op", c.op.ID, "err", last)
	return newProblem(http.StatusServiceUnavailable, CodeLeaderUnknown, "no voter of this region answers", "ask again; see the voters: sovmesh node list").retry(time.Second)
}

// passedOn is what a relayed request goes as. Whose it is a voter alone knows: those
// with one token share a connection, which by chance are others' as well.
func (s *Server) passedOn(c *call) transport.Cargo {
	out := cargo(transport.CargoStatus)
	out.Lasting = transport.LastingSession
	out.Whose = fmt.Sprintf("relayed %d", maphash.String(s.seed, c.r.Header.Get("Authorization"))%relayParts)
	return out
}

// relayParts is among how many connections relayed requests part, by a seed that
// nobody outside knows.
const relayParts = 16

// bodyMax is how much of a body an operation takes.
func (op *operation) bodyMax() int64 {
	switch op.ID {
	case "importLaw":
		return MaxLawBytes
	case "submitJob":
		return MaxJobBytes
	}
	return MaxBodyBytes
}

// relayJudge asks a voter whether it would take a body with these headers.
func (s *Server) relayJudge(c *call) error {
	res, err := s.relaySend(c, http.MethodPost, MeshPrefix+"/judge?op="+c.op.ID, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 == 2 {
		return nil
	}
	return readProblem(res)
}

// relaySend tries the voters in turn while nothing of the request can have had
// an effect.
func (s *Server) relaySend(c *call, method, uri string, body []byte) (*http.Response, error) {
	var last error
	for _, peer := range s.cfg.Voters() {
		req, err := http.NewRequestWithContext(c.r.Context(), method, "https://"+peer.Addr+uri, nil)
		if err != nil {
			return nil, fmt.Errorf("pass %s on: %w", uri, err)
		}
		if body != nil {
			req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		}
		for _, name := range []string{"Authorization", "Content-Type", HeaderResidency, HeaderIdempotency, "Last-Event-Id"} {
			if v, ok := c.r.Header[name]; ok {
				req.Header[name] = v
			}
		}
		req.Header.Set(HeaderRelayed, addressOf(c.r.RemoteAddr))
		res, err := s.cfg.Peers.Do(c.r.Context(), peer, s.passedOn(c), req)
		if err == nil {
			res.Request = req
			return res, nil
		}
		last = err
		var gone *transport.UnreachableError
		if !errors.As(err, &gone) {
			break
		}
	}
	p := newProblem(http.StatusServiceUnavailable, CodeLeaderUnknown, "no voter of this region answers", "ask again; see the voters: sovmesh node list").retry(time.Second)
	if last != nil {
		s.cfg.Log.Warn("no voter took a request", "op", c.op.ID, "err", last)
	}
	return nil, p
}

// judgeRelayed is the voter's part: it judges the caller and the headers that a
// worker of the region passes on, as if the request had come here.
func judgeRelayed(s *Server, c *call) error {
	id := c.r.URL.Query().Get("op")
	at := slices.IndexFunc(s.ops, func(op operation) bool { return op.ID == id })
	if at < 0 || !s.ops[at].Relay || strings.HasPrefix(s.ops[at].Path, MeshPrefix) {
		return &InputError{Code: CodeUsage, Message: "there is no operation " + quoteWord(id) + " to judge", Help: "name one of " + Prefix + "/openapi.json"}
	}
	op := &s.ops[at]
	if err := authorize(op, c.caller); err != nil {
		return err
	}
	if op.Unread {
		if _, err := s.judgeSubmit(c); err != nil {
			return err
		}
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
