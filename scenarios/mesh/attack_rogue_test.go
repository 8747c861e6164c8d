package mesh

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// rogue is an attacker's program on the mesh's network: the product's own
// transport, with a certificate and an address of the attacker's choice, which
// believes everybody and lets everything out.
type rogue struct {
	m        *Mesh
	id       identity.ID
	endpoint *transport.Endpoint
	mesh     *api.MeshClient
	stop     func()
}

// outside is the n-th address that belongs to no node.
func outside(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 66, 66, n}) }

// rogue starts the attacker's program.
func (m *Mesh) rogue(cred *identity.Credential, at netip.Addr) *rogue {
	m.t.Helper()
	bundles := &identity.MapBundles{}
	for _, r := range m.regions {
		bundles.Set(m.ca(r.spec.ID).Bundle())
	}
	socket, err := m.wan.socket(netip.AddrPortFrom(at, 7443))
	m.must(err)
	cfg := transport.DefaultConfig()
	cfg.Socket, cfg.Credential, cfg.Home = socket, identity.NewSource(cred), cred.ID.Region
	cfg.Verifier = &identity.Verifier{Home: cred.ID.Region, Mesh: Domain, Bundles: bundles, RaftPeer: func(identity.ID) bool { return true }}
	cfg.ResetKey, cfg.Guard, cfg.Log = [32]byte{at.As4()[3], 1}, anything{}, slog.New(m.log.handler("rogue"))
	e, err := transport.New(cfg)
	m.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx) // a refused attacker has nothing to say
	}()
	r := &rogue{m: m, id: cred.ID, endpoint: e, mesh: api.NewMeshClient(e), stop: sync.OnceFunc(func() {
		cancel()
		<-done
		_ = socket.Close()
	})}
	m.t.Cleanup(r.stop)
	return r
}

// anything is the guard of somebody who guards nothing.
type anything struct{}

func (anything) PermitEgress(context.Context, placement.RegionID, placement.RegionID, transport.Cargo) error {
	return nil
}

// peer is a node as the attacker dials it.
func (m *Mesh) peer(id placement.RegionID, name placement.NodeID) transport.Peer {
	return transport.Peer{ID: identity.ID{Region: id, Mesh: Domain, Node: name}, Addr: netip.AddrPortFrom(m.host(id, name).addr, 7443).String()}
}

// ca is a region's CA, taken from the disk of its first node.
func (m *Mesh) ca(id placement.RegionID) *identity.CA {
	m.t.Helper()
	ca, err := identity.ParseCA(m.caFile(id))
	m.must(err)
	return ca
}

func (m *Mesh) caFile(id placement.RegionID) []byte {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.region(id).hosts[0].dir, "ca.pem"))
	m.must(err)
	return data
}

// credential is a certificate that the region's CA itself gives; a ttl of zero
// is the ordinary one.
func (m *Mesh) credential(id placement.RegionID, name placement.NodeID, ttl time.Duration) *identity.Credential {
	m.t.Helper()
	key, err := identity.NewKey()
	m.must(err)
	csr, err := identity.NewCSR(key)
	m.must(err)
	chain, err := m.ca(id).IssueNode(csr, name, time.Now(), ttl)
	m.must(err)
	cred, err := identity.NewCredential(key, chain)
	m.must(err)
	return cred
}

// stolen is the certificate that a node uses now.
func (m *Mesh) stolen(id placement.RegionID, name placement.NodeID) *identity.Credential {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.host(id, name).dir, "node.pem"))
	m.must(err)
	cred, err := identity.ParseCredential(data)
	m.must(err)
	return cred
}

