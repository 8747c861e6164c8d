package canary

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func serve(t *testing.T, cfg Config) (*httptest.Server, openai.Client) {
	t.Helper()
	s := httptest.NewServer(New(cfg))
	t.Cleanup(s.Close)
	return s, openai.NewClient(option.WithBaseURL(s.URL+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
}

func params(model string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("bonjour tout le monde")}, MaxTokens: openai.Int(5)}
}

func TestTheOpenAISDKIsUnderstood(t *testing.T) {
	_, c := serve(t, Config{Models: []string{"canary", "other"}})
	answer, err := c.Chat.Completions.New(t.Context(), params("canary"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join(Tokens("user: bonjour tout le monde\n", 5), "")
	//lint:ignore SA1019 other servers send it still, and ours says by it that it is a canary
	if got := answer.Choices[0].Message.Content; got != want || answer.SystemFingerprint != Fingerprint || answer.Usage.CompletionTokens != 5 || answer.Usage.PromptTokens != 5 {
		t.Errorf("%q (want %q), %+v", got, want, answer)
	}
	p := params("canary")
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := c.Chat.Completions.NewStreaming(t.Context(), p)
	text, usage := "", int64(0)
	for stream.Next() {
		chunk := stream.Current()
		usage += chunk.Usage.TotalTokens
		for _, choice := range chunk.Choices {
			text += choice.Delta.Content
		}
	}
	if stream.Err() != nil || text != want || usage != 10 {
		t.Errorf("streamed %q, usage %d, %v", text, usage, stream.Err())
	}
	models, err := c.Models.List(t.Context())
	if err != nil || len(models.Data) != 2 {
		t.Errorf("models: %+v, %v", models, err)
	}
	if m, err := c.Models.Get(t.Context(), "other"); err != nil || m.ID != "other" {
		t.Errorf("model: %+v, %v", m, err)
	}
	_, err = c.Chat.Completions.New(t.Context(), params("missing"))
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != 404 || e.Code != "model_not_found" {
		t.Errorf("unknown model: %v", err)
	}
}

func TestFramesOfAStreamAreExact(t *testing.T) {
	s, _ := serve(t, Config{})
	res, err := http.Post(s.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"canary","stream":true,"max_tokens":2,"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get(Header) == "" {
		t.Fatalf("%v, %v", res.Header, err)
	}
	events := strings.Split(strings.TrimSuffix(string(body), "\n\n"), "\n\n")
	if len(events) != 5 || events[4] != "data: [DONE]" || !strings.HasSuffix(string(body), "data: [DONE]\n\n") {
		t.Fatalf("%d events: %q", len(events), body)
	}
	for _, e := range events[:4] {
		var chunk reply
		data, ok := strings.CutPrefix(e, "data: ")
		if !ok || json.Unmarshal([]byte(data), &chunk) != nil || chunk.Object != "chat.completion.chunk" || len(chunk.Choices) != 1 {
			t.Errorf("event %q", e)
		}
	}
}

func TestCutStreamHasNoCleanEnd(t *testing.T) {
	s, _ := serve(t, Config{})
	for _, stream := range []string{"true", "false"} {
		res, err := http.Post(s.URL+"/v1/chat/completions", "", strings.NewReader(`{"model":"canary@cut=2","stream":`+stream+`,"messages":[{"role":"user","content":"x"}]}`))
		if err != nil {
			continue // cut before the head
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err == nil || strings.Contains(string(body), "DONE") {
			t.Errorf("stream %s: %q, %v", stream, body, err)
		}
	}
}

func TestCancelIsHonoured(t *testing.T) {
	left := make(chan struct{})
	c := New(Config{TokenEvery: time.Second})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.ServeHTTP(w, r)
		close(left)
	}))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/chat/completions", strings.NewReader(`{"model":"canary","stream":true,"max_tokens":4096,"messages":[{"role":"user","content":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	cancel()
	select {
	case <-left:
	case <-time.After(20 * time.Second):
		t.Error("it goes on for a caller who left")
	}
}

func TestBadInput(t *testing.T) {
	s, _ := serve(t, Config{MaxBody: 1000, MaxTokens: 10})
	const messages = `"messages":[{"role":"user","content":"x"}]`
	for body, status := range map[string]int{
		"":                               400,
		"{":                              400,
		"[]":                             400,
		`{"model":"canary"}`:             400,
		`{` + messages + `}`:             400,
		`{"model":"x",` + messages + `}`: 404,
		`{"model":"canary","n":2,` + messages + `}`:                            400,
		`{"model":"canary","max_tokens":11,` + messages + `}`:                  400,
		`{"model":"canary","max_tokens":0,` + messages + `}`:                   400,
		`{"model":"canary","max_tokens":"x",` + messages + `}`:                 400,
		`{"model":"canary@1h",` + messages + `}`:                               400,
		`{"model":"canary@cut=x",` + messages + `}`:                            400,
		`{"model":"canary","messages":[{"role":"user","content":7}]}`:          400,
		`{"model":"canary","messages":[{"role":"user","content":null}]}`:       200,
		`{"model":"canary",` + messages + `,"x":"` + strings.Repeat("x", 1000): 413,
	} {
		res, err := http.Post(s.URL+"/v1/chat/completions", "", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Error *apiError `json:"error"`
		}
		err = json.NewDecoder(res.Body).Decode(&answer)
		_ = res.Body.Close()
		if res.StatusCode != status || err != nil || (status != 200) != (answer.Error != nil && answer.Error.Message != "" && answer.Error.Type != "") {
			t.Errorf("%.80q: %d, %+v, %v", body, res.StatusCode, answer.Error, err)
		}
	}
	for path, status := range map[string]int{"/healthz": 200, "/v1/models/none": 404, "/v1/embeddings": 404, "/v1/chat/completions": 404} {
		res, err := http.Get(s.URL + path)
		if err != nil || res.StatusCode != status || res.Header.Get(Header) == "" {
			t.Errorf("%s: %+v, %v", path, res, err)
		}
	}
}

func TestTokensDependOnThePromptOnly(t *testing.T) {
	a, b := Tokens("x", 20), Tokens("x", 30)
	if !slices.Equal(a, b[:20]) || slices.Equal(a, Tokens("y", 20)) {
		t.Errorf("%q %q", a, b)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"model":"canary@20ms,cut=3","messages":[{"role":"user","content":"x"}],"max_tokens":4}`), "5ms")
	f.Add([]byte(`{"model":"canary","messages":[{"content":[{"text":"a"}]}]}`), "")
	c := New(Config{})
	f.Fuzz(func(t *testing.T, body []byte, delay string) {
		q, err := c.parseRequest(body, delay)
		var e *apiError
		if err != nil && (!errors.As(err, &e) || e.Message == "" || e.status < 400 || e.status > 499) {
			t.Errorf("%v", err)
		}
		if err == nil && (q.tokens < 1 || q.tokens > c.cfg.MaxTokens || q.delay < 0 || q.delay > maxDelay) {
			t.Errorf("%+v", q)
		}
	})
}
