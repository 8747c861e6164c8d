package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestSniff(t *testing.T) {
	tests := []struct {
		name, body string
		want       request // Model, Stream, IncludeUsage
		fails      string  // part of the error; empty: accepted
	}{
		{"model last, after a long prompt", `{"messages":[{"role":"user","content":"{\"model\":\"b\"}"}],"model":"a"}`, request{Model: "a"}, ""},
		{"stream and usage", ` { "model" : "a" , "stream":true,"stream_options":{"include_usage":true}}` + "\n", request{Model: "a", Stream: true, IncludeUsage: true}, ""},
		{"an escaped name", `{"mod\u0065l":"a"}`, request{Model: "a"}, ""},
		{"stream null", `{"model":"a","stream":null,"n":-1.5e3,"x":null,"y":[[],{}]}`, request{Model: "a"}, ""},
		{"numbers at the end", `{"model":"a","n":1}`, request{Model: "a"}, ""},
		{"a name with a slash", `{"model":"meta/llama-3"}`, request{Model: "meta/llama-3"}, ""},
		{"twice", `{"model":"a","model":"b"}`, request{}, "twice"},
		{"twice, one escaped", `{"model":"a","\u006dodel":"b"}`, request{}, "twice"},
		{"another key twice", `{"model":"a","n":1,"n":2}`, request{}, "twice"},
		{"in another case", `{"model":"a","Model":"b"}`, request{}, "lower case"},
		{"in another case only", `{"MODEL":"b"}`, request{}, "lower case"},
		{"stream in another case", `{"model":"a","STREAM":true}`, request{}, "lower case"},
		{"no model", `{"messages":[]}`, request{}, "names no model"},
		{"an empty object", `{}`, request{}, "names no model"},
		{"model is a number", `{"model":1}`, request{}, "not a string"},
		{"a line break in the name", `{"model":"a\nb"}`, request{}, "control character"},
		{"a long name", `{"model":"` + strings.Repeat("a", 257) + `"}`, request{}, "1 to 256"},
		{"stream is a word", `{"model":"a","stream":"yes"}`, request{}, "neither true nor false"},
		{"options are a list", `{"model":"a","stream_options":[]}`, request{}, "not an object"},
		{"usage in another case", `{"model":"a","stream":true,"stream_options":{"incluDe_usage":true}}`, request{}, "lower case"},
		{"usage in two cases", `{"model":"a","stream":true,"stream_options":{"include_usage":false,"Include_Usage":true}}`, request{}, "lower case"},
		{"usage twice", `{"model":"a","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}`, request{}, "twice"},
		{"usage is a word", `{"model":"a","stream_options":{"include_usage":"yes"}}`, request{}, "neither true nor false"},
		{"a list", `[{"model":"a"}]`, request{}, "not a JSON object"},
		{"two values", `{"model":"a"}{"model":"b"}`, request{}, "not one JSON value"},
		{"cut", `{"model":"a"`, request{}, "not one JSON value"},
		{"nothing", ``, request{}, "not one JSON value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sniff([]byte(tt.body))
			if tt.fails != "" {
				if !errors.Is(err, errBody) || !strings.Contains(err.Error(), tt.fails) {
					t.Fatalf("got %+v, %v; want an error with %q", got, err, tt.fails)
				}
				return
			}
			if err != nil || got.Model != tt.want.Model || got.Stream != tt.want.Stream || got.IncludeUsage != tt.want.IncludeUsage {
				t.Fatalf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestWithUsage(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"a"}`:                                     `{"model":"a"}`,
		`{"model":"a","stream":true}`:                       `{"model":"a","stream":true,"stream_options":{"include_usage":true}}`,
		`{"model":"a", "stream":true }`:                     `{"model":"a", "stream":true ,"stream_options":{"include_usage":true}}`,
		`{"stream_options":null,"model":"a","stream":true}`: `{"stream_options":{"include_usage":true},"model":"a","stream":true}`,
		`{"stream_options":{"include_usage":false,"x":[1]},"model":"a","stream":true}`:                `{"stream_options":{"include_usage":true,"x":[1]},"model":"a","stream":true}`,
		`{"model":"a","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":1}}`: `{"model":"a","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":1}}`,
	} {
		r, err := sniff([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(r.withUsage([]byte(body))); got != want {
			t.Errorf("%s\n got %s\nwant %s", body, got, want)
		}
	}
}

// FuzzSniff holds the gateway's reading of a body against encoding/json's: what
// is judged here is what any decoder finds there.
func FuzzSniff(f *testing.F) {
	for _, s := range []string{
		`{"model":"a","stream":true}`, `{"model":"a","stream_options":{"include_usage":true},"stream":true}`,
		`{"model":"a","stream_options":{"incluDe_usage":true},"stream":true}`, `{"model":"a","stream_options":{"include_usage":null},"stream":true}`,
		`{"mod\u0065l":"a","x":[{"y":"}\\\""}]}`, `{"model":"a","model":"b"}`, ` {"n" :1 , "model" : "é" } `, `[`, `{"":0,"model":"a"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := sniff(body)
		if err != nil {
			if !errors.Is(err, errBody) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		var before map[string]any
		if err := decode(body, &before); err != nil {
			t.Fatalf("accepted what is not JSON: %v", err)
		}
		if before["model"] != r.Model {
			t.Fatalf("read %q, encoding/json reads %q", r.Model, before["model"])
		}
		if stream, _ := before["stream"].(bool); stream != r.Stream {
			t.Fatalf("read stream %v, encoding/json reads %v", r.Stream, stream)
		}
		var after map[string]any
		if err := decode(r.withUsage(body), &after); err != nil {
			t.Fatalf("withUsage made what is not JSON: %v", err)
		}
		if r.Stream {
			if o, ok := after["stream_options"].(map[string]any); !ok || o["include_usage"] != true {
				t.Fatalf("withUsage does not ask for usage: %v", after["stream_options"])
			}
		}
		delete(before, "stream_options")
		delete(after, "stream_options")
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("withUsage changed something else: %v, before %v", after, before)
		}
	})
}

// decode leaves numbers as they stand: no float64 holds every one that JSON allows.
func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return d.Decode(into)
}

