package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// counting is a listener that counts what is read of its connections.
type counting struct {
	net.Listener
	read *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countedConn{c, l.read}, err
}

type countedConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// plain serves a gateway over bare TCP, where a test sees each byte.
func plain(t *testing.T, n *node) (addr string, read *atomic.Int64) {
	read = new(atomic.Int64)
	s := httptest.NewUnstartedServer(n.Handler())
	s.Listener = counting{s.Listener, read}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), read
}

func TestHeadersAreJudgedBeforeTheBody(t *testing.T) {
	n, s, b := alone(t, talk("paris"), nil)
	ber := newBook(t, "ber-1", "DE", 1)
	federate(b, ber)
	tests := []struct {
		name, headers, status, code string
	}{
		{"no key", "", "401", "invalid_api_key"},
		{"no tag", "Authorization: Bearer sk-plain\r\n", "400", "residency_required"},
		{"a bad tag", "Authorization: Bearer sk-eu\r\nX-Data-Residency: Europe\r\n", "400", "tag.unknown-place"},
		{"an empty tag", "Authorization: Bearer sk-eu\r\nX-Data-Residency:\r\n", "400", "tag.empty"},
		{"two tags", "Authorization: Bearer sk-eu\r\nX-Data-Residency: FR\r\nX-Data-Residency: DE\r\n", "400", "tag.syntax"},
		{"nothing lawful", "Authorization: Bearer sk-eu\r\nX-Data-Residency: US\r\n", "403", "residency_not_permitted"},
		{"this node is outside", "Authorization: Bearer sk-eu\r\nX-Data-Residency: DE\r\n", "421", "residency.misdirected"},
		{"an absurd timeout", "Authorization: Bearer sk-eu\r\nX-Stainless-Timeout: NaN\r\n", "400", "invalid_timeout"},
	}
	const size = 200 << 10 // net/http reads what is left of a body up to 256 KiB
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr, read := plain(t, n)
			head := fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n", size, tt.headers)
			// First a client that waits: it has its answer before a byte of the body.
			c := dialTCP(t, addr)
			_, _ = io.WriteString(c, strings.Replace(head, "Host: x", "Host: x\r\nExpect: 100-continue", 1))
			refusedAs(t, c, tt.status, tt.code)
			// Then one that pushes all it has.
			read.Store(0)
			c = dialTCP(t, addr)
			go func() { _, _ = io.Copy(c, io.MultiReader(strings.NewReader(head), pushed(size))) }()
			refusedAs(t, c, tt.status, tt.code)
			if _, err := io.Copy(io.Discard, c); err == nil {
				// The server has closed; what it took by then stays.
				_ = c.Close()
			}
			if got := read.Load(); got > 16<<10 {
				t.Errorf("%d bytes were taken from the socket", got)
			}
		})
	}
	t.Cleanup(func() {
		if len(s.requests()) != 0 {
			t.Error("the model server was asked")
		}
	})
}

