package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// keeper is a [Receipts] that remembers.
type keeper struct {
	mu   sync.Mutex
	name string
	all  []*kept       // guarded by mu
	busy *ReceiptError // guarded by mu
}

type kept struct {
	k     *keeper
	id    string
	begin ReceiptBegin
	end   *ReceiptEnd
	body  bytes.Buffer
}

func (k *keeper) Ready() *ReceiptError {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.busy
}

func (k *keeper) Begin(b ReceiptBegin) Receipt { return &kept{k: k, begin: b} }

func (k *keeper) Find(context.Context, string) (string, any, *Error) {
	return "default", map[string]string{"state": "promised"}, nil
}

func (r *kept) Write(p []byte) (int, error) { return r.body.Write(p) }

func (r *kept) Promise(context.Context) (string, *ReceiptError) {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	if r.k.busy != nil {
		busy := *r.k.busy
		busy.Dropped = !r.begin.Required
		return "", &busy
	}
	if r.id == "" {
		r.k.all = append(r.k.all, r)
		r.id = fmt.Sprintf("%s.c0.1.%d", r.k.name, len(r.k.all)-1)
	}
	return r.id, nil
}

func (r *kept) Finish(ctx context.Context, e ReceiptEnd) (string, *ReceiptError) {
	id, err := r.Promise(ctx)
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	r.end = &e
	return id, err
}

func (k *keeper) list() []*kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]*kept(nil), k.all...)
}

// withReceipts is a region with one model server and a keeper.
func withReceipts(t *testing.T) (*node, *keeper) {
	b := newBook(t, "eu", "FR", 1)
	n := newNet(t, b)
	k := &keeper{name: "eu"}
	up := newServer(t, talk("hello")).url
	b.deploy("default", "EEA", "m", up, "n1")
	return n.start(b, "n1", func(c *Config) { c.Receipts = k }), k
}

func TestEveryAnswerHasAReceipt(t *testing.T) {
	nd, k := withReceipts(t)
	for _, c := range []struct {
		name, body string
		status     int
		outcome    ReceiptOutcome
	}{
		{"whole", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`, 200, ReceiptAnswered},
		{"stream", `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`, 200, ReceiptAnswered},
		{"no such model", `{"model":"x","messages":[]}`, 404, ReceiptRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(k.list())
			resp, body := postReceipt(t, nd, c.body, nil)
			all := k.list()
			if resp.StatusCode != c.status || len(all) != before+1 {
				t.Fatalf("status %d, %d receipts: %s", resp.StatusCode, len(all)-before, body)
			}
			r := all[before]
			if got := resp.Header.Get(receiptHeader); got != r.id || r.end == nil {
				t.Fatalf("the header names %q, the receipt is %q, over: %v", got, r.id, r.end != nil)
			}
			if sha256.Sum256(body) != sha256.Sum256(r.body.Bytes()) {
				t.Errorf("the receipt covers %q, the client has %q", r.body.Bytes(), body)
			}
			if r.end.Outcome != c.outcome || r.end.Status != c.status || string(r.begin.Body) != c.body || r.begin.Owner != "default" {
				t.Errorf("the receipt is %+v, %+v", r.begin, r.end)
			}
		})
	}
}

func postReceipt(t *testing.T, nd *node, body string, header map[string]string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, nd.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer sk-eu")
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := nd.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, out
}

func TestRequiredEvidenceHoldsBackAndBestEffortGoesOn(t *testing.T) {
	nd, k := withReceipts(t)
	k.mu.Lock()
	k.busy = &ReceiptError{Why: "the disk is full", RetryAfter: 5 * time.Second}
	k.mu.Unlock()
	const body = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	resp, said := postReceipt(t, nd, body, nil)
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "5" || !strings.Contains(string(said), "evidence_busy") {
		t.Errorf("required evidence: %d, Retry-After %q, %s", resp.StatusCode, resp.Header.Get("Retry-After"), said)
	}
	resp, said = postReceipt(t, nd, body, map[string]string{evidenceHeader: "best-effort"})
	if resp.StatusCode != 200 || resp.Header.Get(receiptHeader) != receiptDropped {
		t.Errorf("best effort: %d, receipt %q, %s", resp.StatusCode, resp.Header.Get(receiptHeader), said)
	}
}

func TestBothRegionsQuoteEachOthersReceipt(t *testing.T) {
	de, fr := newBook(t, "de", "DE", 1), newBook(t, "fr", "FR", 1)
	federate(de, fr)
	n := newNet(t, de, fr)
	home, away := &keeper{name: "de"}, &keeper{name: "fr"}
	up := newServer(t, talk("hello")).url
	fr.deploy("default", "EEA", "m", up, "n1")
	n.start(fr, "n1", func(c *Config) { c.Receipts = away })
	entry := n.start(de, "n1", func(c *Config) { c.Receipts = home })
	entry.peers.learn(fr, "fr-n1:7443")
	resp, body := postReceipt(t, entry, `{"model":"m","messages":[{"role":"user","content":"hi"}]}`, nil)
	if resp.StatusCode != 200 {
		t.Fatalf("%d: %s", resp.StatusCode, body)
	}
	here, there := home.list(), away.list()
	if len(here) != 1 || len(there) != 1 || here[0].end == nil || there[0].end == nil {
		t.Fatalf("%d receipts here, %d there", len(here), len(there))
	}
	if here[0].end.Peer != there[0].id || there[0].end.Peer != here[0].id {
		t.Errorf("here quotes %q of %q, there quotes %q of %q", here[0].end.Peer, there[0].id, there[0].end.Peer, here[0].id)
	}
	if there[0].begin.Owner != "de/default" || here[0].begin.RequestID != there[0].begin.RequestID || here[0].end.Region != "fr" {
		t.Errorf("the receipts are %+v and %+v", here[0].begin, there[0].begin)
	}
}

func TestAReceiptIsForItsTenantAlone(t *testing.T) {
	nd, _ := withReceipts(t)
	for key, want := range map[string]int{"sk-eu": 200, "sk-acme": 404, "sk-none": 401} {
		req, err := http.NewRequest(http.MethodGet, nd.url+"/v1/receipts/eu.c0.1.0", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := nd.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s gets %d, expected %d", key, resp.StatusCode, want)
		}
	}
}