func TestEvents(t *testing.T) {
	tests := []struct {
		name, in string
		events   []string
		rest     string
	}{
		{"line feeds", "data: a\n\ndata: b\n\n", []string{"data: a\n\n", "data: b\n\n"}, ""},
		{"both", "data: a\r\n\r\ndata: b\r\n\r\n", []string{"data: a\r\n\r\n", "data: b\r\n\r\n"}, ""},
		{"returns", "data: a\r\rdata: b\r\r", []string{"data: a\r\r", "data: b\r\r\n"}, ""},
		{"several lines and a comment", ": ping\n\nevent: x\ndata: a\ndata: b\n\n", []string{": ping\n\n", "event: x\ndata: a\ndata: b\n\n"}, ""},
		{"an unfinished event is kept back", "data: a\n\ndata: b\n", []string{"data: a\n\n"}, "data: b\n"},
	}
	for _, tt := range tests {
		for size := 1; size <= len(tt.in); size++ {
			got, rest := cutUp(t, []byte(tt.in), size)
			if !reflect.DeepEqual(got, tt.events) || rest != tt.rest {
				t.Errorf("%s, in parts of %d: %q, rest %q", tt.name, size, got, rest)
			}
		}
	}
}

// cutUp feeds in to events in parts of a size.
func cutUp(t *testing.T, in []byte, size int) (events []string, rest string) {
	t.Helper()
	e := newEvents()
	for len(in) > 0 {
		n := min(size, len(in))
		if err := e.add(in[:n]); err != nil {
			t.Fatal(err)
		}
		in = in[n:]
		for ev := e.next(); ev != nil; ev = e.next() {
			events = append(events, string(ev))
		}
	}
	for ev := e.last(); ev != nil; ev = e.next() {
		events = append(events, string(ev))
	}
	return events, string(e.buf)
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: a\n\ndata: {\"usage\":{}}\r\n\r\n: x\r\rdata: [DONE]\n\n"), 3)
	f.Add([]byte("data:{\"error\":{\"message\":1}}\n\n"), 1)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		size = max(1, min(size, 1<<16))
		parts, rest := cutUp(t, in, size)
		whole, wholeRest := cutUp(t, in, len(in)+1)
		if !reflect.DeepEqual(parts, whole) || rest != wholeRest {
			t.Fatalf("in parts of %d: %q %q, at once: %q %q", size, parts, rest, whole, wholeRest)
		}
		joined := strings.Join(parts, "") + rest
		if joined != string(in) && joined != string(in)+"\n" {
			t.Fatalf("bytes were changed: %q, of %q", joined, in)
		}
		for _, p := range parts {
			if m := read([]byte(p)); m.done && !strings.Contains(p, "[DONE]") {
				t.Fatalf("%q ends the stream", p)
			}
		}
	})
}

