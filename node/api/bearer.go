package api

import (
	"fmt"
	"io"
	"net/http"
)

// Bearer checks the bearer token of a request to another surface of the same
// listener (the gateway's): the token must be of this region, known and valid.
// Nothing else than the header is read.
func (s *Server) Bearer(r *http.Request) (*Caller, error) {
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	caller, err := s.appCaller(r, v)
	if err != nil {
		return nil, err
	}
	if caller.Kind != CallerToken {
		return nil, newProblem(http.StatusUnauthorized, CodeNoToken, "this needs a bearer token of this region", "send one: Authorization: Bearer TOKEN")
	}
	return caller, nil
}

// Readers guards another surface of the same listener: h serves requests whose
// bearer token has any role that may read. A worker knows no tokens and asks a
// voter about this one.
func (s *Server) Readers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.reader(r); err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) reader(r *http.Request) error {
	if s.cfg.Ledger != nil {
		caller, err := s.Bearer(r)
		if err != nil {
			return err
		}
		return authorize(&operation{Verb: VerbRead}, caller)
	}
	if r.Header.Get("Authorization") == "" { // no voter has to be asked
		return newProblem(http.StatusUnauthorized, CodeNoToken, "this needs a bearer token of this region", "send one: Authorization: Bearer TOKEN")
	}
	res, err := s.relaySend(&call{s: s, r: r, op: &operation{ID: "readers"}}, http.MethodGet, Prefix+"/whoami", nil)
	if err != nil {
		return fmt.Errorf("ask a voter about the token: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return readProblem(res)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, MaxBodyBytes))
	return err
}
