package tour

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/inference/canary"
	"github.com/sovmesh/sovmesh/placement"
)

// streaming is an answer on its way to a client.
func streaming() []step {
	return []step{{
		"tokens stream from Germany to a client in France",
		"POST https://fra-1/v1/chat/completions, stream: true, X-Data-Residency: EU (the model is an inference job tagged DE)", (*player).stream,
	}}
}

const (
	modelName = "canary"
	tokens    = 20
	tokenGap  = 40 * time.Millisecond
)

// serveModel starts the responder that stands for a model server.
func (p *player) serveModel(ctx context.Context) (addr string, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: canary.New(canary.Config{Models: []string{modelName}, TokenEvery: tokenGap}), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l) // ends by Close
	}()
	p.ends = append(p.ends, func() { _ = srv.Close(); <-ended })
	return l.Addr().String(), nil
}

func (p *player) stream(ctx context.Context) (string, error) {
	addr, err := p.serveModel(ctx)
	if err != nil {
		return "", err
	}
	s, err := submit(ctx, p.fr, fmt.Sprintf(`{name: model, kind: inference, type: service, residency: DE, models: [%s], upstream: "http://%s"}`, modelName, addr))
	if err != nil {
		return "", err
	}
	if _, err := until(ctx, p.fr, s.Job.ID, is(placement.JobRunning)); err != nil {
		return "", err
	}
	p.model = s.Job.ID
	var t told
	// France learns of the model by Germany's next summary.
	err = eventually(ctx, 10*time.Second, func() (err error) { t, err = p.chat(ctx); return err })
	if err != nil {
		return "", err
	}
	switch {
	case t.region != string(germany) || t.hops != "1":
		return "", fmt.Errorf("the answer came from %q after %q hops", t.region, t.hops)
	case t.chunks < tokens || !t.done:
		return "", fmt.Errorf("%d chunks came, the end was told: %v", t.chunks, t.done)
	case t.last-t.first < tokens/2*tokenGap:
		return "", fmt.Errorf("all came at once, within %s", ms(t.last-t.first))
	}
	return fmt.Sprintf("%d chunks from %s, %s hop; the first after %s, the last after %s", t.chunks, t.region, t.hops, ms(t.first), ms(t.last)), nil
}

// told is what a stream was like.
type told struct {
	region, hops string
	chunks       int
	first, last  time.Duration
	done         bool
}

// chat is a client in France with any OpenAI SDK, spelled out.
func (p *player) chat(ctx context.Context) (told, error) {
	var t told
	cfg := p.mesh.Access(p.mesh.Nodes(france)[0])
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cfg.CA)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer tr.CloseIdleConnections()
	body := fmt.Sprintf(`{"model":%q,"stream":true,"max_tokens":%d,"messages":[{"role":"user","content":"Where do you run?"}]}`, modelName, tokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cfg.Addr+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return t, err
	}
	req.Header.Set("Authorization", "Bearer "+cfg.Token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Data-Residency", "EU")
	begin := time.Now()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return t, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what came of it is enough to tell
		return t, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	t.region, t.hops = res.Header.Get("X-Sovmesh-Region"), res.Header.Get("X-Sovmesh-Hops")
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
		case data == "[DONE]":
			t.done = true
		case strings.Contains(data, `"error"`):
			return t, errors.New("the stream ended with " + data)
		default:
			t.chunks++
			t.last = time.Since(begin)
			if t.chunks == 1 {
				t.first = t.last
			}
		}
	}
	return t, lines.Err()
}
