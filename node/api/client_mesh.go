package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Mesh is the QUIC endpoint as the API uses it.
type Mesh interface {
	Do(ctx context.Context, p transport.Peer, cargo transport.Cargo, req *http.Request) (*http.Response, error)
	// Permit asks the egress guard about bytes that leave as an answer.
	Permit(ctx context.Context, to placement.RegionID, cargo transport.Cargo) error
}

// Contexts of signed statements.
const (
	ContextGrant     = "sovmesh/grant/1"
	ContextSummary   = "sovmesh/summary/1"
	ContextDirectory = "sovmesh/directory/1"
)

// MeshClient asks other nodes over HTTP/3 with mutual TLS: those of the own
// region everything a node needs, those of other regions what law 4 lists. It
// has no deadline of its own: the caller's context bounds every call.
type MeshClient struct {
	mesh  Mesh
	whose placement.TenantID
}

// NewMeshClient wraps an endpoint.
func NewMeshClient(m Mesh) *MeshClient { return &MeshClient{mesh: m} }

// For is the client for what a tenant's people and tasks read and write: what stands
// still there keeps nothing from other tenants.
func (m *MeshClient) For(t placement.TenantID) *MeshClient { return &MeshClient{m.mesh, t} }

// lasting is a request that stands as long as its reader does.
func (m *MeshClient) lasting(what transport.Lasting, c transport.Cargo) transport.Cargo {
	c.Lasting, c.Whose = what, string(m.whose)
	return c
}

func (m *MeshClient) session(k transport.CargoKind) transport.Cargo {
	return m.lasting(transport.LastingSession, cargo(k))
}

// meshCall is one request to a peer.
type meshCall struct {
	method, path string
	cargo        transport.Cargo
	header       http.Header
	in           []byte
}

func (m *MeshClient) send(ctx context.Context, p transport.Peer, c meshCall) (*http.Response, error) {
	var body io.Reader
	if c.in != nil {
		body = bytes.NewReader(c.in)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, "https://"+p.Addr+MeshPrefix+c.path, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", p.Addr, err)
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	if c.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := m.mesh.Do(ctx, p, c.cargo, req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		if res.Request == nil {
			res.Request = req
		}
		return nil, readProblem(res)
	}
	return res, nil
}

func meshJSON[T any](ctx context.Context, m *MeshClient, p transport.Peer, c meshCall, in any) (*T, error) {
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", c.method, c.path, err)
		}
		c.in = data
	}
	res, err := m.send(ctx, p, c)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out := new(T)
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<20)).Decode(out); err != nil {
		return nil, fmt.Errorf("the answer of %s to %s cannot be read: %w", p.ID, c.path, err)
	}
	return out, nil
}

func cargo(k transport.CargoKind) transport.Cargo { return transport.Cargo{Kind: k} }

// Hello asks a node for its clock and health.
func (m *MeshClient) Hello(ctx context.Context, p transport.Peer) (*Hello, error) {
	return meshJSON[Hello](ctx, m, p, meshCall{method: http.MethodGet, path: "/hello", cargo: cargo(transport.CargoStatus)}, nil)
}

// Propose hands an encoded command to a voter of the own region. A refusal by
// Apply is part of the result, not an error.
func (m *MeshClient) Propose(ctx context.Context, p transport.Peer, raw []byte) (state.Result, error) {
	out, err := meshJSON[state.Result](ctx, m, p, meshCall{
		method: http.MethodPost, path: "/propose", cargo: cargo(transport.CargoStatus), in: raw,
		// The salt in a command makes a repetition harmless: the same id each time.
		header: http.Header{HeaderIdempotency: {"command"}, "Content-Type": {"application/octet-stream"}},
	}, nil)
	if err != nil {
		return state.Result{}, err
	}
	return *out, nil
}

// Certificate renews the caller's own certificates.
func (m *MeshClient) Certificate(ctx context.Context, p transport.Peer, r CertificateRequest) (*CertificateAnswer, error) {
	return meshJSON[CertificateAnswer](ctx, m, p, meshCall{method: http.MethodPost, path: "/certificate", cargo: cargo(transport.CargoCertificate)}, r)
}

