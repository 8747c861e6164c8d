package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/witness"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Founding describes a new region.
type Founding struct {
	Region placement.RegionID
	Mesh   string
	Facts  placement.RegionFacts
	// Export and Import are the region's rules, tags in wire form.
	Export, Import string
	Now            time.Time
}

// Founded is what the founder of a region has to keep.
type Founded struct {
	Token       string // of an administrator, shown once
	CA          string // PEM: what clients of the app listener trust
	Fingerprint string // what operators of other regions compare
}

// founding is kept in the data directory until the first start of the node has
// committed it.
type founding struct {
	Init  state.InitRegion  `json:"init"`
	Token state.CreateToken `json:"token"`
}

// Found makes a new region in the node's data directory: its CA, the identity
// of its first node and the first commands of its ledger. Nothing is started;
// the first start of the node commits them.
func Found(cfg Config, f Founding) (Founded, error) {
	if err := errors.Join(cfg.Validate(), f.validate()); err != nil {
		return Founded{}, err
	}
	dir := dataDir(cfg.Data)
	if w, ok, err := dir.whoami(); err != nil || ok {
		if err == nil {
			err = fmt.Errorf("%s already belongs to node %s of region %s; a new region needs an empty directory", cfg.Data, w.Node, w.Region)
		}
		return Founded{}, err
	}
	ca, err := identity.NewCA(f.Region, f.Mesh, f.Now)
	if err != nil {
		return Founded{}, err
	}
	logKeys, err := witness.NewKeys(f.Region, f.Mesh, nil)
	if err != nil {
		return Founded{}, err
	}
	key, err := issueOwn(dir, ca, cfg, f.Now)
	if err != nil {
		return Founded{}, err
	}
	bundle, err := ca.Bundle().Marshal()
	if err != nil {
		return Founded{}, err
	}
	bearer := identity.NewBearer(f.Region)
	out := Founded{Token: bearer, CA: string(ca.ServingRootPEM()), Fingerprint: ca.Bundle().Fingerprint()}
	pack := residency.Embedded()
	logKey, witnessKey := logKeys.Public()
	seal, err := sealKeyOf(logKeys)
	if err != nil {
		return Founded{}, err
	}
	first := founding{
		Init: state.InitRegion{
			Region: placement.Region{
				ID: f.Region, Mesh: f.Mesh, Self: true, Facts: f.Facts, State: placement.PeerActive,
				Bundle: bundle, Fingerprint: out.Fingerprint, ServingCA: out.CA,
				Export: f.Export, Import: f.Import, LawPack: pack.Hash(),
				LogKey: logKey, WitnessKey: witnessKey, SealKey: seal.Public(),
			},
			LawPack: pack.Tables(),
			Node: placement.Node{
				ID: cfg.Node, Region: f.Region, Site: cfg.Site, Role: placement.RoleVoter, State: placement.NodeReady,
				Contact: placement.ContactAlive, QUIC: cfg.QUIC, API: cfg.API,
				Serial: key.Leaf.SerialNumber.String(), NotAfter: key.Leaf.NotAfter,
			},
			Certificate: hashHex(sha256.Sum256(key.Leaf.Raw)),
		},
		Token: state.CreateToken{Token: state.Token{
			ID: "founder", Hash: hashHex(identity.HashBearer(bearer)), Tenant: "default", AllowAny: true,
			Roles: []state.Role{state.RoleViewer, state.RoleSubmitter, state.RoleOperator, state.RoleAuditor, state.RoleAdmin},
		}},
	}
	secret, err := ca.Marshal()
	if err != nil {
		return Founded{}, err
	}
	// The identity is written last: a directory without it counts as fresh.
	err = firstError(
		dir.write(fileCA, secret),
		dir.write(fileLogKeys, logKeys.Marshal()),
		dir.writeJSON(fileKeyring, api.Keyring{Keys: [][]byte{identity.NewKeyringKey()}}),
		dir.writeJSON(fileBundles, map[string][]byte{ca.TrustDomain(): bundle}),
		dir.writeJSON(fileFounding, first),
		dir.writeJSON(fileIdentity, whoami{Version: 1, Region: f.Region, Mesh: f.Mesh, Node: cfg.Node, Role: placement.RoleVoter}),
	)
	return out, err
}

// issueOwn makes the certificates of the first node.
func issueOwn(dir dataDir, ca *identity.CA, cfg Config, now time.Time) (*identity.Credential, error) {
	keys, err := newKeys()
	if err != nil {
		return nil, err
	}
	chain, err := ca.IssueNode(keys.nodeCSR, cfg.Node, now, cfg.CertificateTTL)
	if err != nil {
		return nil, err
	}
	serving, err := ca.IssueServing(keys.servingCSR, cfg.hosts(), now, cfg.CertificateTTL)
	if err != nil {
		return nil, err
	}
	return keys.store(dir, chain, serving)
}

func (f Founding) validate() error {
	var errs []error
	if !placement.ValidName(string(f.Region)) {
		errs = append(errs, fmt.Errorf("region %q is no name: use 1 to 63 lower-case letters, digits and hyphens", f.Region))
	}
	if !identity.ValidMesh(f.Mesh) {
		errs = append(errs, fmt.Errorf("mesh %q is no name: use a domain, as in mesh.example", f.Mesh))
	}
	pack := residency.Embedded()
	on := residency.DateOf(f.Now)
	for _, c := range []struct{ what, code string }{{"country", f.Facts.Country}, {"operator home", f.Facts.Operator.Home}, {"operator parent", f.Facts.Operator.Parent}} {
		if c.code == "" && c.what != "country" || c.code == "none" && c.what == "operator parent" {
			continue
		}
		if tag, _, err := residency.Parse(c.code, pack); err != nil || len(tag.Canonical()) != 2 {
			errs = append(errs, fmt.Errorf("%s %q is no ISO 3166-1 country code, as in DE", c.what, c.code))
		}
	}
	for _, rule := range []string{f.Export, f.Import} {
		if rule == "" {
			continue
		}
		if _, err := residency.ParseWire(rule, pack, on); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// firstError keeps the order of writes visible: what follows a failure was
// still tried, which is harmless as files are replaced whole.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func hashHex(h [32]byte) string { return hex.EncodeToString(h[:]) }
