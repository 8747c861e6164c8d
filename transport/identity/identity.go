// Package identity says who speaks on a connection, and from which region.
//
// Every region is a SPIFFE trust domain of its own, with a CA of its own:
// spiffe://<region>.<mesh>/node/<name>. There is no root above the regions,
// because a name constraint on a URI binds the host only: under one shared
// domain, the CA of one region could mint the nodes of another.
//
// The rule that must hold: a certificate is believed only through the bundle of
// the trust domain that it claims, and each bundle speaks for one trust domain.
// Roots of several regions never enter one pool. All checks run in
// tls.Config.VerifyConnection, on both sides, because crypto/tls skips
// VerifyPeerCertificate on a resumed session.
//
// transport builds its tls.Config here, consensus and the API authenticate
// peers, statements and tokens here. Nothing in this package starts a goroutine,
// opens a file or dials.
package identity

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ID is the SPIFFE ID of one node (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md).
type ID struct {
	Region placement.RegionID
	Mesh   string
	Node   placement.NodeID
}

const nodePath = "/node/"

// TrustDomain is the trust domain of a region: "<region>.<mesh>".
func TrustDomain(region placement.RegionID, mesh string) string {
	return string(region) + "." + mesh
}

// ValidMesh reports whether s may name a mesh: labels in the grammar of region
// names, joined by dots, at most 190 bytes, and the last label not a number, so
// that no trust domain reads as an IP address.
func ValidMesh(s string) bool {
	if len(s) > 190 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if !placement.ValidName(l) {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// SplitTrustDomain is the inverse of [TrustDomain].
func SplitTrustDomain(td string) (placement.RegionID, string, error) {
	region, mesh, ok := strings.Cut(td, ".")
	if !ok || !placement.ValidName(region) || !ValidMesh(mesh) {
		return "", "", fmt.Errorf("%.300q is not a trust domain of the form <region>.<mesh>", td)
	}
	return placement.RegionID(region), mesh, nil
}

// ParseID reads "spiffe://<region>.<mesh>/node/<name>". The form is exact: no
// port, user, query, fragment, escape or upper case, and nothing after the name.
func ParseID(s string) (ID, error) {
	if len(s) > 512 {
		return ID{}, fmt.Errorf("a SPIFFE ID of %d bytes is too long for a node", len(s))
	}
	sid, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("SPIFFE ID %q: %w", s, err)
	}
	name, ok := strings.CutPrefix(sid.Path(), nodePath)
	if !ok || !placement.ValidName(name) {
		return ID{}, fmt.Errorf("SPIFFE ID %q names no node: its path must be /node/<name>", s)
	}
	region, mesh, err := SplitTrustDomain(sid.TrustDomain().Name())
	if err != nil {
		return ID{}, fmt.Errorf("SPIFFE ID %q: %w", s, err)
	}
	id := ID{Region: region, Mesh: mesh, Node: placement.NodeID(name)}
	if id.String() != s {
		return ID{}, fmt.Errorf("SPIFFE ID %q is not in its canonical form %q", s, id)
	}
	return id, nil
}

// ParseIDURI is [ParseID] for a URI as a certificate holds it.
func ParseIDURI(u *url.URL) (ID, error) {
	if u == nil {
		return ID{}, fmt.Errorf("no SPIFFE ID given")
	}
	return ParseID(u.String())
}

// TrustDomain is the trust domain that the ID claims.
func (id ID) TrustDomain() string { return TrustDomain(id.Region, id.Mesh) }

// String is the ID as a URI.
func (id ID) String() string { return id.URI().String() }

// URI is the ID in the form that a certificate carries.
func (id ID) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain(), Path: nodePath + string(id.Node)}
}

// Validate reports whether the ID can be written and read back unchanged.
func (id ID) Validate() error {
	_, err := ParseID(id.String())
	return err
}
