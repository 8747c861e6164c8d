package api

import "net/http"

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
