package identity

import (
	"bytes"
	"crypto/x509"

	"github.com/sovmesh/sovmesh/placement"
)

// Forgery is a certificate that an authority signed for a node that is not its
// own. It can only have been made with the key of that authority.
type Forgery struct {
	Claimed ID
	// By is the region whose authority signed.
	By placement.RegionID
}

// ForgeryOf tells whether a chain, leaf first, was signed by the authority of
// another region than the one that it claims to be of, by the bundles of all
// regions. A chain that anybody could have made is none: a stranger who knocks
// shall not fill the records of a region with what he made up.
func ForgeryOf(chain []*x509.Certificate, bundles []Bundle) (f Forgery, ok bool) {
	if len(chain) == 0 || len(chain) > maxChain || len(chain[0].URIs) != 1 {
		return f, false
	}
	var err error
	if f.Claimed, err = ParseIDURI(chain[0].URIs[0]); err != nil {
		return f, false
	}
	for i, cert := range chain {
		for _, b := range bundles {
			if b.signed(cert) {
				region, mesh, err := SplitTrustDomain(b.TrustDomain)
				f.By = region
				return f, err == nil && mesh == f.Claimed.Mesh && region != f.Claimed.Region
			}
		}
		if i+1 == len(chain) || cert.CheckSignatureFrom(chain[i+1]) != nil {
			break
		}
	}
	return f, false
}

// signed reports whether one of the bundle's roots signed the certificate.
// Names and times are no matter here.
func (b Bundle) signed(cert *x509.Certificate) bool {
	for _, root := range b.Roots {
		if bytes.Equal(cert.RawIssuer, root.RawSubject) && cert.CheckSignatureFrom(root) == nil {
			return true
		}
	}
	return false
}
