package agents

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sovmesh/sovmesh/node/api"
)

// recorder stands in front of a node's app listener with a certificate of its
// own and keeps everything that clients send, in the clear.
type recorder struct {
	API string // https://127.0.0.1:port
	CA  string // path of the certificate that its clients verify it with

	mu    sync.Mutex
	heard []*bytes.Buffer // guarded by mu; by connection
	all   sync.WaitGroup
}

func record(t *testing.T, r *Region, a *Agent) *recorder {
	t.Helper()
	borrowed := httptest.NewUnstartedServer(http.NotFoundHandler())
	borrowed.StartTLS()
	cert := borrowed.TLS.Certificates[0]
	borrowed.Close()
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{API: "https://" + l.Addr().String(), CA: filepath.Join(t.TempDir(), "recorder.pem")}
	if err := os.WriteFile(rec.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(r.CA)
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("CA of %s: %v", r.Name, err)
	}
	rec.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			rec.all.Go(func() { rec.pass(conn, a.Addr, pool) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		rec.all.Wait()
	})
	return rec
}

// pass copies both ways until either side ends.
func (r *recorder) pass(client net.Conn, addr string, roots *x509.CertPool) {
	defer client.Close()
	node, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return
	}
	defer node.Close()
	kept := &bytes.Buffer{}
	r.mu.Lock()
	r.heard = append(r.heard, kept)
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(client, node)
		_ = client.Close()
	}()
	_, _ = io.Copy(io.MultiWriter(node, writer(func(p []byte) {
		r.mu.Lock()
		defer r.mu.Unlock()
		kept.Write(p)
	})), client)
	_ = node.Close()
	<-done
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

// said is everything that clients sent, and how many bytes of it were bodies of
// submits: bytes behind the header of POST /api/v1/jobs.
func (r *recorder) said(t *testing.T) (all string, requests []string, bodies int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.heard {
		all += conn.String()
		in := bufio.NewReader(bytes.NewReader(conn.Bytes()))
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				break
			}
			requests = append(requests, req.Method+" "+req.URL.Path)
			body, _ := io.ReadAll(req.Body) // a body that never came ends with an error
			if req.Method == http.MethodPost && strings.TrimSuffix(req.URL.Path, "/") == api.Prefix+"/jobs" {
				bodies += len(body)
			}
		}
	}
	return all, requests, bodies
}
