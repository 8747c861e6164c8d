package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// sdk is the real OpenAI client for Go, pointed at a node as a user would.
func (n *node) sdk(key string, opts ...option.RequestOption) openai.Client {
	all := []option.RequestOption{
		option.WithBaseURL(n.url + "/v1/"), option.WithAPIKey(key), option.WithHTTPClient(n.http), option.WithMaxRetries(0),
	}
	return openai.NewClient(append(all, opts...)...)
}

func tagged(tag string) option.RequestOption { return option.WithHeader(residencyHeader, tag) }

func chat(model string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
	}
}

// within is a deadline for what should take milliseconds.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// alone is one region FR of one node that serves "m" from s.
func alone(t *testing.T, h func(http.ResponseWriter, *http.Request), change func(*Config)) (*node, *server, *book) {
	b := newBook(t, "fra-1", "FR", 1)
	s := newServer(t, h)
	b.deploy("default", "EU", "m", s.url, "n1")
	return newNet(t, b).start(b, "n1", change), s, b
}

func TestSDKChat(t *testing.T) {
	n, s, _ := alone(t, talk("paris"), nil)
	c := n.sdk("sk-eu")
	var raw *http.Response
	got, err := c.Chat.Completions.New(within(t), chat("m"), option.WithResponseInto(&raw))
	if err != nil {
		t.Fatal(err)
	}
	if got.Choices[0].Message.Content != "paris" || got.Usage.CompletionTokens != 3 {
		t.Errorf("answer %+v", got)
	}
	for name, want := range map[string]string{
		"X-Sovmesh-Region": "fra-1", "X-Sovmesh-Node": "n1", "X-Sovmesh-Hops": "0", "Cache-Control": "no-cache", "X-Accel-Buffering": "no",
	} {
		if raw.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, raw.Header.Get(name), want)
		}
	}
	if !strings.HasPrefix(raw.Header.Get("X-Request-Id"), "req_") || raw.Header.Get("Openai-Processing-Ms") == "" {
		t.Errorf("headers %v", raw.Header)
	}
	// No header of the client reaches the model server but those that are named.
	up := s.requests()[0].header
	for _, name := range []string{"Authorization", "X-Stainless-Lang", residencyHeader, "Cookie"} {
		if up.Get(name) != "" {
			t.Errorf("the model server got %s: %q", name, up.Get(name))
		}
	}
	if up.Get("X-Request-Id") != raw.Header.Get("X-Request-Id") {
		t.Errorf("the model server logs request %q, the client %q", up.Get("X-Request-Id"), raw.Header.Get("X-Request-Id"))
	}
	count := n.Snapshot()
	if len(count) != 1 || count[0].Answered != 1 || count[0].PromptTokens != 5 || count[0].CompletionTokens != 3 {
		t.Errorf("counted %+v", count)
	}
}

func TestSDKStream(t *testing.T) {
	n, s, _ := alone(t, talk("paris"), nil)
	for _, asksForUsage := range []bool{false, true} {
		c, params := n.sdk("sk-eu"), chat("m")
		if asksForUsage {
			params.StreamOptions.IncludeUsage = openai.Bool(true)
		}
		st := c.Chat.Completions.NewStreaming(within(t), params)
		var said string
		usage := 0
		for st.Next() {
			chunk := st.Current()
			if len(chunk.Choices) == 0 {
				usage++
				continue
			}
			said += chunk.Choices[0].Delta.Content
		}
		if err := st.Err(); err != nil || said != "paris says hello" {
			t.Errorf("%q, %v", said, err)
		}
		if (usage == 1) != asksForUsage {
			t.Errorf("asked for usage: %v, got %d usage chunks", asksForUsage, usage)
		}
	}
	if up := s.requests()[0].body; !strings.Contains(up, `"stream_options":{"include_usage":true}`) {
		t.Errorf("the model server was not asked to count: %s", up)
	}
	eventually(t, "both are counted", func() bool {
		got := n.Snapshot()[0]
		return got.Answered == 2 && got.PromptTokens == 10 && got.CompletionTokens == 6 && got.Uncounted == 0
	})
}

