// Package canary is a small responder that speaks the OpenAI protocol and says
// what it is: no model, but the same words for the same prompt every time.
//
// It exists to prove a path from end to end (demo, probes, tests): routing,
// streaming, cancelling, usage, errors. Every answer carries the header
// X-Sovmesh-Canary and the system fingerprint "fp_sovmesh_canary", so that nobody
// takes it for a model.
//
// A model's name may end in options after an "@": "canary@20ms" waits 20 ms
// before each token, "canary@cut=3" breaks the connection after three tokens,
// and both may be given, with a comma. The header X-Canary-Delay sets the wait too.
package canary

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fingerprint is the system_fingerprint of every answer.
const Fingerprint = "fp_sovmesh_canary"

// Header is set on every answer.
const Header = "X-Sovmesh-Canary"

// Config is what a responder needs.
type Config struct {
	Models     []string      // names it answers to
	TokenEvery time.Duration // pause before each token
	MaxBody    int64         // bytes of a request's body
	MaxTokens  int           // most tokens of one answer
}

// DefaultConfig is one model, "canary", without pauses.
func DefaultConfig() Config {
	return Config{Models: []string{"canary"}, MaxBody: 8 << 20, MaxTokens: 4096}
}

// defaultTokens is the length of an answer whose request sets none.
const defaultTokens = 16

// maxDelay bounds the pause that a caller may ask for.
const maxDelay = 10 * time.Second

// Canary is the responder; it is an http.Handler.
type Canary struct {
	cfg Config
	mux *http.ServeMux
}

// New makes a responder; it starts nothing. What cfg leaves zero has its default.
func New(cfg Config) *Canary {
	def := DefaultConfig()
	if len(cfg.Models) == 0 {
		cfg.Models = def.Models
	}
	cfg.MaxBody, cfg.MaxTokens = cmp.Or(cfg.MaxBody, def.MaxBody), cmp.Or(cfg.MaxTokens, def.MaxTokens)
	c := &Canary{cfg: cfg, mux: http.NewServeMux()}
	c.mux.HandleFunc("POST /v1/chat/completions", c.chat)
	c.mux.HandleFunc("GET /v1/models", c.models)
	c.mux.HandleFunc("GET /v1/models/{id}", c.model)
	c.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	c.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &apiError{status: 404, Type: "invalid_request_error", Code: "unknown_url",
			Message: fmt.Sprintf("the canary has no %s %s; it answers POST /v1/chat/completions and GET /v1/models", r.Method, r.URL.Path)})
	})
	return c
}

// ServeHTTP answers one request.
func (c *Canary) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(Header, "deterministic responder, no model")
	c.mux.ServeHTTP(w, r)
}

// apiError is an error in the form that OpenAI clients read.
type apiError struct {
	status  int
	Message string `json:"message"`
	Type    string `json:"type"`
	Param   string `json:"param,omitempty"`
	Code    string `json:"code,omitempty"`
}

func (e *apiError) Error() string { return e.Message }

func refuse(w http.ResponseWriter, e *apiError) {
	answer(w, e.status, map[string]*apiError{"error": e})
}

