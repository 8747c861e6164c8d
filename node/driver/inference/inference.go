// Package inference serves models through a server that already runs on this
// node's loopback and speaks the OpenAI protocol, such as vLLM, SGLang,
// llama.cpp or Ollama.
//
// A task of this kind is a promise of the node: "this server answers, and has
// these models". Start asks the server before it makes the promise, and Wait
// keeps asking: a server that stays silent ends the task. The server itself
// belongs to whoever started it; it is never started, stopped or signalled
// by [Driver]. Only loopback addresses are spoken to, so that a job cannot make a node
// send prompts elsewhere.
//
// A job may bring its server along instead: [Servers] has the driver of the
// server's kind start it, and asks it until it is ready.
//
// The gateway sends requests to what [Driver.Endpoints] lists.
package inference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Config is what the driver needs; Dial must be set.
type Config struct {
	// Dial reaches model servers on this node; addr is host:port.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// ProbeTimeout bounds one question, ProbeEvery is the pause between two,
	// and a server that does not answer Failures in a row is gone.
	ProbeTimeout, ProbeEvery time.Duration
	Failures                 int
}

// DefaultConfig has everything but Dial.
func DefaultConfig() Config {
	return Config{ProbeTimeout: 3 * time.Second, ProbeEvery: 5 * time.Second, Failures: 3}
}

// maxModels bounds the answer of a server to the question what it has, in bytes.
const maxModels = 4 << 20

// Driver is the runner.Driver of model servers that are already there.
type Driver struct {
	cfg    Config
	client *http.Client

	mu    sync.Mutex
	tasks map[placement.TaskID]*task // guarded by mu
}

// task is guarded by Driver.mu.
type task struct {
	promise
	exit  *runner.Exit
	ended chan struct{} // closed when exit is set
}

// promise is what a handle remembers: enough to take a task up again.
type promise struct {
	Upstream string    `json:"upstream"`
	Models   []string  `json:"models"`
	Since    time.Time `json:"since"`
}

var _ runner.Driver = (*Driver)(nil)

// New starts nothing.
func New(cfg Config) (*Driver, error) {
	if cfg.Dial == nil || cfg.ProbeTimeout <= 0 || cfg.ProbeEvery <= 0 || cfg.Failures < 1 {
		return nil, errors.New("inference driver: Dial is not set or a setting is out of range; begin with DefaultConfig")
	}
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return cfg.Dial(ctx, addr) },
		DisableKeepAlives: true, // a question now and then; no connection is left behind
	}
	return &Driver{cfg: cfg, tasks: make(map[placement.TaskID]*task), client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Name is "inference".
func (d *Driver) Name() string { return string(placement.KindInference) }

// Fingerprint says what the driver does not do.
func (d *Driver) Fingerprint(context.Context) (runner.Fingerprint, error) {
	return runner.Fingerprint{Healthy: true, Version: "1", Facts: map[string]string{
		"isolation": "none: the model server belongs to the node",
		"limits":    "none are enforced on the model server",
	}}, nil
}

// ParseUpstream reads the address of a server. Anything but plain HTTP to a
// literal loopback address, or the name localhost, is refused.
func ParseUpstream(upstream string) (*url.URL, error) {
	u, err := url.Parse(upstream)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("upstream %q is no http URL of a server on this node, such as http://127.0.0.1:8000", upstream)
	}
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !addr.Unmap().IsLoopback()) {
		return nil, fmt.Errorf("upstream %q is not on this node's loopback: only 127.0.0.0/8, ::1 and localhost are", upstream)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(host, "80")
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1")
	return u, nil
}

// Start asks the server for its models and promises those of the job.
func (d *Driver) Start(ctx context.Context, spec runner.Spec) (runner.Handle, error) {
	p := promise{Upstream: spec.Upstream, Models: slices.Clone(spec.Models), Since: time.Now()}
	h, err := d.handle(spec.Task, p)
	if err != nil {
		return runner.Handle{}, err
	}
	d.mu.Lock()
	_, there := d.tasks[spec.Task]
	d.mu.Unlock()
	if there {
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	}
	if err := spec.Keep(h); err != nil {
		return runner.Handle{}, fmt.Errorf("keep the handle of task %s: %w", spec.Task, err)
	}
	if err := d.probe(ctx, p); err != nil {
		if ctx.Err() != nil {
			return runner.Handle{}, ctx.Err()
		}
		d.adopt(spec.Task, p)
		d.end(spec.Task, runner.Exit{Code: 1, Reason: err.Error(), At: time.Now()})
		return runner.Handle{}, &runner.StartError{Task: spec.Task, Reason: err.Error(), Advice: "start the model server on the node, or correct upstream and models in the job"}
	}
	d.adopt(spec.Task, p)
	return h, nil
}

func (d *Driver) handle(id placement.TaskID, p promise) (runner.Handle, error) {
	data, err := json.Marshal(p)
	return runner.Handle{Version: 1, Driver: d.Name(), Task: id, Data: data}, err
}

// adopt takes the task up unless it is there.
func (d *Driver) adopt(id placement.TaskID, p promise) *task {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tasks[id] == nil {
		d.tasks[id] = &task{promise: p, ended: make(chan struct{})}
	}
	return d.tasks[id]
}

// probe asks the server once and checks that it has the models.
func (d *Driver) probe(ctx context.Context, p promise) error {
	if _, err := ParseUpstream(p.Upstream); err != nil {
		return err
	}
	return probeModels(ctx, d.client, d.cfg.ProbeTimeout, p.Upstream, p.Models)
}

// probeModels asks a server what it has; it must be all of models.
func probeModels(ctx context.Context, client *http.Client, within time.Duration, upstream string, models []string) error {
	u, err := ParseUpstream(upstream)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String()+"/v1/models", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the model server %s does not answer: %w", upstream, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxModels+1))
	if err != nil {
		return fmt.Errorf("the model server %s broke its answer off: %w", upstream, err)
	}
	if res.StatusCode != http.StatusOK || len(body) > maxModels {
		return fmt.Errorf("the model server %s answered GET /v1/models with status %d and %d bytes", upstream, res.StatusCode, len(body))
	}
	has, err := parseModels(body)
	if err != nil {
		return fmt.Errorf("the model server %s: %w", upstream, err)
	}
	for _, m := range models {
		if !slices.Contains(has, m) {
			return fmt.Errorf("the model server %s does not have the model %q; it has: %s", upstream, m, shorten(has))
		}
	}
	return nil
}

func shorten(names []string) string {
	if len(names) > 8 {
		names = append(slices.Clone(names[:8]), fmt.Sprintf("and %d more", len(names)-8))
	}
	return strings.Join(names, ", ")
}

// parseModels reads the answer to GET /v1/models.
func parseModels(body []byte) ([]string, error) {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("its list of models is no OpenAI list: %w", err)
	}
	names := make([]string, 0, len(list.Data))
	for _, m := range list.Data {
		names = append(names, m.ID)
	}
	return names, nil
}
