package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

var summary = Cargo{Kind: CargoSummary}

func request(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, "https://peer"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestH3KnowsItsPeer(t *testing.T) {
	inBubble(t, 1232, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("de", "n1", "10.0.0.2:7000")
		res, err := a.Do(ctxFor(t, 5*time.Second), b.peer(), summary, request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 503 {
			t.Errorf("without a handler: %s", res.Status)
		}
		_ = res.Body.Close()
		b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, ok := PeerFrom(r.Context())
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v %s %d", id, ok, r.URL.Path, len(body))
		}))
		res, err = a.Do(ctxFor(t, 5*time.Second), b.peer(), summary, request(t, "POST", "/x", strings.NewReader(strings.Repeat("y", 100000))))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if want := a.id.String() + " true /x 100000"; err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		if n := a.Stats().Dials; n != 1 {
			t.Errorf("%d dials for two requests", n)
		}
		if _, ok := PeerFrom(context.Background()); ok {
			t.Error("a peer out of nothing")
		}
	})
}

// Under http3 a reverse proxy ends a cut answer as a whole one, unless it finds
// http.ServerContextKey. The client here must see the cut.
func TestUpstreamCutIsAnErrorAtTheClient(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("de", "n1", "10.0.0.2:7000")
		target, _ := url.Parse("http://model")
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.Transport = cutUpstream{}
		proxy.ErrorLog = nil
		b.ServeH3(proxy)
		res, err := a.Do(ctxFor(t, 5*time.Second), b.peer(), summary, request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err == nil {
			t.Errorf("a cut answer looks whole: %q", got)
		}
		if string(got) != "three tokens only" {
			t.Errorf("got %q before the cut", got)
		}
	})
}

// cutUpstream is a model server whose answer breaks off.
type cutUpstream struct{}

func (cutUpstream) RoundTrip(r *http.Request) (*http.Response, error) {
	body := io.MultiReader(strings.NewReader("three tokens only"), &failing{})
	return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1,
		Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(body), Request: r}, nil
}

type failing struct{}

func (*failing) Read([]byte) (int, error) {
	time.Sleep(time.Second) // so that the part before is on its way
	return 0, errors.New("connection reset")
}

func TestH3CancelReachesTheHandler(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		canceled := make(chan time.Time, 1)
		b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			canceled <- time.Now()
		}))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		res, err := a.Do(ctx, b.peer(), summary, request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		cancel()
		begin := time.Now()
		if took := (<-canceled).Sub(begin); took > 50*time.Millisecond {
			t.Errorf("the handler learned of it after %s", took)
		}
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Error("a canceled answer looks whole")
		}
	})
}

func TestOversizedHeaderIsRefused(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.Header.Get("X-Big")) > b.cfg.HeaderMax {
				t.Error("the handler was shown an oversized header")
			}
			w.Header().Set("X-Big", strings.Repeat("y", len(r.Header.Get("X-Answer"))*(b.cfg.HeaderMax+1)))
		}))
		big := request(t, "GET", "/", nil)
		big.Header.Set("X-Big", strings.Repeat("x", b.cfg.HeaderMax+1))
		res, err := a.Do(ctxFor(t, 5*time.Second), b.peer(), summary, big)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode < 400 {
				t.Errorf("got %s", res.Status)
			}
		}
		answer := request(t, "GET", "/", nil)
		answer.Header.Set("X-Answer", "1")
		if res, err = a.Do(ctxFor(t, 5*time.Second), b.peer(), summary, answer); err == nil {
			_ = res.Body.Close()
			t.Error("an oversized header of an answer was read")
		}
		if res, err = a.Do(ctxFor(t, 5*time.Second), b.peer(), summary, request(t, "GET", "/", nil)); err != nil {
			t.Fatalf("afterwards: %v", err)
		}
		_ = res.Body.Close()
	})
}