func TestSDKEmbeddingsAndModels(t *testing.T) {
	n, _, b := alone(t, talk("paris"), nil)
	b.deploy("acme", "EU", "secret", "http://127.0.0.1:1", "n1")
	b.deploy("default", "EU", "meta/llama-3", "http://127.0.0.1:1", "n1")
	c := n.sdk("sk-eu")
	e, err := c.Embeddings.New(within(t), openai.EmbeddingNewParams{Model: "m", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("x")}})
	if err != nil || len(e.Data) != 1 || e.Data[0].Embedding[1] != 0.25 {
		t.Errorf("embeddings %+v, %v", e, err)
	}
	page, err := c.Models.List(within(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range page.Data {
		names = append(names, m.ID)
	}
	if strings.Join(names, " ") != "m meta/llama-3" {
		t.Errorf("models %q: those of another tenant are not to be seen, shared ones are", names)
	}
	if m, err := c.Models.Get(within(t), "meta/llama-3"); err != nil || m.ID != "meta/llama-3" || m.Object != "model" {
		t.Errorf("model %+v, %v", m, err)
	}
	if _, err := c.Models.Get(within(t), "secret"); status(err) != 404 {
		t.Errorf("another tenant's model: %v", err)
	}
	own := n.sdk("sk-acme")
	if _, err := own.Models.Get(within(t), "secret"); err != nil {
		t.Errorf("the tenant's own model: %v", err)
	}
	narrowed := n.sdk("sk-eu", tagged("DE"))
	if page, err := narrowed.Models.List(within(t)); err != nil || len(page.Data) != 0 {
		t.Errorf("models for DE: %+v, %v", page, err)
	}
}

func status(err error) int {
	var e *openai.Error
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

func TestSDKErrorsAreTyped(t *testing.T) {
	n, s, b := alone(t, talk("paris"), nil)
	ber := newBook(t, "ber-1", "DE", 1)
	federate(b, ber)
	n.peers.learn(ber)
	b.deploy("default", "EU", "waiting", "http://127.0.0.1:1")
	n.peers.mu.Lock()
	n.peers.models["ber-1"], n.peers.up["ber-1"] = []string{"far"}, false
	n.peers.mu.Unlock()
	tests := []struct {
		name, key, tag, model string
		status                int
		code                  string
		retry                 string // x-should-retry
		after                 bool   // Retry-After of at most 60
	}{
		{"unknown key", "sk-nobody", "", "m", 401, "invalid_api_key", "false", false},
		{"too many", "sk-busy", "", "m", 429, "rate_limit_exceeded", "", true},
		{"no tag anywhere", "sk-plain", "", "m", 400, "residency_required", "false", false},
		{"a word that is no place", "sk-eu", "Europe", "m", 400, "tag.unknown-place", "false", false},
		{"ANY without permission", "sk-eu", "ANY", "m", 403, "residency_any_not_permitted", "false", false},
		{"header and key exclude each other", "sk-eu", "US", "m", 403, "residency_not_permitted", "false", false},
		{"this node is outside", "sk-eu", "DE", "m", 421, "residency.misdirected", "false", false},
		{"served outside of the tag only", "sk-eu", "FR", "far", 403, "residency_not_permitted", "false", false},
		{"unknown model", "sk-eu", "", "none", 404, "model_not_found", "false", false},
		{"no replica runs", "sk-eu", "", "waiting", 503, "no_capacity_in_region", "", true},
		{"region out of contact", "sk-eu", "", "far", 503, "region_unknown", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var opts []option.RequestOption
			if tt.tag != "" {
				opts = append(opts, tagged(tt.tag))
			}
			c := n.sdk(tt.key, opts...)
			_, err := c.Chat.Completions.New(within(t), chat(tt.model))
			var e *openai.Error
			if !errors.As(err, &e) {
				t.Fatalf("not the SDK's error: %v", err)
			}
			if e.StatusCode != tt.status || e.Code != tt.code || e.Message == "" || e.Type == "" {
				t.Errorf("status %d, code %q, type %q: %s", e.StatusCode, e.Code, e.Type, e.Message)
			}
			h := e.Response.Header
			if got := h.Get("X-Should-Retry"); got != tt.retry {
				t.Errorf("x-should-retry %q, want %q", got, tt.retry)
			}
			if got := h.Get("Retry-After"); (got != "") != tt.after || len(got) > 2 {
				t.Errorf("retry-after %q", got)
			}
			if h.Get("X-Request-Id") == "" {
				t.Error("no request id")
			}
		})
	}
	if got := s.requests(); len(got) != 0 {
		t.Errorf("the model server saw %d of the refused requests", len(got))
	}
}

func TestSDKRetries(t *testing.T) {
	n, _, b := alone(t, talk("paris"), nil)
	b.deploy("default", "EU", "waiting", "http://127.0.0.1:1")
	var tries atomic.Int32
	counting := *n.http
	next := counting.Transport
	counting.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		tries.Add(1)
		resp, err := next.RoundTrip(r)
		if err == nil {
			resp.Header.Set("Retry-After-Ms", "1") // do not wait in a test
		}
		return resp, err
	})
	for _, tt := range []struct {
		tag, model string
		want       int32
	}{{"US", "m", 1}, {"", "none", 1}, {"", "waiting", 3}} {
		tries.Store(0)
		opts := []option.RequestOption{option.WithHTTPClient(&counting), option.WithMaxRetries(2)}
		if tt.tag != "" {
			opts = append(opts, tagged(tt.tag))
		}
		c := n.sdk("sk-eu", opts...)
		if _, err := c.Chat.Completions.New(within(t), chat(tt.model)); err == nil {
			t.Fatal("answered")
		}
		if got := tries.Load(); got != tt.want {
			t.Errorf("tag %q, model %q: %d tries, want %d", tt.tag, tt.model, got, tt.want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSDKSeesACut(t *testing.T) {
	cut := func(w http.ResponseWriter, r *http.Request) {
		stream(chunkOf("one"), chunkOf(" two"))(w, r)
		panic(http.ErrAbortHandler)
	}
	half := func(w http.ResponseWriter, r *http.Request) {
		stream(chunkOf("one"), chunkOf(" two"), strings.TrimSuffix(chunkOf(" three"), "\n\n"))(w, r)
	}
	tests := []struct {
		name string
		h    func(http.ResponseWriter, *http.Request)
		says string
	}{
		{"the connection breaks", cut, "upstream_cut"},
		{"a clean end without [DONE]", stream(chunkOf("one"), chunkOf(" two")), "upstream_cut"},
		{"an end within an event", half, "upstream_cut"},
		{"an error of the model server", stream(chunkOf("one"), chunkOf(" two"), `data: {"error":{"message":"out of memory","type":"server_error","code":"oom"}}`+"\n\n"), "out of memory"},
		{"silence", func(w http.ResponseWriter, r *http.Request) {
			stream(chunkOf("one"), chunkOf(" two"))(w, r)
			<-r.Context().Done()
		}, "upstream_timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, _, _ := alone(t, tt.h, func(c *Config) { c.IdleTimeout = 200 * time.Millisecond })
			c := n.sdk("sk-eu")
			st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
			var said string
			for st.Next() {
				said += st.Current().Choices[0].Delta.Content
			}
			if st.Err() == nil {
				t.Fatalf("the cut answer %q was taken for a whole one", said)
			}
			if said != "one two" || !strings.Contains(st.Err().Error(), tt.says) {
				t.Errorf("said %q, then %v", said, st.Err())
			}
			eventually(t, "it is counted as cut", func() bool {
				got := n.Snapshot()
				return len(got) == 1 && got[0].Cut == 1 && got[0].Answered == 0
			})
		})
	}
}

func TestSDKCancelReachesTheModel(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Content-Type"), "json") {
			stream(chunkOf("one"))(w, r)
		}
		<-r.Context().Done()
	}
	t.Run("streaming", func(t *testing.T) {
		n, s, _ := alone(t, hang, nil)
		ctx, cancel := context.WithCancel(within(t))
		c := n.sdk("sk-eu")
		st := c.Chat.Completions.NewStreaming(ctx, chat("m"))
		if !st.Next() {
			t.Fatal(st.Err())
		}
		cancelled(t, s, cancel)
		if n.InFlight() != 0 {
			eventually(t, "no request is in flight", func() bool { return n.InFlight() == 0 })
		}
	})
	t.Run("not streaming", func(t *testing.T) {
		began := make(chan struct{})
		n, s, _ := alone(t, func(w http.ResponseWriter, r *http.Request) { close(began); <-r.Context().Done() }, nil)
		ctx, cancel := context.WithCancel(within(t))
		c := n.sdk("sk-eu")
		failed := make(chan error, 1)
		go func() {
			_, err := c.Chat.Completions.New(ctx, chat("m"))
			failed <- err
		}()
		<-began
		cancelled(t, s, cancel)
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("the client got %v", err)
		}
	})
}

