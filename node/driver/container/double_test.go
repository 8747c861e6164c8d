//go:build linux

package container

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
)

// double stands between a driver and a real engine, and changes what one says
// to the other.
type double struct {
	host string

	mu       sync.Mutex
	hooks    map[string]func()                           // by the end of a path; guarded by mu
	request  func(path string, body []byte) []byte       // guarded by mu
	response func(path string, body map[string]any) bool // whether it changed it; guarded by mu
}

// ownLimits are such as any engine may set; behind a double its own are not seen.
var ownLimits = map[string]int64{"nofile": 1024, "nproc": 1024}

func newDouble(t *testing.T, e *enginetest.Engine) *double {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "double.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	d := &double{host: "unix://" + socket, hooks: make(map[string]func())}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
		Transport:      &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", e.Socket()) }},
		ModifyResponse: d.answered,
		FlushInterval:  -1,
		// An engine that is not there is one that does not answer.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked(r)
		proxy.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return d
}

// before does something before a request whose path ends so is passed on.
func (d *double) before(end string, do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hooks[end] = do
}

func (d *double) asked(r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for end, do := range d.hooks {
		if do != nil && strings.HasSuffix(r.URL.Path, end) {
			do()
		}
	}
	if d.request != nil && strings.HasSuffix(r.URL.Path, "/containers/create") {
		body, _ := io.ReadAll(r.Body)
		body = d.request(r.URL.Path, body)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
}

func (d *double) answered(r *http.Response) error {
	d.mu.Lock()
	change := d.response
	d.mu.Unlock()
	asks := r.Request.Method == http.MethodGet || strings.HasSuffix(r.Request.URL.Path, "/wait")
	if change == nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || !asks {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var v map[string]any
	if json.Unmarshal(body, &v) == nil && change(r.Request.URL.Path, v) {
		body, _ = json.Marshal(v)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Del("Content-Length")
	return nil
}
