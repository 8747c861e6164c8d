package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// maxCertificates bounds the chains of one region that are judged, maxPEM one
// of them in bytes.
const (
	maxCertificates = 1 << 16
	maxPEM          = 64 << 10
)

// chainHeld is a node's certificate chain in a pack.
type chainHeld struct {
	serial string
	chain  []*x509.Certificate
}

// takeBundle keeps a bundle under the hash that it really has. Whose it is, and
// whether the policy knows one of its roots, is asked at once: no leaf is needed
// for it.
func (r *regionReader) takeBundle(file string, data []byte) error {
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	if file != digest+".json" {
		return fmt.Errorf("%w: bundle %q of region %s has another hash", ErrArchive, shorten(file), r.desc.Name)
	}
	r.held[digest] = true
	b, err := identity.ParseBundle(data, identity.MaxBundle)
	if err != nil {
		r.v.f.fail(Integrity, "region %s: the bundle %s holds no certificates of a region: %v", r.desc.Name, digest, err)
		return nil
	}
	region, mesh, err := identity.SplitTrustDomain(b.TrustDomain)
	if err != nil || mesh != r.v.desc.Mesh {
		r.v.f.fail(Origin, "region %s: the bundle %s is of %s, another mesh", r.desc.Name, digest, shorten(b.TrustDomain))
		return nil
	}
	if r.v.policy == nil {
		return nil
	}
	roots := r.v.policy.RootsOf(string(region))
	if len(roots) > 0 && !shares(b.Roots, roots) {
		r.v.f.fail(Origin, "region %s: leaves name certificates of region %s, and none of their roots is one that the policy has of it", r.desc.Name, region)
	}
	return nil
}

func shares(certs []*x509.Certificate, roots [][]byte) bool {
	for _, c := range certs {
		for _, der := range roots {
			if bytes.Equal(c.Raw, der) {
				return true
			}
		}
	}
	return false
}

// endBundles asks whether the certificates here are those that leaves name.
func (r *regionReader) endBundles() {
	for digest := range r.held {
		if !r.bundle[digest] && r.fromTheBeginning() {
			r.v.f.fail(Origin, "region %s: no leaf names the certificates %s", r.desc.Name, digest)
		}
	}
	for digest := range r.bundle {
		if !r.held[digest] {
			r.v.f.fail(Completeness, "region %s: leaves name the certificates %s, which are not here", r.desc.Name, digest)
		}
	}
}

// readChain reads certificates, leaf first, in the one form that PEM has here:
// what was read is written again as the same bytes.
func readChain(data []byte) (chain []*x509.Certificate, err error) {
	var again []byte
	for rest := data; len(rest) > 0 && len(chain) < 5 && len(data) <= maxPEM; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
		again = append(again, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes})...)
	}
	if len(chain) == 0 || !bytes.Equal(again, data) {
		return nil, errors.New("it is no chain in the form that packs have")
	}
	return chain, nil
}

// takeCertificate reads a chain of a node of the region.
func (r *regionReader) takeCertificate(file string, data []byte) error {
	chain, err := readChain(data)
	if err != nil {
		return fmt.Errorf("%w: certificate %q of region %s: %v", ErrArchive, shorten(file), r.desc.Name, err)
	}
	serial := chain[0].SerialNumber.String()
	if file != serial+".pem" || len(r.chained) >= maxCertificates {
		return fmt.Errorf("%w: certificate %q of region %s is no chain of that serial number", ErrArchive, shorten(file), r.desc.Name)
	}
	r.chained = append(r.chained, chainHeld{serial, chain})
	return nil
}

// takeRefused reads a chain that the region was shown and did not believe. Its
// name is its hash: whoever forges chooses the serial number.
func (r *regionReader) takeRefused(file string, data []byte) error {
	chain, err := readChain(data)
	sum := sha256.Sum256(data)
	if err == nil && (file != hex.EncodeToString(sum[:])+".pem" || len(r.refused) >= maxCertificates) {
		err = errors.New("it has another hash")
	}
	if err != nil {
		return fmt.Errorf("%w: the refused certificate %q of region %s: %v", ErrArchive, shorten(file), r.desc.Name, err)
	}
	r.refused = append(r.refused, chainHeld{chain[0].SerialNumber.String(), chain})
	return nil
}

// endCertificates judges chains: the root of the region that a certificate
// claims, as the policy has it, must have issued it; another region's authority
// that names this region's node forges. And the issue must be on record.
func (r *regionReader) endCertificates() {
	if r.v.policy == nil {
		return
	}
	if len(r.v.policy.Roots()) > 0 && len(r.v.policy.RootsOf(r.desc.Name)) == 0 {
		r.v.f.fail(Origin, "region %s: the policy has root certificates, and none of this region: it is damaged, or too old", r.desc.Name)
	}
	for _, held := range r.chained {
		id, ok := r.ofItsRegion(held)
		if ok && id.Region == placement.RegionID(r.desc.Name) && !r.showed(held) && r.within(held.chain[0].NotBefore.Add(identity.Backdate)) {
			r.v.f.fail(Origin, "region %s: certificate %s of node %s was issued in the pack's time, and no leaf shows it", r.desc.Name, held.serial, id.Node)
		}
	}
	for _, held := range r.refused {
		if id, ok := r.ofItsRegion(held); ok {
			r.v.f.fail(Origin, "region %s: certificate %s of node %s of region %s is good, and is filed as refused", r.desc.Name, held.serial, id.Node, id.Region)
		}
	}
}

