package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// ClientConfig is how a region is reached.
type ClientConfig struct {
	// Addr is a node of the home region: https://host:port.
	Addr string
	// Token is the bearer token of that region; empty for anonymous calls. It is
	// never sent to another region.
	Token string
	// CA is the PEM roots that the region's app listeners are verified with.
	CA []byte
	// TLS, when set, is used in the place of CA: a pinned configuration.
	TLS *tls.Config
	// Timeout bounds one ordinary request; streams and waits have none. 30 s if zero.
	Timeout time.Duration
	// Dial opens TCP connections; nil means the operating system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is the client's clock; nil means time.Now.
	Now func() time.Time
	// Receipt, if set, is told each leaf that a request left in the home region's
	// ledger, "<origin>#<leaf>"; a refusal leaves one too.
	Receipt func(id string)
}

// Client speaks to a region's app listener, and lands jobs in other regions
// when the home region may not see them. It starts nothing; it is safe for
// concurrent use.
type Client struct {
	cfg  ClientConfig
	home *door

	mu        sync.Mutex
	directory *Directory                      // guarded by mu; the last one fetched
	fetched   time.Time                       // guarded by mu; when directory was
	me        *Whoami                         // guarded by mu; as asked at meAt
	meAt      time.Time                       // guarded by mu
	packs     map[string]*residency.Pack      // guarded by mu; by hash
	doors     map[string]*door                // guarded by mu; foreign, by region and URL
	grants    map[placement.JobID]cachedGrant // guarded by mu; for reads
}

type cachedGrant struct {
	grant Grant
	door  *door
}

// door is one app listener and how to speak to it.
type door struct {
	region placement.RegionID // empty: home
	base   string
	// others lead to the same region: they are tried in turn when base does not
	// answer. What is asked there may be asked twice.
	others []string
	auth   string // the Authorization header
	http   *http.Client
	// receipt, if set, is told the leaves that a request left in the ledger.
	receipt func(id string)
}

// NewClient checks the configuration; it connects to nothing.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	base, err := checkBase(cfg.Addr)
	if err != nil {
		return nil, err
	}
	conf := cfg.TLS
	if conf == nil {
		if conf, err = tlsFor(cfg.CA); err != nil {
			return nil, err
		}
	}
	c := &Client{cfg: cfg, packs: map[string]*residency.Pack{}, doors: map[string]*door{}, grants: map[placement.JobID]cachedGrant{}}
	c.home = &door{base: base, http: c.httpClient(conf), receipt: cfg.Receipt}
	if cfg.Token != "" {
		c.home.auth = "Bearer " + cfg.Token
	}
	return c, nil
}

// checkBase wants https and a host, nothing else: a token must not travel in
// the clear, and a path would be another API.
func checkBase(addr string) (string, error) {
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
		return "", &InputError{Code: CodeUsage, Message: fmt.Sprintf("%s is no address of a node", quoteWord(addr)), Help: "give it as https://host:port, with --addr or SOVMESH_ADDR"}
	}
	return "https://" + u.Host, nil
}

func tlsFor(ca []byte) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) == 0 {
		return conf, nil
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(ca) {
		return nil, &InputError{Code: CodeUsage, Message: "the CA file holds no PEM certificate", Help: "give the file that the region's operator handed out, with --ca or SOVMESH_CA"}
	}
	return conf, nil
}

// httpClient follows no redirects: a body must go where it was judged to go.
// A body is sent only after the server asked for it with 100 Continue.
func (c *Client) httpClient(conf *tls.Config) *http.Client {
	dial := c.cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"http/1.1"}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
			// Without an answer to "Expect: 100-continue" nothing is ever sent.
			ExpectContinueTimeout: time.Hour,
			DisableCompression:    true,
		},
	}
}

// Close ends idle connections.
func (c *Client) Close() {
	c.home.http.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.doors {
		d.http.CloseIdleConnections()
	}
}

// request is one call in the making.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	in           any // marshalled as JSON, unless it is []byte
	out          any
	stream       bool // no deadline of the client's own
}

// call sends a request to a door and decodes its answer. An error of the
// server is a [*Problem]; one of the way there has code peer.unknown.
func (d *door) call(ctx context.Context, timeout time.Duration, r request) error {
	if !r.stream {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	res, err := d.send(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if r.out == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<20)).Decode(r.out); err != nil {
		return fmt.Errorf("%s %s: the answer of %s cannot be read: %w", r.method, r.path, d.base, err)
	}
	return nil
}