// pushed is a body that would be a fine request.
func pushed(size int) io.Reader {
	return io.LimitReader(strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"`+strings.Repeat("secret ", size/7)), int64(size))
}

func dialTCP(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func refusedAs(t *testing.T, c net.Conn, status, code string) {
	t.Helper()
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, _ := io.ReadAll(resp.Body)
	if !strings.HasPrefix(resp.Status, status) || !strings.Contains(string(body), `"code":"`+code+`"`) {
		t.Errorf("%s: %s", resp.Status, body)
	}
	if !resp.Close {
		t.Error("the connection is not said to be closed")
	}
	if status == "421" && !strings.Contains(string(body), `"doors":[{"region":"ber-1","url":"https://ber-1-n1:7443"}]`) {
		t.Errorf("no doors: %s", body)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	n, s, _ := alone(t, talk("paris"), func(c *Config) { c.BodyMax = 1000 })
	for _, declared := range []bool{true, false} {
		var body io.Reader = strings.NewReader(`{"model":"m","x":"` + strings.Repeat("a", 1000) + `"}`)
		if !declared {
			body = io.MultiReader(body)
		}
		resp := n.post(t, "/v1/chat/completions", body)
		if resp.StatusCode != 413 || resp.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("length declared %v: %s", declared, resp.Status)
		}
	}
	if len(s.requests()) != 0 {
		t.Error("the model server was asked")
	}
}

// post sends a body as key sk-eu.
func (n *node) post(t *testing.T, path string, body io.Reader) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(within(t), "POST", n.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk-eu")
	resp, err := n.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestWhatIsNotServedSaysSo(t *testing.T) {
	n, _, _ := alone(t, talk("paris"), nil)
	for _, path := range []string{"/v1/files", "/v1/moderations", "/v1/models", "/v1/", "/v1/chat/completions/x"} {
		resp := n.post(t, path, strings.NewReader("{}"))
		var got wireError
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != 404 || *got.Error.Code != "unknown_url" {
			t.Errorf("POST %s: %s, %+v, %v", path, resp.Status, got, err)
		}
	}
	for body, says := range map[string]string{"": "not one JSON value", `{"messages":[]}`: "names no model", `{"model":"m","model":"n"}`: "twice"} {
		resp := n.post(t, "/v1/chat/completions", strings.NewReader(body))
		got, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 400 || !strings.Contains(string(got), says) || !strings.Contains(string(got), `"param":null`) {
			t.Errorf("%q: %s: %s", body, resp.Status, got)
		}
	}
}

func TestEventsAreFlushedOneByOne(t *testing.T) {
	next := make(chan struct{})
	n, _, _ := alone(t, func(w http.ResponseWriter, r *http.Request) {
		for _, e := range []string{chunkOf("a"), ": ping\n\n", chunkOf("b"), "data: [DONE]\n\n"} {
			stream(e)(w, r)
			<-next
		}
	}, nil)
	resp := n.post(t, "/v1/chat/completions", strings.NewReader(`{"model":"m","stream":true}`))
	in := bufio.NewReader(resp.Body)
	for _, want := range []string{"data: {", ": ping", "data: {", "data: [DONE]"} {
		line, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			t.Fatalf("%q, %v; want %q before the model server goes on", line, err, want)
		}
		_, _ = in.ReadString('\n')
		next <- struct{}{}
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	if resp.TransferEncoding == nil && resp.ProtoMajor == 1 {
		t.Error("the answer was not streamed")
	}
}

func TestLargeAnswersPassAndCutOnesBreak(t *testing.T) {
	large := bytes.Repeat([]byte("x"), wholeMax+100)
	for _, whole := range []bool{true, false} {
		n, _, _ := alone(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(large)
			if !whole {
				panic(http.ErrAbortHandler)
			}
		}, nil)
		resp := n.post(t, "/v1/embeddings", strings.NewReader(`{"model":"m"}`))
		got, err := io.ReadAll(resp.Body)
		if (err == nil) != whole || whole && len(got) != len(large) {
			t.Errorf("whole %v: %d bytes, %v", whole, len(got), err)
		}
	}
}

func TestStoppingCutsWhatRuns(t *testing.T) {
	b := newBook(t, "fra-1", "FR", 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		stream(chunkOf("one"))(w, r)
		<-r.Context().Done()
	})
	b.deploy("default", "EU", "m", s.url, "n1")
	n := newNet(t, b).start(b, "n1", nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	c := n.sdk("sk-eu")
	st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
	if !st.Next() {
		t.Fatal(st.Err())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for st.Next() {
	}
	if st.Err() == nil {
		t.Error("the cut answer was taken for a whole one")
	}
	if _, err := c.Chat.Completions.New(within(t), chat("m")); code(err) != "not_ready" {
		t.Errorf("after the end: %v", err)
	}
}

// TestOverHTTP2 repeats what hangs on the protocol: net/http offers it to every
// client of a TLS listener.
func TestOverHTTP2(t *testing.T) {
	over := func(t *testing.T, h func(http.ResponseWriter, *http.Request)) (*node, *server) {
		n, s, b := alone(t, h, nil)
		ber := newBook(t, "ber-1", "DE", 1)
		federate(b, ber)
		return serve(t, n.Gateway, n.peers, true), s
	}
	t.Run("a cut", func(t *testing.T) {
		n, _ := over(t, stream(chunkOf("one")))
		c := n.sdk("sk-eu")
		st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
		for st.Next() {
		}
		if st.Err() == nil || !strings.Contains(st.Err().Error(), "upstream_cut") {
			t.Errorf("got %v", st.Err())
		}
		resp := n.post(t, "/v1/chat/completions", strings.NewReader(`{"model":"m","stream":true}`))
		if body, err := io.ReadAll(resp.Body); resp.ProtoMajor != 2 || err == nil {
			t.Errorf("%s: the body %q ends cleanly", resp.Proto, body)
		}
	})
	t.Run("a cancel", func(t *testing.T) {
		n, s := over(t, func(w http.ResponseWriter, r *http.Request) {
			stream(chunkOf("one"))(w, r)
			<-r.Context().Done()
		})
		c := n.sdk("sk-eu")
		st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
		if !st.Next() {
			t.Fatal(st.Err())
		}
		cancelled(t, s, func() { _ = st.Close() })
	})
	t.Run("a refusal", func(t *testing.T) {
		n, s := over(t, talk("paris"))
		c := n.sdk("sk-eu", tagged("DE"))
		long := chat("m")
		long.Messages[0].OfUser.Content.OfString.Value = strings.Repeat("secret ", 1<<20)
		if _, err := c.Chat.Completions.New(within(t), long); status(err) != 421 {
			t.Errorf("got %v", err)
		}
		if len(s.requests()) != 0 {
			t.Error("the model server was asked")
		}
	})
}

func TestManyStreamsAreNotQueued(t *testing.T) {
	const many = 200
	var all sync.WaitGroup
	all.Add(many)
	n, _, _ := alone(t, func(w http.ResponseWriter, r *http.Request) {
		all.Done()
		all.Wait() // goes on once all are here at once
		stream(chunkOf("a"), "data: [DONE]\n\n")(w, r)
	}, nil)
	errs := make(chan error, many)
	for range many {
		go func() {
			c := n.sdk("sk-eu")
			st := c.Chat.Completions.NewStreaming(within(t), chat("m"))
			for st.Next() {
			}
			errs <- st.Err()
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no request is in flight", func() bool { return n.InFlight() == 0 })
}

func TestConfigReportsEverything(t *testing.T) {
	_, err := New(Config{})
	for _, want := range []string{"Region", "Node", "Views", "Mesh", "Peers", "Auth", "Models", "Shared", "Now or Log", "BodyMax", "HeaderTimeout", "Attempts"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %s in %v", want, err)
		}
	}
}