// ofItsRegion judges a chain; ok is false if it does not hold, or nobody can say.
func (r *regionReader) ofItsRegion(held chainHeld) (id identity.ID, ok bool) {
	if id, ok = r.claimed(held); !ok {
		return id, false
	}
	roots := r.v.policy.RootsOf(string(id.Region))
	switch {
	case len(roots) == 0 && len(r.v.policy.Roots()) == 0:
		r.rootless++
		return id, false
	case len(roots) == 0:
		r.v.f.fail(Origin, "region %s: certificate %s claims to be of region %s, which the policy does not know", r.desc.Name, held.serial, id.Region)
		return id, false
	}
	if err := issued(held.chain, id, roots); err != nil {
		by := ""
		if f, known := identity.ForgeryOf(held.chain, r.authorities()); known {
			by = fmt.Sprintf("; the authority of region %s signed it", f.By)
		}
		r.v.f.fail(Origin, "region %s: FORGED certificate: serial %s claims to be node %s of region %s, whose authority did not issue it%s: %v", r.desc.Name, held.serial, id.Node, id.Region, by, err)
		return id, false
	}
	return id, true
}

// authorities are those of all regions that the policy has roots of.
func (r *regionReader) authorities() (out []identity.Bundle) {
	for _, root := range r.v.policy.Roots() {
		cert, err := x509.ParseCertificate(root.DER)
		if err != nil {
			continue // the policy's parser has said so
		}
		domain := identity.TrustDomain(placement.RegionID(root.Region), r.v.desc.Mesh)
		i := slices.IndexFunc(out, func(b identity.Bundle) bool { return b.TrustDomain == domain })
		if i < 0 {
			out = append(out, identity.Bundle{TrustDomain: domain})
			i = len(out) - 1
		}
		out[i].Roots = append(out[i].Roots, cert)
	}
	return out
}

// claimed is who a certificate says it is of.
func (r *regionReader) claimed(held chainHeld) (identity.ID, bool) {
	if len(held.chain[0].URIs) != 1 {
		r.v.f.fail(Origin, "region %s: certificate %s names no node", r.desc.Name, held.serial)
		return identity.ID{}, false
	}
	id, err := identity.ParseIDURI(held.chain[0].URIs[0])
	if err != nil || id.Mesh != r.v.desc.Mesh {
		r.v.f.fail(Origin, "region %s: certificate %s is of %s, no node of this mesh", r.desc.Name, held.serial, shorten(held.chain[0].URIs[0].String()))
		return identity.ID{}, false
	}
	return id, true
}

// issued verifies a chain as a listener of the mesh does, at the time it began.
func issued(chain []*x509.Certificate, id identity.ID, roots [][]byte) error {
	v, err := trusting(id, roots)
	if err != nil {
		return err
	}
	began := chain[0].NotBefore.Add(identity.Backdate)
	v.Clock = func() time.Time { return began }
	return v.VerifyConnection(nil)(tls.ConnectionState{PeerCertificates: chain, NegotiatedProtocol: string(identity.ClassHTTP)})
}

// within reports whether a time lies so far inside the pack's that a leaf of it
// must be here.
func (r *regionReader) within(at time.Time) bool {
	begin := r.out.FirstAt.Add(2 * maxSkew)
	if r.fromTheBeginning() {
		begin = time.Time{}
	}
	return at.After(begin) && at.Before(r.out.LastAt.Add(-2*maxSkew))
}

// showSerial notes a certificate that a leaf shows: "<serial> <not after>" and,
// since leaves say it, the SHA-256 of its DER. Of more than can be remembered it
// notes those whose chains are here, which have to be found again.
func (r *regionReader) showSerial(value string) {
	words := strings.Split(value, " ")
	if len(r.serials) >= maxCertificates && !r.chainHere(words[0]) {
		r.unchained++
		return
	}
	r.serials[words[0]] = append(words, "", "")[2]
}

// chainHere reports whether a certificate's chain is in the pack, in which they
// come before the leaves.
func (r *regionReader) chainHere(serial string) bool {
	if r.here == nil {
		r.here = make(map[string]bool, len(r.chained))
		for _, held := range r.chained {
			r.here[held.serial] = true
		}
	}
	return r.here[serial]
}

// showed reports whether a leaf shows the certificate. One that has the number of
// another is a second certificate that nobody recorded.
func (r *regionReader) showed(held chainHeld) bool {
	digest, ok := r.serials[held.serial]
	sum := sha256.Sum256(held.chain[0].Raw)
	if ok && digest != "" && digest != hex.EncodeToString(sum[:]) {
		r.v.f.fail(Origin, "region %s: certificate %s is not the one that its leaf records: the authority gave the number twice", r.desc.Name, held.serial)
	}
	return ok
}

// chainless counts certificates that leaves show and whose chain is not here.
func (r *regionReader) chainless() int {
	n := r.unchained
	for serial := range r.serials {
		if !r.chainHere(serial) {
			n++
		}
	}
	return n
}
