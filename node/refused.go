package node

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/transport/identity"
)

// Whoever reaches the port may show certificates: what is done for them, and
// what is kept of them, is bounded.
const (
	refusedKept  = 64       // chains; those that came first stay
	refusedBytes = 16 << 10 // of one chain, as PEM
	refusedRate  = 8        // chains looked at, a second
)

// refusals keeps the forged certificates that this node was shown, as evidence
// against whose authority signed them. They outlive a restart, and go into the
// evidence packs that this node exports.
type refusals struct {
	dir     string
	bundles func() []identity.Bundle
	now     func() time.Time
	log     *slog.Logger

	mu     sync.Mutex
	chains map[string][]byte // guarded by mu, as is all below: PEM by the hex of its SHA-256
	second int64
	looked int
	said   bool // that no more are kept
}

func newRefusals(dir string, bundles func() []identity.Bundle, now func() time.Time, log *slog.Logger) *refusals {
	r := &refusals{dir: dir, bundles: bundles, now: now, log: log, chains: map[string][]byte{}}
	files, _ := os.ReadDir(dir) // none: nothing was ever forged
	for _, f := range files {
		name, is := strings.CutSuffix(f.Name(), ".pem")
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		sum := sha256.Sum256(data)
		if is && err == nil && name == hex.EncodeToString(sum[:]) && len(r.chains) < refusedKept {
			r.chains[name] = data
		}
	}
	return r
}

// take looks at a chain that was refused, during its handshake.
func (r *refusals) take(chain []*x509.Certificate, why *identity.RefusedError) {
	if !r.allow() {
		return
	}
	f, ok := identity.ForgeryOf(chain, r.bundles())
	if !ok {
		r.log.Debug("refuses a certificate", "err", why)
		return
	}
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	sum := sha256.Sum256(text)
	r.keep(hex.EncodeToString(sum[:]), text, f, chain[0].SerialNumber.String())
}

// allow bounds how many chains are looked at.
func (r *refusals) allow() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.now().Unix(); s != r.second {
		r.second, r.looked = s, 0
	}
	r.looked++
	return r.looked <= refusedRate
}

func (r *refusals) keep(name string, text []byte, f identity.Forgery, serial string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chains[name] != nil {
		return // known, and said
	}
	if len(r.chains) >= refusedKept || len(text) > refusedBytes {
		if !r.said {
			r.log.Error("FORGED certificates are refused, and no more of them are kept", "kept", len(r.chains), "by", f.By)
		}
		r.said = true
		return
	}
	r.chains[name] = text
	r.log.Error("refuses a FORGED certificate", "claims", f.Claimed.String(), "by", f.By, "serial", serial,
		"hint", "the authority of region "+string(f.By)+" names nodes of region "+string(f.Claimed.Region)+": tell both, and look whether to end the federation: sovmesh region leave "+string(f.By)+"; the chain is in every evidence pack of this node")
	if err := dataDir(r.dir).write(name+".pem", text); err != nil {
		r.log.Error("a forged certificate is kept in memory only", "err", err)
	}
}

// all are the chains as PEM, by the hex of their SHA-256.
func (r *refusals) all() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string][]byte, len(r.chains))
	for name, text := range r.chains {
		out[name] = bytes.Clone(text)
	}
	return out
}