// cancelled measures from the client's hang-up to the model server's knowledge.
func cancelled(t *testing.T, s *server, cancel func()) {
	t.Helper()
	start := time.Now()
	cancel()
	select {
	case <-s.left:
		t.Logf("the model server knew after %v", time.Since(start))
	case <-time.After(20 * time.Second):
		t.Fatal("the model server goes on for a client that has left")
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		<-tick.C
	}
}

func TestSDKTimeoutIsHonoured(t *testing.T) {
	n, s, _ := alone(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(c *Config) { c.HeaderTimeout = time.Hour })
	// The header alone: the SDK itself waits on.
	c := n.sdk("sk-eu", option.WithHeader("X-Stainless-Timeout", "0.2"))
	_, err := c.Chat.Completions.New(within(t), chat("m"))
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != 504 || e.Code != "upstream_timeout" {
		t.Errorf("got %v", err)
	}
	<-s.left
}

func TestUpstreamErrorsKeepTheirForm(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		status     int
		after      string
		code, says string
	}{
		{"busy", `{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}`, 429, "120", "rate_limit_exceeded", "slow down"},
		{"a number as code", `{"error":{"code":400,"message":"bad","type":"invalid_request_error"}}`, 400, "", "400", "bad"},
		{"no JSON", "<html>oops</html>", 500, "", "upstream_error", "oops"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, _, _ := alone(t, func(w http.ResponseWriter, r *http.Request) {
				if tt.after != "" {
					w.Header().Set("Retry-After", tt.after)
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			}, nil)
			c := n.sdk("sk-eu")
			st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
			if st.Next() {
				t.Fatal("an event")
			}
			var e *openai.Error
			if !errors.As(st.Err(), &e) || e.StatusCode != tt.status || e.Code != tt.code || !strings.Contains(e.Message, tt.says) {
				t.Fatalf("got %v", st.Err())
			}
			if got := e.Response.Header.Get("Retry-After"); (tt.after == "") != (got == "") || tt.after == "120" && got != "60" {
				t.Errorf("retry-after %q, the model server said %q", got, tt.after)
			}
		})
	}
}