// doorWithin is how long a door may keep its first answer back while there is
// another to try.
const doorWithin = 4 * time.Second

// send makes the request and returns the response if it is a success; the
// caller closes its body. Of several doors the first that answers counts,
// whatever it answers.
func (d *door) send(ctx context.Context, r request) (*http.Response, error) {
	for i := 0; ; i++ {
		if i == len(d.others) {
			return d.sendTo(ctx, d.at(i), r)
		}
		try, cancel := context.WithCancelCause(ctx)
		late := time.AfterFunc(doorWithin, func() { cancel(errNoAnswer) })
		res, err := d.sendTo(try, d.at(i), r)
		if late.Stop() || err == nil {
			var p *Problem
			if err == nil || !errors.As(err, &p) || p.Code != CodePeerUnknown || ctx.Err() != nil {
				if err == nil {
					res.Body = &endedBody{res.Body, func() { cancel(nil) }}
				} else {
					cancel(nil)
				}
				return res, err
			}
		}
		cancel(nil)
		if ctx.Err() != nil {
			return nil, err
		}
	}
}

var errNoAnswer = errors.New("no answer in time")

// at is the i-th base of the door.
func (d *door) at(i int) string {
	if i == 0 {
		return d.base
	}
	return d.others[i-1]
}

// endedBody ends its request's context once it is closed.
type endedBody struct {
	io.ReadCloser
	end func()
}

func (b *endedBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// sendTo is send to one address.
func (d *door) sendTo(ctx context.Context, base string, r request) (*http.Response, error) {
	target := base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.in != nil {
		data, ok := r.in.([]byte)
		if !ok {
			var err error
			if data, err = json.Marshal(r.in); err != nil {
				return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
			}
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if d.auth != "" {
		req.Header.Set("Authorization", d.auth)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := d.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, base, err)
	}
	if d.receipt != nil {
		for _, id := range res.Header[HeaderReceipt] {
			d.receipt(id)
		}
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		return nil, readProblem(res)
	}
	return res, nil
}

// unreachable is what a client says when no answer came: whether the node
// works is unknown.
func unreachable(ctx context.Context, base string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) && !errors.Is(context.Cause(ctx), errNoAnswer) {
		return ctx.Err()
	}
	var who *tls.CertificateVerificationError
	if errors.As(err, &who) {
		return &Problem{Code: "peer.untrusted", Status: http.StatusBadGateway, Detail: fmt.Sprintf("%s shows a certificate that its CA file does not vouch for: %v", base, who.Err), Advice: "check the address, and that --ca is the file of that region"}
	}
	return &Problem{Code: CodePeerUnknown, Status: http.StatusServiceUnavailable, Detail: fmt.Sprintf("no answer from %s: %v", base, err), Advice: "check the address and that the node runs; another node of the region answers as well"}
}

// openAIError is how the inference front says what is wrong.
type openAIError struct {
	Error struct {
		Message, Code, Hint string
		Doors               []Door
	}
}

// readProblem reads an error document; anything else becomes one.
func readProblem(res *http.Response) error {
	p := &Problem{}
	data, _ := io.ReadAll(io.LimitReader(res.Body, 256<<10)) // a cut answer is judged by what came
	var front openAIError
	if err := json.Unmarshal(data, p); err == nil && p.Code == "" && json.Unmarshal(data, &front) == nil && front.Error.Code != "" {
		e := &front.Error
		p = newProblem(res.StatusCode, e.Code, strings.TrimSuffix(e.Message, ": "+e.Hint), e.Hint)
		p.Doors = e.Doors
	} else if err != nil || p.Code == "" {
		text := strings.TrimSpace(string(data[:min(len(data), 200)]))
		p = newProblem(res.StatusCode, CodeInternal, fmt.Sprintf("%s answered %s: %s", res.Request.URL.Host, res.Status, text), "check that the address is a sovmesh node")
	}
	p.Final = res.Header.Get(HeaderShouldRetry) == "false"
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
		p.RetryAfter = s
	}
	return p
}

// ask is a call to the home region.
func (c *Client) ask(ctx context.Context, method, path string, in, out any) error {
	return c.home.call(ctx, c.cfg.Timeout, request{method: method, path: Prefix + path, in: in, out: out})
}

// PinnedTLS is the configuration by which somebody who holds a join token or an
// invite, and no CA file yet, verifies an app listener of that region.
func PinnedTLS(pin identity.Pin, trustDomain string, clock func() time.Time) *tls.Config {
	return identity.ClientConfigPinned(pin, trustDomain, clock)
}