func TestRead(t *testing.T) {
	tests := []struct {
		name, event string
		want        meaning
	}{
		{"the end", "data: [DONE]\n\n", meaning{done: true}},
		{"the end, without a blank", "data:[DONE]\r\n\r\n", meaning{done: true}},
		{"a token", `data: {"choices":[{"delta":{"content":"[DONE]"}}]}` + "\n\n", meaning{}},
		{"a token that speaks of usage", `data: {"choices":[{"delta":{"content":"\"usage\""}}],"usage":null}` + "\n\n", meaning{}},
		{"the usage chunk", `data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}` + "\n\n", meaning{usage: &Usage{3, 4}, bare: true}},
		{"usage in the last chunk (llama.cpp)", `data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":3,"completion_tokens":4}}` + "\n\n", meaning{usage: &Usage{3, 4}}},
		{"an error", `data: {"error":{"message":"x"}}` + "\n\n", meaning{fault: true}},
		{"error null", `data: {"error":null,"choices":[{}]}` + "\n\n", meaning{}},
		{"usage of another type", `data: {"usage":"none","choices":[]}` + "\n\n", meaning{}},
		{"no JSON", "data: \"usage\" \"error\"\n\n", meaning{}},
		{"negative counts", `data: {"usage":{"prompt_tokens":-1,"completion_tokens":4}}` + "\n\n", meaning{usage: &Usage{0, 4}, bare: true}},
	}
	for _, tt := range tests {
		if got := read([]byte(tt.event)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestEventsAreBounded(t *testing.T) {
	e := newEvents()
	part := bytes.Repeat([]byte("a"), 1<<20)
	for range 8 {
		if err := e.add(part); err != nil {
			t.Fatal(err)
		}
	}
	if e.overlong() {
		t.Fatal("an event of 8 MiB is too long")
	}
	if err := e.add([]byte("a")); err != nil || !e.overlong() {
		t.Fatalf("an event of more than 8 MiB passes: %v", err)
	}
}

func TestUpstreamURL(t *testing.T) {
	for upstream, want := range map[string]string{
		"http://127.0.0.1:8000":           "http://127.0.0.1:8000/v1/chat/completions",
		"http://127.0.0.1:8000/v1/":       "http://127.0.0.1:8000/v1/chat/completions",
		"http://[::1]:8000/llm":           "http://[::1]:8000/llm/v1/chat/completions",
		"http://localhost:1":              "http://localhost:1/v1/chat/completions",
		"https://127.0.0.1:8000":          "",
		"http://10.0.0.1:8000":            "",
		"http://169.254.169.254":          "",
		"http://example.com":              "",
		"http://127.0.0.1@example.com":    "",
		"http://localhost.example.com:80": "",
		"http://user@127.0.0.1:8000":      "",
		"http://127.0.0.1:8000/?x=":       "",
		"unix:///run/x":                   "",
		"task://6162:8000":                "http://6162:8000/v1/chat/completions",
		"task://10.0.0.1:8000":            "",
		"task://6162:0":                   "",
		"task://6162":                     "",
		"":                                "",
	} {
		got, err := upstreamURL(upstream, "/v1/chat/completions")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q gives %q, %v; want %q", upstream, got, err, want)
		}
	}
}