func TestFailoverStaysInsideAndBeforeTheFirstByte(t *testing.T) {
	b := newBook(t, "fra-1", "FR", 3)
	us := newBook(t, "iad-1", "US", 1)
	federate(b, us)
	mesh := newNet(t, b, us)
	broken := newServer(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	good, abroad := newServer(t, talk("good")), newServer(t, talk("abroad"))
	b.deploy("default", "EU", "m", broken.url, "n1", "n2")
	b.deploy("default", "EU", "m", good.url, "n3")
	b.deploy("default", "EU", "only", broken.url, "n1")
	us.deploy("default", "US", "m", abroad.url, "n1")
	us.deploy("default", "US", "only", abroad.url, "n1")
	n := mesh.start(b, "n1", nil)
	mesh.start(b, "n2", nil)
	mesh.start(b, "n3", nil)
	mesh.start(us, "n1", nil)
	n.peers.learn(us, "iad-1-n1:7443")
	c := n.sdk("sk-eu")
	got, err := c.Chat.Completions.New(within(t), chat("m"))
	if err != nil || got.Choices[0].Message.Content != "good" {
		t.Fatalf("%+v, %v", got, err)
	}
	if k := len(broken.requests()); k != 2 {
		t.Errorf("the broken replicas were tried %d times, want 2", k)
	}
	if _, err := c.Chat.Completions.New(within(t), chat("only")); status(err) != 502 {
		t.Errorf("with no replica left inside: %v", err)
	}
	if len(abroad.requests()) != 0 || len(mesh.crossed) != 0 {
		t.Errorf("prompts went abroad: %v", mesh.crossed)
	}
}