func answer(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = 500, []byte(`{"error":{"message":"the canary cannot encode its answer","type":"server_error"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func info(id string) modelInfo {
	return modelInfo{ID: id, Object: "model", Created: 1767225600, OwnedBy: "sovmesh-canary"}
}

func (c *Canary) models(w http.ResponseWriter, _ *http.Request) {
	list := []modelInfo{}
	for _, id := range c.cfg.Models {
		list = append(list, info(id))
	}
	answer(w, 200, map[string]any{"object": "list", "data": list})
}

func (c *Canary) model(w http.ResponseWriter, r *http.Request) {
	if id := r.PathValue("id"); c.has(id) {
		answer(w, 200, info(id))
	} else {
		refuse(w, c.noModel(id))
	}
}

// has compares without options, unless they are part of a configured name.
func (c *Canary) has(id string) bool {
	base, _, _ := strings.Cut(id, "@")
	return slices.Contains(c.cfg.Models, id) || slices.Contains(c.cfg.Models, base)
}

func (c *Canary) noModel(id string) *apiError {
	return &apiError{status: 404, Type: "invalid_request_error", Param: "model", Code: "model_not_found",
		Message: fmt.Sprintf("the model %q does not exist here; there are: %s", id, strings.Join(c.cfg.Models, ", "))}
}

// request is the part of a chat request that the canary reads.
type request struct {
	Model               string    `json:"model"`
	Messages            []message `json:"messages"`
	Stream              bool      `json:"stream"`
	MaxTokens           *int      `json:"max_tokens"`
	MaxCompletionTokens *int      `json:"max_completion_tokens"`
	N                   *int      `json:"n"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`

	tokens int // of the answer
	cutAt  int // break the connection after so many tokens; negative: do not
	delay  time.Duration
}

type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a string or a list of parts, of which text is read.
type content string

func (c *content) UnmarshalJSON(data []byte) error {
	var text *string
	if json.Unmarshal(data, &text) == nil {
		if text != nil {
			*c = content(*text)
		}
		return nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return errors.New("content is neither text nor a list of parts")
	}
	for _, p := range parts {
		*c += content(p.Text)
	}
	return nil
}

// parseRequest reads and checks a body.
func (c *Canary) parseRequest(body []byte, delay string) (*request, error) {
	bad := func(param, format string, args ...any) error {
		return &apiError{status: 400, Type: "invalid_request_error", Param: param, Message: fmt.Sprintf(format, args...)}
	}
	q := &request{delay: c.cfg.TokenEvery, cutAt: -1}
	if err := json.Unmarshal(body, q); err != nil {
		return nil, bad("", "the body is no chat request: %v", err)
	}
	switch {
	case q.Model == "":
		return nil, bad("model", "name a model")
	case !c.has(q.Model):
		return nil, c.noModel(q.Model)
	case len(q.Messages) == 0:
		return nil, bad("messages", "send at least one message")
	case q.N != nil && *q.N != 1:
		return nil, bad("n", "the canary gives one choice; leave n out")
	}
	q.tokens = defaultTokens
	for _, limit := range []*int{q.MaxTokens, q.MaxCompletionTokens} {
		if limit == nil {
			continue
		}
		if *limit < 1 || *limit > c.cfg.MaxTokens {
			return nil, bad("max_tokens", "max_tokens is from 1 to %d", c.cfg.MaxTokens)
		}
		q.tokens = *limit
	}
	if err := q.options(delay); err != nil {
		return nil, bad("model", "%v", err)
	}
	return q, nil
}

// options reads those in the model's name and the delay of the header.
func (q *request) options(delay string) error {
	_, list, _ := strings.Cut(q.Model, "@")
	for _, o := range append(strings.Split(list, ","), delay) {
		if o == "" {
			continue
		}
		if n, ok := strings.CutPrefix(o, "cut="); ok {
			cut, err := strconv.Atoi(n)
			if err != nil || cut < 0 {
				return fmt.Errorf("cut=%q is no number of tokens", n)
			}
			q.cutAt = cut
			continue
		}
		d, err := time.ParseDuration(o)
		if err != nil || d < 0 || d > maxDelay {
			return fmt.Errorf("the delay %q is no time from 0 to %s", o, maxDelay)
		}
		q.delay = d
	}
	return nil
}

// words are the canary's whole language.
var words = [...]string{"amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper", "kestrel", "larch", "meadow", "north", "osprey", "pine",
	"quartz", "river", "sable", "tern", "upland", "vale", "willow", "xenon", "yarrow", "zephyr", "aspen", "brook", "cairn", "dune", "elm", "fern"}

// Tokens are the n tokens answered to a prompt; the first has no leading space.
// They depend on nothing but the arguments.
func Tokens(prompt string, n int) []string {
	seed := sha256.Sum256([]byte(prompt))
	all := make([]string, n)
	for i := range all {
		block := sha256.Sum256(binary.BigEndian.AppendUint64(seed[:], uint64(i)))
		all[i] = words[int(block[0])%len(words)]
		if i > 0 {
			all[i] = " " + all[i]
		}
	}
	return all
}

func (q *request) prompt() string {
	var b strings.Builder
	for _, m := range q.Messages {
		fmt.Fprintf(&b, "%s: %s\n", m.Role, m.Content)
	}
	return b.String()
}

func (q *request) id() string {
	sum := sha256.Sum256([]byte(q.Model + "\n" + q.prompt()))
	return "chatcmpl-canary-" + hex.EncodeToString(sum[:8])
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
