package inference_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/driver/inference"
	"github.com/sovmesh/sovmesh/node/driver/inference/canary"
	"github.com/sovmesh/sovmesh/node/runner"
)

// loopback is a machine's loopback in memory: model servers by address.
type loopback struct {
	mu      sync.Mutex
	servers map[string]http.Handler
	dialled []string
}

func (l *loopback) set(addr string, h http.Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.servers[addr] = h
}

// dial answers one request on an in-memory connection.
func (l *loopback) dial(_ context.Context, addr string) (net.Conn, error) {
	l.mu.Lock()
	h := l.servers[addr]
	l.dialled = append(l.dialled, addr)
	l.mu.Unlock()
	if h == nil {
		return nil, errors.New("connection refused")
	}
	client, server := net.Pipe()
	once := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	once.conn <- &closing{Conn: server, l: once}
	go func() { _ = http.Serve(once, h) }()
	return client, nil
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
	once sync.Once
}

func (o *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-o.conn:
		return c, nil
	case <-o.done:
		return nil, net.ErrClosed
	}
}

func (o *oneConn) Close() error   { o.once.Do(func() { close(o.done) }); return nil }
func (o *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

type closing struct {
	net.Conn
	l *oneConn
}

func (c *closing) Close() error {
	_ = c.l.Close()
	return c.Conn.Close()
}

func newLoopback() *loopback {
	return &loopback{servers: map[string]http.Handler{"127.0.0.1:8000": canary.New(canary.Config{Models: []string{"m1", "m2"}})}}
}

func newDriver(t *testing.T, l *loopback) *inference.Driver {
	t.Helper()
	cfg := inference.DefaultConfig()
	cfg.Dial = l.dial
	d, err := inference.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func keep(runner.Handle) error { return nil }

func TestConformance(t *testing.T) {
	l := newLoopback()
	serve := func(s *runner.Spec) { s.Upstream, s.Models = "http://127.0.0.1:8000", []string{"m1"} }
	const promise = "its tasks are promises about a server that belongs to the node: "
	drivertest.Run(t, drivertest.Harness{
		New:     func(t *testing.T) runner.Driver { return newDriver(t, l) },
		Sleep:   serve,
		Missing: func(s *runner.Spec) { s.Upstream = "http://127.0.0.1:9" },
		Without: map[string]string{
			"exit code is known":                          promise + "they have no exit code",
			"output is kept":                              promise + "they have no output",
			"output is followed":                          promise + "they have no output",
			"output is bounded":                           promise + "they have no output",
			"want of memory is told apart":                promise + "their memory is the server's",
			"stop kills after grace":                      promise + "there is nothing to kill",
			"nothing is started twice":                    promise + "one that is made again is the same",
			"an exit while away is known":                 promise + "they end with the agent, and are taken up again",
			"a stop while away is told from a failure":    promise + "they end with the agent, and are taken up again",
			"what never ran is absent and can be started": promise + "one that was to be made is simply made",
			"everything is listed":                        promise + "nothing of them outlives the driver",
		},
	})
}

func TestOnlyLoopbackIsSpokenTo(t *testing.T) {
	for upstream, ok := range map[string]bool{
		"http://127.0.0.1:8000": true, "http://127.8.9.1:8000/v1": true, "http://[::1]:8000/": true, "http://localhost:8000": true, "http://127.0.0.1": true,
		"http://10.0.0.1:8000": false, "http://example.com": false, "http://127.0.0.1.example.com": false, "https://127.0.0.1:8000": false,
		"http://user@127.0.0.1": false, "http://169.254.169.254/": false, "http://0.0.0.0:8000": false, "http://localhost.:8000": false,
		"unix:///run/x.sock": false, "": false, "127.0.0.1:8000": false, "http://[::ffff:10.0.0.1]:1": false, "http://127.0.0.1:8000/?x=1": false,
	} {
		if _, err := inference.ParseUpstream(upstream); (err == nil) != ok {
			t.Errorf("%q: %v", upstream, err)
		}
	}
	l := newLoopback()
	_, err := newDriver(t, l).Start(t.Context(), runner.Spec{Task: "a.b/0.1", Upstream: "http://10.0.0.1:8000", Keep: keep})
	var start *runner.StartError
	if !errors.As(err, &start) || len(l.dialled) != 0 {
		t.Errorf("%v; dialled %v", err, l.dialled)
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	l := newLoopback()
	l.set("127.0.0.1:8001", http.RedirectHandler("http://10.0.0.1/v1/models", http.StatusFound))
	_, err := newDriver(t, l).Start(t.Context(), runner.Spec{Task: "a.b/0.1", Upstream: "http://127.0.0.1:8001", Keep: keep})
	if err == nil || !strings.Contains(err.Error(), "302") || len(l.dialled) != 1 {
		t.Errorf("%v; dialled %v", err, l.dialled)
	}
}

func TestWhatTheServerMustAnswer(t *testing.T) {
	l := newLoopback()
	for reason, h := range map[string]http.Handler{
		"status 500":          http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", 500) }),
		"no OpenAI list":      http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }),
		"5000000 bytes":       http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 5_000_000)) }),
		`have the model "m1"`: canary.New(canary.Config{Models: []string{"other"}}),
		"does not answer":     nil,
	} {
		l.set("127.0.0.1:8002", h)
		_, err := newDriver(t, l).Start(t.Context(), runner.Spec{Task: "a.b/0.1", Upstream: "http://127.0.0.1:8002", Models: []string{"m1"}, Keep: keep})
		if reason == "5000000 bytes" {
			reason = "4194305 bytes" // what was read of it
		}
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

func TestAServerThatStaysSilentEndsTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoopback()
		d := newDriver(t, l)
		h, err := d.Start(t.Context(), runner.Spec{Task: "a.b/0.1", Upstream: "http://127.0.0.1:8000", Models: []string{"m2"}, Keep: keep})
		if err != nil {
			t.Fatal(err)
		}
		if e := d.Endpoints(); len(e) != 1 || e[0].Models[0] != "m2" || e[0].Upstream != "http://127.0.0.1:8000" {
			t.Errorf("endpoints: %+v", e)
		}
		began := time.Now()
		good := l.servers["127.0.0.1:8000"]
		go func() { // a short silence is forgiven
			time.Sleep(12 * time.Second)
			l.set("127.0.0.1:8000", nil)
			time.Sleep(9 * time.Second)
			l.set("127.0.0.1:8000", good)
			time.Sleep(60 * time.Second)
			l.set("127.0.0.1:8000", nil)
		}()
		exit, err := d.Wait(t.Context(), h)
		if err != nil || exit.Code == 0 || !strings.Contains(exit.Reason, "does not answer") || exit.Stopped {
			t.Errorf("%+v, %v", exit, err)
		}
		if after := time.Since(began); after < 81*time.Second || after > 81*time.Second+3*5*time.Second {
			t.Errorf("ended after %s", after)
		}
		if len(d.Endpoints()) != 0 {
			t.Error("still offered to the gateway")
		}
	})
}

func FuzzParseUpstream(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:8000", "http://[::1%25lo]:1/v1", "http://localhost", "http://127.0.0.1:99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := inference.ParseUpstream(s)
		if err != nil {
			return
		}
		host := u.Hostname()
		if ip := net.ParseIP(strings.SplitN(host, "%", 2)[0]); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			t.Errorf("%q is spoken to at %q", s, host)
		}
	})
}
