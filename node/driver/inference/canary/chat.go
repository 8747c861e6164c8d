package canary

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

func (q *request) usage(completion int) *usage {
	prompt := len(strings.Fields(q.prompt()))
	return &usage{Prompt: prompt, Completion: completion, Total: prompt + completion}
}

// reply is a chat.completion, or one chat.completion.chunk of it.
type reply struct {
	ID          string   `json:"id"`
	Object      string   `json:"object"`
	Created     int64    `json:"created"`
	Model       string   `json:"model"`
	Fingerprint string   `json:"system_fingerprint"`
	Choices     []choice `json:"choices"`
	Usage       *usage   `json:"usage,omitempty"`
}

type choice struct {
	Index   int     `json:"index"`
	Message *spoken `json:"message,omitempty"`
	Delta   *spoken `json:"delta,omitempty"`
	Finish  *string `json:"finish_reason"`
}

type spoken struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// chat answers POST /v1/chat/completions.
func (c *Canary) chat(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, c.cfg.MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		refuse(w, &apiError{status: 413, Type: "invalid_request_error", Code: "body_too_large",
			Message: fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)})
		return
	}
	if err != nil {
		return // the caller is gone
	}
	q, err := c.parseRequest(body, r.Header.Get("X-Canary-Delay"))
	if err != nil {
		var e *apiError
		if !errors.As(err, &e) {
			e = &apiError{status: 400, Type: "invalid_request_error", Message: err.Error()}
		}
		refuse(w, e)
		return
	}
	if q.Stream {
		q.stream(w, r)
	} else {
		q.whole(w, r)
	}
}

func (q *request) reply(object string) reply {
	return reply{ID: q.id(), Object: object, Created: time.Now().Unix(), Model: q.Model, Fingerprint: Fingerprint, Choices: []choice{}}
}

// finish is "length": the canary would go on for ever.
func finish() *string {
	reason := "length"
	return &reason
}

func (q *request) whole(w http.ResponseWriter, r *http.Request) {
	text := ""
	for i, token := range Tokens(q.prompt(), q.tokens) {
		if sleep(r.Context(), q.delay) != nil {
			return
		}
		if i == q.cutAt {
			panic(http.ErrAbortHandler)
		}
		text += token
	}
	a := q.reply("chat.completion")
	a.Choices = []choice{{Message: &spoken{Role: "assistant", Content: &text}, Finish: finish()}}
	a.Usage = q.usage(q.tokens)
	answer(w, 200, a)
}

// stream answers in server-sent events, one per token, each sent at once.
func (q *request) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	out := http.NewResponseController(w)
	send := func(c reply) bool {
		data, err := json.Marshal(c)
		if err != nil {
			return false
		}
		_, err = fmt.Fprintf(w, "data: %s\n\n", data)
		return err == nil && out.Flush() == nil
	}
	chunk := q.reply("chat.completion.chunk")
	one := func(s *spoken, end *string) bool {
		chunk.Choices = []choice{{Delta: s, Finish: end}}
		return send(chunk)
	}
	empty := ""
	if !one(&spoken{Role: "assistant", Content: &empty}, nil) {
		return
	}
	for i, token := range Tokens(q.prompt(), q.tokens) {
		if sleep(r.Context(), q.delay) != nil {
			return
		}
		if i == q.cutAt {
			panic(http.ErrAbortHandler)
		}
		if !one(&spoken{Content: &token}, nil) {
			return
		}
	}
	if !one(&spoken{}, finish()) {
		return
	}
	if q.StreamOptions.IncludeUsage {
		chunk.Choices, chunk.Usage = []choice{}, q.usage(q.tokens)
		if !send(chunk) {
			return
		}
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
	_ = out.Flush()
}