// Authority is the region's CA state and the keys of its log, for a node that is
// a voter.
func (m *MeshClient) Authority(ctx context.Context, p transport.Peer) (*AuthoritySecrets, error) {
	return meshJSON[AuthoritySecrets](ctx, m, p, meshCall{method: http.MethodGet, path: "/authority", cargo: cargo(transport.CargoStatus)}, nil)
}

// TaskSecrets are the secrets of a task of this node that is to start, by name.
func (m *MeshClient) TaskSecrets(ctx context.Context, p transport.Peer, task placement.TaskID) (map[string][]byte, error) {
	out, err := meshJSON[map[string][]byte](ctx, m, p, meshCall{method: http.MethodGet, path: "/tasks/" + string(task) + "/secrets", cargo: cargo(transport.CargoStatus)}, nil)
	if err != nil {
		return nil, err
	}
	return *out, nil
}

// Keyring is the region's gossip keys as a node of the region holds them.
func (m *MeshClient) Keyring(ctx context.Context, p transport.Peer) (*Keyring, error) {
	return meshJSON[Keyring](ctx, m, p, meshCall{method: http.MethodGet, path: "/keyring", cargo: cargo(transport.CargoStatus)}, nil)
}

// OfferKeyring hands the gossip keys to a node of the own region, and gives
// those that it holds then.
func (m *MeshClient) OfferKeyring(ctx context.Context, p transport.Peer, ring Keyring) (*Keyring, error) {
	return meshJSON[Keyring](ctx, m, p, meshCall{method: http.MethodPut, path: "/keyring", cargo: cargo(transport.CargoStatus)}, ring)
}

// TaskLogs is the output of a task on the asked node of the own region.
func (m *MeshClient) TaskLogs(ctx context.Context, p transport.Peer, task placement.TaskID, from int64, follow bool) (io.ReadCloser, error) {
	path := "/tasks/" + string(task) + "/logs?from=" + strconv.FormatInt(from, 10) + "&follow=" + strconv.FormatBool(follow)
	res, err := m.send(ctx, p, meshCall{method: http.MethodGet, path: path, cargo: m.session(transport.CargoStatus)})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// TaskOutputs are the files that a task on the asked node of the own region left.
func (m *MeshClient) TaskOutputs(ctx context.Context, p transport.Peer, task placement.TaskID) (*JobOutputs, error) {
	return m.outputs(ctx, p, "/tasks/"+string(task)+"/outputs")
}

// TaskOutput reads one of them, by its digest.
func (m *MeshClient) TaskOutput(ctx context.Context, p transport.Peer, task placement.TaskID, digest string) (io.ReadCloser, error) {
	return m.output(ctx, p, "/tasks/"+string(task)+"/outputs/"+digest)
}

func (m *MeshClient) outputs(ctx context.Context, p transport.Peer, path string) (*JobOutputs, error) {
	res, err := m.send(ctx, p, meshCall{method: http.MethodGet, path: path, cargo: cargo(transport.CargoStatus)})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return readOutputs(res.Body)
}

func (m *MeshClient) output(ctx context.Context, p transport.Peer, path string) (io.ReadCloser, error) {
	res, err := m.send(ctx, p, meshCall{method: http.MethodGet, path: path, cargo: m.session(transport.CargoStatus)})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Summary asks an active peer for its signed summary. The signer must be of
// the region asked.
func (m *MeshClient) Summary(ctx context.Context, p transport.Peer, v *identity.Verifier, now time.Time) (*SummaryStatement, error) {
	res, err := m.send(ctx, p, meshCall{method: http.MethodGet, path: "/summary", cargo: cargo(transport.CargoSummary)})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, identity.MaxStatement+1))
	if err != nil {
		return nil, fmt.Errorf("summary of %s: %w", p.ID.Region, err)
	}
	payload, signer, _, err := identity.Open(string(text), ContextSummary, v, now)
	if err != nil {
		return nil, fmt.Errorf("summary of %s: %w", p.ID.Region, err)
	}
	out := &SummaryStatement{}
	if err := json.Unmarshal(payload, out); err != nil { // a newer peer may say more
		return nil, fmt.Errorf("summary of %s: %w", p.ID.Region, err)
	}
	if signer.Region != p.ID.Region || out.Summary.Region != p.ID.Region {
		return nil, fmt.Errorf("summary of %s: it is signed by %s and speaks of %s", p.ID.Region, signer.Region, out.Summary.Region)
	}
	return out, nil
}

