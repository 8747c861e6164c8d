package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	tree "github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/node/witness"
)

// An outside witness over HTTPS: what it may do to us with its answers is
// bounded, in time and in size, and nobody is led elsewhere by it.
func TestAnOutsideWitnessOverHTTP(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	release := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/w/add-checkpoint":
			w.Header().Set("Content-Type", tree.SizeType+"; charset=utf-8")
			w.WriteHeader(http.StatusConflict)
			_, _ = fmt.Fprintln(w, 17)
		case "/w/moved":
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case "/w/large":
			_, _ = w.Write(make([]byte, tree.MaxCheckpoint+1))
		case "/w/slow":
			_, _ = w.Write([]byte("— "))
			w.(http.Flusher).Flush()
			<-release
		}
	}))
	defer server.Close()
	defer close(release)
	client := outsideClient(nil)
	w, target := witnesses{http: client}, witness.Target{URL: server.URL + "/w"}
	if _, err := w.Post(t.Context(), target, "add-checkpoint", []byte("old 0\n\n")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	client.Transport.(*http.Transport).TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig
	a, err := w.Post(t.Context(), target, "add-checkpoint", []byte("old 0\n\n"))
	if err != nil || a.Status != http.StatusConflict || a.Type != tree.SizeType || string(a.Body) != "17\n" {
		t.Errorf("a conflict: %+v, %v", a, err)
	}
	if a, err := w.Get(t.Context(), target, "moved"); err != nil || a.Status != http.StatusTemporaryRedirect {
		t.Errorf("a redirect: %+v, %v", a, err)
	}
	if _, err := w.Get(t.Context(), target, "large"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an answer without end: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.Get(ctx, target, "slow"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an answer that drips: %v", err)
	}
}
