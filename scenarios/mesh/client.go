package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// waitLeader bounds the wait for a leader.
const waitLeader = 30 * time.Second

// Run runs a test in a bubble whose clock begins at [Begin].
func Run(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(Begin))
		test(t)
	})
}

// Client is an application or operator at a region: it speaks to the first of
// the region's nodes that is up, and to another one when that dies.
type Client struct {
	*api.Client
	m      *Mesh
	region placement.RegionID
}

// At is a client of a region with every role.
func (m *Mesh) At(id placement.RegionID) *Client {
	m.t.Helper()
	r := m.region(id)
	for _, h := range r.hosts {
		if h.node != nil {
			return m.AtNode(id, h.name)
		}
	}
	m.t.Fatalf("no node of %s is up", id)
	return nil
}

// AtNode is a client that speaks to one node.
func (m *Mesh) AtNode(id placement.RegionID, name placement.NodeID) *Client {
	m.t.Helper()
	return m.AtNodeWith(id, name, m.region(id).token)
}

// AtNodeWith is a client of one node with a token of the caller's.
func (m *Mesh) AtNodeWith(id placement.RegionID, name placement.NodeID, token string) *Client {
	m.t.Helper()
	r, h := m.region(id), m.host(id, name)
	c, err := api.NewClient(api.ClientConfig{
		Addr: "https://" + netip.AddrPortFrom(h.addr, 7443).String(), Token: token, CA: []byte(r.ca),
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return m.tcp.dial(ctx, netip.Addr{}, addr)
		},
	})
	m.must(err)
	m.t.Cleanup(c.Close)
	return &Client{Client: c, m: m, region: id}
}

// Job is a submitted job, followed through the region that it was submitted at.
type Job struct {
	m      *Mesh
	home   placement.RegionID
	ID     placement.JobID
	Landed placement.RegionID
}

// Submit submits a job file and fails the test if it is refused.
func (c *Client) Submit(file string) *Job {
	c.m.t.Helper()
	job, err := c.TrySubmit(file)
	c.m.must(err)
	return job
}

// TrySubmit submits a job file.
func (c *Client) TrySubmit(file string) (*Job, error) {
	read, err := api.ReadJob([]byte(file), api.JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.m.t.Context(), 15*time.Second)
	defer cancel()
	out, err := c.Client.Submit(ctx, read, api.SubmitOptions{})
	if err != nil {
		return nil, err
	}
	return &Job{m: c.m, home: c.region, ID: out.Job.ID, Landed: out.Landed}, nil
}

// Now is the job's document as its home (or where it landed) has it.
func (j *Job) Now() *placement.Job {
	at := j.home
	if j.Landed != "" {
		at = j.Landed
	}
	if view := j.m.region(at).newest(); view != nil {
		return view.Job(j.ID)
	}
	return nil
}

// Is reports, as a condition for Within, whether the job has the status.
func (j *Job) Is(status placement.JobStatus) func() bool {
	return func() bool { doc := j.Now(); return doc != nil && doc.Status == status }
}

// Exited reports whether the job ended with the exit code.
func (j *Job) Exited(code int) func() bool {
	return func() bool {
		doc := j.Now()
		return doc != nil && doc.Status.Terminal() && doc.ExitCode != nil && *doc.ExitCode == code
	}
}

// String shows the job's document, for failures.
func (j *Job) String() string {
	if doc := j.Now(); doc != nil {
		return fmt.Sprintf("%s: %s in %q on %q: %s", j.ID, doc.Status, doc.Region, doc.Node, doc.Reason)
	}
	return string(j.ID) + ": not known"
}

// Within waits, in virtual time, until the condition holds, and fails naming
// what was waited for.
func (m *Mesh) Within(d time.Duration, what string, cond func() bool) {
	m.t.Helper()
	for end := time.Now().Add(d); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("not within %s: %s", d, what)
		}
	}
}

// Code is the code of a refusal by the API or the readers of tags and files.
func Code(err error) string {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	var in *api.InputError
	if errors.As(err, &in) {
		return in.Code
	}
	var tag *residency.Error
	if errors.As(err, &tag) {
		return tag.Code
	}
	return ""
}

// Raw sends a request to a node's app listener as a program that is not ours
// would, and gives status and code of the answer.
func (m *Mesh) Raw(method string, id placement.RegionID, name placement.NodeID, path string, header http.Header, body string) (status int, code string) {
	m.t.Helper()
	status, data := m.request(method, id, name, path, header, body)
	if _, rest, ok := strings.Cut(string(data), `"code":"`); ok {
		code, _, _ = strings.Cut(rest, `"`)
	}
	return status, code
}

// Fetch reads what needs no token.
func (m *Mesh) Fetch(id placement.RegionID, name placement.NodeID, path string) (status int, body []byte) {
	m.t.Helper()
	return m.request(http.MethodGet, id, name, path, nil, "")
}

func (m *Mesh) request(method string, id placement.RegionID, name placement.NodeID, path string, header http.Header, body string) (int, []byte) {
	m.t.Helper()
	status, _, data := m.answer(method, id, name, path, header, body)
	return status, data
}

// answer is request with the header of what came.
func (m *Mesh) answer(method string, id placement.RegionID, name placement.NodeID, path string, header http.Header, body string) (int, http.Header, []byte) {
	m.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(m.region(id).ca))
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return m.tcp.dial(ctx, netip.Addr{}, addr)
		},
	}}
	req, err := http.NewRequestWithContext(m.t.Context(), method, "https://"+netip.AddrPortFrom(m.host(id, name).addr, 7443).String()+path, strings.NewReader(body))
	m.must(err)
	if header != nil {
		req.Header = header.Clone()
	}
	res, err := c.Do(req)
	m.must(err)
	defer res.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(res.Body, 4<<20)) // a cut answer is judged by what came
	return res.StatusCode, res.Header, data
}
