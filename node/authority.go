package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// errNoAuthority is the answer of a node that holds no CA: it votes not, or
// has not been handed the keys yet.
var errNoAuthority = errors.New("this node holds no region CA; ask a voter")

// authority is the region's CA as this node holds it. Only voters have one;
// the keys reach a new voter over mutual TLS from another.
type authority struct {
	dir dataDir
	ttl time.Duration
	now func() time.Time

	mu sync.Mutex
	ca *identity.CA // guarded by mu; nil where there is none
}

func newAuthority(dir dataDir, ttl time.Duration, now func() time.Time) (*authority, error) {
	a := &authority{dir: dir, ttl: ttl, now: now}
	if !dir.has(fileCA) {
		return a, nil
	}
	raw, err := dir.read(fileCA)
	if err != nil {
		return nil, err
	}
	if a.ca, err = identity.ParseCA(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(fileCA), err)
	}
	return a, nil
}

// current is the CA with an issuing CA that is not past its half-life.
func (a *authority) current() (*identity.CA, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ca == nil {
		return nil, errNoAuthority
	}
	next, rotated, err := a.ca.RotateIssuing(a.now())
	if err != nil || !rotated {
		return a.ca, err
	}
	raw, err := next.Marshal()
	if err == nil {
		err = a.dir.write(fileCA, raw)
	}
	if err != nil {
		return nil, err
	}
	a.ca = next
	return next, nil
}

func (a *authority) holds() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ca != nil
}

// take keeps the CA that another voter handed over.
func (a *authority) take(raw []byte, trustDomain string) error {
	ca, err := identity.ParseCA(raw)
	if err != nil {
		return err
	}
	if ca.TrustDomain() != trustDomain {
		return fmt.Errorf("the CA handed over is that of %s, not of %s", ca.TrustDomain(), trustDomain)
	}
	if err := a.dir.write(fileCA, raw); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ca = ca
	return nil
}

// IssueNode certifies a node of this region.
func (a *authority) IssueNode(_ context.Context, csr []byte, node placement.NodeID) (chain [][]byte, serial string, notAfter time.Time, err error) {
	ca, err := a.current()
	if err != nil {
		return nil, "", time.Time{}, err
	}
	chain, err = ca.IssueNode(csr, node, a.now(), a.ttl)
	if err != nil {
		return nil, "", time.Time{}, err
	}
	leaf, err := parseLeaf(chain)
	if err != nil {
		return nil, "", time.Time{}, err
	}
	return chain, leaf.SerialNumber.String(), leaf.NotAfter, nil
}

// IssueServing certifies an app listener of this region.
func (a *authority) IssueServing(_ context.Context, csr []byte, hosts []string) ([][]byte, error) {
	ca, err := a.current()
	if err != nil {
		return nil, err
	}
	return ca.IssueServing(csr, hosts, a.now(), a.ttl)
}

// Secrets is the CA with its keys, for another voter.
func (a *authority) Secrets() ([]byte, error) {
	ca, err := a.current()
	if err != nil {
		return nil, err
	}
	return ca.Marshal()
}

// issuer is the authority as the API uses it, on a node that holds the CA.
type issuer struct {
	*authority
	keyring *keyring
}

// Keyring is the gossip keys, primary first.
func (i issuer) Keyring() [][]byte { return i.keyring.Ring().Keys }

// Bundle is what others believe the region's nodes by.
func (i issuer) Bundle() identity.Bundle {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ca.Bundle()
}

// ServingCA is what clients of app listeners trust, in PEM.
func (i issuer) ServingCA() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return string(i.ca.ServingRootPEM())
}
