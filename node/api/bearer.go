package api

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
)

// Bearer checks the bearer token of a request to another surface of the same
// listener (the gateway's): the token must be of this region, known and valid.
// Nothing else than the header is read. A worker knows no tokens and asks a
// voter about this one.
func (s *Server) Bearer(r *http.Request) (*Caller, error) {
	if s.cfg.Ledger == nil {
		return s.askBearer(r)
	}
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	caller, err := s.appCaller(r, v)
	if err != nil {
		return nil, err
	}
	if caller.Kind != CallerToken {
		return nil, noBearer()
	}
	return caller, nil
}

func noBearer() error {
	return newProblem(http.StatusUnauthorized, CodeNoToken, "this needs a bearer token of this region", "send one: Authorization: Bearer TOKEN")
}

// Readers guards another surface of the same listener: some serves requests whose
// bearer token has any role that may read, all those whose role sees the jobs of
// every tenant. Without some the others are refused.
func (s *Server) Readers(some, all http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.Bearer(r)
		if err == nil {
			err = authorize(&operation{Verb: VerbRead}, caller)
		}
		if err == nil && some == nil && !caller.seesAll() {
			err = newProblem(http.StatusForbidden, CodeRole, "this shows the load of all tenants, which your token may not see", "ask an administrator for a token with the role operator or auditor")
		}
		if err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		if caller.seesAll() {
			all.ServeHTTP(w, r)
			return
		}
		some.ServeHTTP(w, r)
	})
}

const (
	// bearerLife is how long a worker believes what a voter said of a token: so
	// long a token that was revoked still counts there.
	bearerLife = 5 * time.Second
	bearersMax = 4096
)

// bearers are the tokens that a voter has just accepted, by the hash of what was
// sent. A refusal is never kept: a token may be made the next moment.
type bearers struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]accepted // guarded by mu
}

type accepted struct {
	caller *Caller
	until  time.Time // by the monotonic clock
}

// get is who a token belongs to, if that is known and it has not expired by now.
func (b *bearers) get(key [sha256.Size]byte, now time.Time) *Caller {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k, ok := b.known[key]; ok && time.Now().Before(k.until) {
		if expires := k.caller.Token.Expires; expires.IsZero() || now.Before(expires) {
			return k.caller
		}
	}
	delete(b.known, key)
	return nil
}

func (b *bearers) put(key [sha256.Size]byte, caller *Caller, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil || len(b.known) >= bearersMax {
		b.known = map[[sha256.Size]byte]accepted{}
	}
	b.known[key] = accepted{caller, until}
}

// askBearer is Bearer where no tokens are known. What shows itself that it is no
// token of this region is sent to nobody.
func (s *Server) askBearer(r *http.Request) (*Caller, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, noBearer()
	}
	if err := s.ownToken(token); err != nil {
		return nil, err
	}
	key, asked := sha256.Sum256([]byte(token)), time.Now()
	if caller := s.bearers.get(key, s.now()); caller != nil {
		return caller, nil
	}
	who, err := s.askWhoami(r)
	if err != nil {
		return nil, err
	}
	if who.Kind != string(CallerToken) || who.Region != s.cfg.Region {
		return nil, noBearer()
	}
	t := &state.Token{ID: who.ID, Roles: who.Roles, Tenant: who.Tenant, Residency: who.Residency, AllowAny: who.AllowAny, Expires: who.ExpiresAt}
	caller := &Caller{Kind: CallerToken, Region: s.cfg.Region, Token: t, Tenant: t.Tenant, Actor: t.ID}
	s.bearers.put(key, caller, asked.Add(bearerLife))
	return caller, nil
}

func (s *Server) askWhoami(r *http.Request) (*Whoami, error) {
	res, err := s.relaySend(&call{s: s, r: r, op: &operation{ID: "whoami"}}, http.MethodGet, Prefix+"/whoami", nil)
	if err != nil {
		return nil, fmt.Errorf("ask a voter about the token: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return nil, readProblem(res)
	}
	who := &Whoami{}
	if err := json.NewDecoder(io.LimitReader(res.Body, MaxBodyBytes)).Decode(who); err != nil { // a newer voter may say more
		return nil, fmt.Errorf("what a voter said of the token cannot be read: %w", err)
	}
	return who, nil
}
