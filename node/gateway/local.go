package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// errNoServer is wrapped when no connection to a model server could be had.
var errNoServer = errors.New("the model server on this node cannot be reached")

// local asks the model servers on this node, over HTTP/1.1 on loopback.
type local struct{ client *http.Transport }

func newLocal(dial func(ctx context.Context, addr string) (net.Conn, error)) *local {
	return &local{&http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			c, err := dial(ctx, addr)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errNoServer, err)
			}
			return c, nil
		},
		// No proxy, no compression, and no bound on connections: two hundred
		// streams at once are two hundred connections, none queued behind another.
		DisableCompression:     true,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    512,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

// ask posts a body to a model server. Only the head's own fields go with it.
func (l *local) ask(ctx context.Context, upstream string, head transport.Head, body []byte) (Hop, error) {
	target, err := upstreamURL(upstream, head.Path)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, head.Method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	set := func(name, value string) {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	set("Content-Type", head.ContentType)
	set("Accept", head.Accept)
	set("OpenAI-Beta", head.APIBeta)
	set("Anthropic-Version", head.APIVersion)
	set("X-Request-Id", head.RequestID)
	r.Header.Set("User-Agent", "sovmesh")
	// A server that its job brought is ended once nobody is connected to it: a
	// connection there is one request, and not kept for later ones.
	r.Close = strings.HasPrefix(upstream, "task:")
	// RoundTrip and not a Client: a model server that redirects would send the
	// prompt wherever it names.
	resp, err := l.client.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 || resp.StatusCode < 200 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the model server answered with status %d, which is no answer", resp.StatusCode)
	}
	return &localHop{ReadCloser: resp.Body, head: localHead(resp)}, nil
}

type localHop struct {
	io.ReadCloser
	head transport.Answer
}

func (h *localHop) Head() transport.Answer { return h.head }

func localHead(resp *http.Response) transport.Answer {
	a := transport.Answer{
		Status:      uint16(min(resp.StatusCode, 599)),
		ContentType: clean(resp.Header.Get("Content-Type"), 256),
		RequestID:   clean(resp.Header.Get("X-Request-Id"), 128),
		Size:        resp.ContentLength,
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		a.RetryAfter = time.Duration(min(n, 60)) * time.Second
	}
	return a
}

// clean keeps what a head may hold: no control characters, at most n bytes.
func clean(s string, n int) string {
	s = strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return -1
		}
		return c
	}, s)
	return s[:min(len(s), n)]
}

// upstreamURL joins a deployment's upstream with the path of a request. The
// upstream is on the node's own loopback: anything else would let a job file
// send prompts out of the region, past every check.
func upstreamURL(upstream, path string) (string, error) {
	u, err := url.Parse(upstream)
	if err == nil && u.Scheme == "task" {
		if _, _, err := placement.ParseTaskAddr(u.Host); err != nil {
			return "", fmt.Errorf("the deployment's upstream %.80q names no task: %w", upstream, err)
		}
		return "http://" + u.Host + path, nil
	}
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("the deployment's upstream %.80q is not of the form http://127.0.0.1:8000", upstream)
	}
	if !loopback(u.Hostname()) {
		return "", fmt.Errorf("the deployment's upstream %.80q is not on this node's loopback", upstream)
	}
	base := strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1")
	return "http://" + u.Host + base + path, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// eventStream reports whether a content type is that of a stream of events.
func eventStream(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "text/event-stream"
}
