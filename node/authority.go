package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/witness"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// errNoAuthority is the answer of a node that holds no CA: it votes not, or
// has not been handed the keys yet.
var errNoAuthority = errors.New("this node holds no region CA; ask a voter")

// authority is the region's CA as this node holds it, and beside it the keys of
// the region's log. Only voters have them; they reach a new voter over mutual TLS
// from another.
type authority struct {
	dir dataDir
	ttl time.Duration
	now func() time.Time

	mu sync.Mutex
	ca *identity.CA // guarded by mu; nil where there is none
	// logKeys is guarded by mu; nil where there is none, and in a region that was
	// founded before its log was signed.
	logKeys *witness.Keys
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
	if !dir.has(fileLogKeys) {
		return a, nil
	}
	if raw, err = dir.read(fileLogKeys); err != nil {
		return nil, err
	}
	if a.logKeys, err = witness.ParseKeys(raw); err != nil {
		return nil, fmt.Errorf("%s: %w; restore it from a backup, or take it from another voter's directory", dir.path(fileLogKeys), err)
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

// take keeps what another voter handed over.
func (a *authority) take(s *api.AuthoritySecrets, region placement.RegionID, mesh string) error {
	ca, err := identity.ParseCA(s.CA)
	if err != nil {
		return err
	}
	if ca.TrustDomain() != identity.TrustDomain(region, mesh) {
		return fmt.Errorf("the CA handed over is that of %s, not of %s", ca.TrustDomain(), identity.TrustDomain(region, mesh))
	}
	var keys *witness.Keys
	if len(s.LogKeys) > 0 {
		if keys, err = witness.ParseKeys(s.LogKeys); err != nil {
			return err
		}
		if !keys.Of(region, mesh) {
			return fmt.Errorf("the keys of the log handed over are those of another region than %s", region)
		}
		if err := a.dir.write(fileLogKeys, s.LogKeys); err != nil {
			return err
		}
	}
	// The CA is written last: a node that holds it asks for nothing more.
	if err := a.dir.write(fileCA, s.CA); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ca, a.logKeys = ca, keys
	return nil
}

// LogSecrets are the keys of the region's log, for another voter; nil where
// there are none.
func (a *authority) LogSecrets() []byte {
	if keys := a.ledgerKeys(); keys != nil {
		return keys.Marshal()
	}
	return nil
}

func (a *authority) ledgerKeys() *witness.Keys {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.logKeys
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