// forged is a certificate that the CA of one region signs for a node of
// another: package identity refuses to, crypto/x509 does not.
func (m *Mesh) forged(by, id placement.RegionID, name placement.NodeID) *identity.Credential {
	m.t.Helper()
	var blocks []*pem.Block
	for rest := m.caFile(by); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		blocks = append(blocks, b)
	}
	issuing, err := x509.ParseCertificate(blocks[3].Bytes)
	m.must(err)
	signer, err := x509.ParsePKCS8PrivateKey(blocks[4].Bytes)
	m.must(err)
	key, err := identity.NewKey()
	m.must(err)
	who := identity.ID{Region: id, Mesh: Domain, Node: name}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(666), URIs: []*url.URL{who.URI()},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, issuing, &key.PublicKey, signer.(*ecdsa.PrivateKey))
	m.must(err)
	cred, err := identity.NewCredential(key, [][]byte{leaf, issuing.Raw})
	m.must(err)
	return cred
}

// knock tries to open one class of connection to a peer, to where the peer has
// shown that it took us.
func (r *rogue) knock(class identity.Class, p transport.Peer) error {
	ctx, cancel := context.WithTimeout(r.m.t.Context(), 8*time.Second)
	defer cancel()
	closed := func(c io.Closer, err error) error {
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	switch class {
	case identity.ClassRaft:
		c, err := r.endpoint.Raft().Dial(ctx, p)
		return closed(c, err)
	case identity.ClassGossip:
		c, err := r.endpoint.Gossip().Dial(ctx, p)
		return closed(c, err)
	case identity.ClassInfer:
		head := transport.Head{RequestID: "r", Tenant: "t", Tag: "EU", LawPack: "x", Model: "m", Method: "POST", Path: "/v1/chat/completions"}
		s, err := r.endpoint.OpenInfer(ctx, p, transport.Cargo{Kind: transport.CargoInference}, head, []byte("{}"))
		if err != nil {
			return err
		}
		return s.Close()
	}
	res, err := r.ask(http.MethodGet, p, api.MeshPrefix+"/hello", nil, nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// ask sends any request over HTTP/3.
func (r *rogue) ask(method string, p transport.Peer, path string, header http.Header, body io.Reader) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.m.t.Context(), 8*time.Second)
	r.m.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, "https://"+p.Addr+path, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	return r.endpoint.Do(ctx, p, transport.Cargo{Kind: transport.CargoStatus}, req)
}

// answer is the status and code of what ask gives.
func (r *rogue) answer(method string, p transport.Peer, path string, header http.Header, body string) (status int, code string) {
	r.m.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	res, err := r.ask(method, p, path, header, in)
	r.m.must(err)
	return answerOf(res)
}

func answerOf(res *http.Response) (status int, code string) {
	defer res.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	for _, part := range strings.Split(string(data), `"code":"`)[1:] {
		code, _, _ = strings.Cut(part, `"`)
		break
	}
	return res.StatusCode, code
}

// propose sends a command to a voter as a node of the region that encodes it
// itself: nothing judges it but what runs there.
func (r *rogue) propose(to transport.Peer, cmd state.Command, at time.Time) (state.Result, error) {
	r.m.t.Helper()
	head := state.Head{Version: 1, Time: at, Actor: "node:" + string(r.id.Node)}
	_, _ = rand.Read(head.Salt[:])
	raw, err := state.Encode(head, cmd)
	r.m.must(err)
	ctx, cancel := context.WithTimeout(r.m.t.Context(), 8*time.Second)
	defer cancel()
	return r.mesh.Propose(ctx, to, raw)
}

// mustRefuse fails the test when the attack was let in.
func mustRefuse(m *Mesh, what string, err error) {
	m.t.Helper()
	if err == nil {
		m.t.Errorf("%s was let in", what)
	}
}

func (r *rogue) String() string { return fmt.Sprint(r.id) }

// readStatement is the payload of a signed statement.
func readStatement(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(data), ".")
	if !ok {
		text = string(data)
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatalf("%q: %v", data[:min(60, len(data))], err)
	}
	from, to := strings.Index(string(raw), "{"), strings.LastIndex(string(raw), `"law_pack"`)
	if from < 0 || to < from {
		t.Fatalf("no document in the statement: %q", raw[:min(200, len(raw))])
	}
	return string(raw[from:to])
}