// restart crashes a node without a word and starts it again.
func (m *testMesh) restart(n *testNode, serve func(*testNode)) *testNode {
	_ = n.cfg.Socket.Close()
	n.stop()
	fresh := m.node(n.id.Region, n.id.Node, n.addr)
	serve(fresh)
	return fresh
}

// After a restart the pooled connection is dead. A request that may be repeated
// goes to a fresh one; a POST that the dead process may have heard does not.
func TestH3StaleConnection(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("de", "n1", "10.0.0.2:7000")
		served := 0
		serve := func(n *testNode) {
			n.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				served++
				_, _ = io.Copy(w, r.Body)
			}))
		}
		serve(b)
		ask := func(method, key string, body []byte) error {
			r := request(t, method, "/job", bytes.NewReader(body))
			if key != "" {
				r.Header.Set("Idempotency-Key", key)
			}
			res, err := a.Do(ctxFor(t, 10*time.Second), b.peer(), summary, r)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			if err == nil && !bytes.Equal(got, body) {
				err = fmt.Errorf("echo of %d bytes has %d", len(body), len(got))
			}
			return err
		}
		body := bytes.Repeat([]byte("z"), 5000)
		if err := ask("POST", "", body); err != nil {
			t.Fatal(err)
		}
		b = m.restart(b, serve)
		if err := ask("POST", "k1", body); err != nil {
			t.Errorf("a request with a key: %v", err)
		}
		b = m.restart(b, serve)
		if err := ask("GET", "", nil); err != nil {
			t.Errorf("a safe request: %v", err)
		}
		b = m.restart(b, serve)
		before := served
		var unreachable *UnreachableError
		if err := ask("POST", "", body); !errors.As(err, &unreachable) {
			t.Errorf("a request that may have been heard: %v", err)
		}
		if served != before {
			t.Error("it was sent a second time")
		}
		// A connection known to be dead costs nothing: nothing is sent on it.
		_ = b.cfg.Socket.Close()
		b.stop()
		time.Sleep(5 * time.Second)
		b = m.node("de", "n1", "10.0.0.2:7000")
		serve(b)
		if err := ask("POST", "", body); err != nil {
			t.Errorf("over a connection known to be dead: %v", err)
		}
	})
}

func TestOneCutOfTheBorderIsNoticed(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("de", "n1", "10.0.0.2:7000")
		b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		res, err := a.Do(ctxFor(t, time.Minute), b.peer(), summary, request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		m.wan.setCut(b.addr, true)
		begin := time.Now()
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Error("an answer over a cut border looks whole")
		}
		if took := time.Since(begin); took > 4*time.Second+100*time.Millisecond {
			t.Errorf("the cut showed after %s", took)
		}
		begin = time.Now()
		if _, err = a.Do(ctxFor(t, 800*time.Millisecond), b.peer(), summary, request(t, "GET", "/", nil)); err == nil {
			t.Error("an answer over a cut border")
		}
		if took := time.Since(begin); took > 810*time.Millisecond {
			t.Errorf("the caller's deadline took %s", took)
		}
		m.wan.setCut(b.addr, false)
		b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
		within(t, 3*time.Second, "an answer after the heal", func() bool {
			res, err := a.Do(ctxFor(t, time.Second), b.peer(), summary, request(t, "GET", "/", nil))
			if err != nil {
				return false
			}
			return res.Body.Close() == nil
		})
	})
}

func TestServerRefusesForgedPeer(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		b := m.node("de", "n1", "10.0.0.2:7000")
		// A region that nobody has federated with: its CA is held by nobody.
		other := &testMesh{t: t, wan: m.wan, cas: map[placement.RegionID]*identity.CA{}, bundles: m.bundles}
		ca, err := identity.NewCA("xx", "mesh.test", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		other.cas["xx"] = ca
		x := other.node("xx", "n1", "10.0.0.3:7000")
		_, err = x.Do(ctxFor(t, 5*time.Second), b.peer(), summary, request(t, "GET", "/", nil))
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) {
			t.Errorf("a region without a bundle got %v", err)
		}
	})
}
