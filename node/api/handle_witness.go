package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/transport"
)

// WitnessPrefix is where a region's witness is found, on both listeners.
const WitnessPrefix = Prefix + "/witness"

// Witness answers the requests of https://c2sp.org/tlog-witness in its own
// words: status, media type and body. from names who asks.
type Witness interface {
	Answer(ctx context.Context, from string, body []byte) (status int, kind string, answer []byte)
	// Seen is asked by what follows the prefix.
	Seen(from, path string) (status int, kind string, answer []byte)
}

func witnessAdd(s *Server, c *call) error {
	w, err := s.witness()
	if err != nil {
		return err
	}
	body, err := c.readBody(ledger.MaxAddCheckpoint)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), s.cfg.WriteTimeout)
	defer cancel()
	return c.writeWitness(w.Answer(ctx, c.asker(), body))
}

func witnessSeen(s *Server, c *call) error {
	w, err := s.witness()
	if err != nil {
		return err
	}
	return c.writeWitness(w.Seen(c.asker(), c.r.PathValue("sum")+"/checkpoint"))
}

func (s *Server) witness() (Witness, error) {
	if s.cfg.Witness == nil {
		return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node is no witness: voters are", "ask a voter: sovmesh node list").retry(time.Second)
	}
	return s.cfg.Witness, nil
}

// asker is whom a request of a witness counts for: a region that showed its
// certificate by itself, everybody else together.
func (c *call) asker() string {
	if c.caller.Kind == CallerForeign {
		return "region:" + string(c.caller.Region)
	}
	return "anonymous"
}

// writeWitness answers in the protocol's own words: its clients know no problem
// documents.
func (c *call) writeWitness(status int, kind string, answer []byte) error {
	h := c.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(answer)))
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	c.w.WriteHeader(status)
	_, _ = c.w.Write(answer) // the caller is gone: nobody to tell
	return nil
}

// Witness asks the witness of another region; the path is below its prefix. An
// answer of any status is no error.
func (m *MeshClient) Witness(ctx context.Context, p transport.Peer, method, path string, body []byte) (status int, kind string, answer []byte, err error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+p.Addr+WitnessPrefix+"/"+path, in)
	if err != nil {
		return 0, "", nil, fmt.Errorf("ask %s: %w", p.Addr, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	res, err := m.mesh.Do(ctx, p, cargo(transport.CargoCheckpoint), req)
	if err != nil {
		return 0, "", nil, err
	}
	return ReadWitness(res)
}

// ReadWitness reads a witness's answer, bounded, and closes it.
func ReadWitness(res *http.Response) (status int, kind string, answer []byte, err error) {
	defer res.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(res.Body, ledger.MaxCheckpoint+1))
	if err != nil {
		return 0, "", nil, fmt.Errorf("read the answer of a witness: %w", err)
	}
	if len(answer) > ledger.MaxCheckpoint {
		return 0, "", nil, fmt.Errorf("the answer of a witness has more than %d bytes", ledger.MaxCheckpoint)
	}
	kind, _, _ = strings.Cut(res.Header.Get("Content-Type"), ";")
	return res.StatusCode, strings.TrimSpace(kind), answer, nil
}