// Reserve asks another region's leader to hold room. An answer that is not held
// is a committed refusal; an error means that the outcome is unknown.
func (m *MeshClient) Reserve(ctx context.Context, p transport.Peer, r ReserveRequest) (*ReserveAnswer, error) {
	return meshJSON[ReserveAnswer](ctx, m, p, meshCall{
		method: http.MethodPost, path: "/reservations", cargo: cargo(transport.CargoReservation),
		header: http.Header{HeaderIdempotency: {fmt.Sprintf("%s/%d", r.Job, r.Attempt)}},
	}, r)
}

// Release gives held room back before it expires.
func (m *MeshClient) Release(ctx context.Context, p transport.Peer, key string) error {
	res, err := m.send(ctx, p, meshCall{
		method: http.MethodDelete, path: "/reservations/" + url.PathEscape(key), cargo: cargo(transport.CargoReservation),
		header: http.Header{HeaderIdempotency: {key}},
	})
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Forward sends a job's body to the region that holds room for it. The guard of
// the endpoint judges the policy before a byte leaves; the header is judged
// there before the body is read. A refusal there is a [*Problem].
func (m *MeshClient) Forward(ctx context.Context, p transport.Peer, policy residency.Policy, j ForwardedJob) (*ForeignStatus, error) {
	return meshJSON[ForeignStatus](ctx, m, p, meshCall{
		method: http.MethodPost, path: "/jobs", cargo: transport.Cargo{Kind: transport.CargoJob, Policy: policy},
		header: http.Header{HeaderResidency: {j.Residency}, HeaderReservation: {j.Reservation}, HeaderIdempotency: {j.Reservation}},
	}, j)
}

// JobStatus is how a forwarded job stands, as soon as its index is beyond the
// given one, or after the wait.
func (m *MeshClient) JobStatus(ctx context.Context, p transport.Peer, id placement.JobID, index uint64, wait time.Duration) (*ForeignStatus, error) {
	path := "/jobs" + seg(id)
	if wait > 0 {
		path += "?wait=" + wait.String() + "&index=" + strconv.FormatUint(index, 10)
	}
	return meshJSON[ForeignStatus](ctx, m, p, meshCall{method: http.MethodGet, path: path, cargo: cargo(transport.CargoStatus)}, nil)
}

// Stop asks the region that runs a forwarded job to end it.
func (m *MeshClient) Stop(ctx context.Context, p transport.Peer, id placement.JobID) (*ForeignStatus, error) {
	return meshJSON[ForeignStatus](ctx, m, p, meshCall{
		method: http.MethodDelete, path: "/jobs" + seg(id), cargo: cargo(transport.CargoStatus), header: http.Header{HeaderIdempotency: {string(id)}},
	}, nil)
}

// JobLogs is the output of a forwarded job; the other region sends it only if
// the job's policy lets its output come here.
func (m *MeshClient) JobLogs(ctx context.Context, p transport.Peer, id placement.JobID, from int64, follow bool) (io.ReadCloser, error) {
	path := "/jobs" + seg(id) + "/logs?from=" + strconv.FormatInt(from, 10) + "&follow=" + strconv.FormatBool(follow)
	res, err := m.send(ctx, p, meshCall{method: http.MethodGet, path: path, cargo: m.session(transport.CargoStatus)})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// JobOutputs are the files that a forwarded job left; the other region sends them,
// and their names, only if the job's policy lets its output come here.
func (m *MeshClient) JobOutputs(ctx context.Context, p transport.Peer, id placement.JobID) (*JobOutputs, error) {
	return m.outputs(ctx, p, "/jobs"+seg(id)+"/outputs")
}

// JobOutput reads one of them, by its digest.
func (m *MeshClient) JobOutput(ctx context.Context, p transport.Peer, id placement.JobID, digest string) (io.ReadCloser, error) {
	return m.output(ctx, p, "/jobs"+seg(id)+"/outputs/"+digest)
}

// strictJSON decodes one JSON document and nothing beyond it; an unknown field
// is an error.
func strictJSON(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON document")
	}
	return nil
}
