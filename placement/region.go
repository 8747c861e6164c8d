package placement

import (
	"time"

	"github.com/sovmesh/sovmesh/placement/residency"
)

// Operator is the legal entity that runs a region.
type Operator struct {
	Name string `json:"name,omitempty"`
	// Home is the country of the entity, Parent that of its ultimate parent,
	// "none" if it is its own. Empty means unknown, which satisfies nothing.
	Home   string `json:"home,omitempty"`
	Parent string `json:"parent,omitempty"`
}

// Assurance says how well the facts of a region are known:
// declared < documented < probed < audited < attested.
type Assurance struct {
	Location string `json:"location,omitempty"`
	Operator string `json:"operator,omitempty"`
	AsOf     string `json:"as_of,omitempty"` // YYYY-MM-DD
}

// RegionFacts are what residency is judged on. For a foreign region they are
// those pinned when two operators approved the federation; a summary or a
// certificate never changes them.
type RegionFacts struct {
	Country     string            `json:"country"`
	Subdivision string            `json:"subdivision,omitempty"`
	Operator    Operator          `json:"operator"`
	Claims      map[string]string `json:"claims,omitempty"`
	Assurance   Assurance         `json:"assurance"`
}

// Site is the facts as the residency engine reads them; site is the name of a
// place within the region, empty when the region as a whole is judged.
func (f RegionFacts) Site(region RegionID, site string) residency.Site {
	return residency.Site{
		Region: string(region), Site: site, Country: f.Country, Subdivision: f.Subdivision,
		Operator:  residency.Operator{Home: f.Operator.Home, Parent: f.Operator.Parent},
		Claims:    f.Claims,
		Assurance: residency.Assurance{Location: f.Assurance.Location, Operator: f.Assurance.Operator, AsOf: f.Assurance.AsOf},
	}
}

// FactsOf are the facts of a site that was written down as the residency engine
// reads them.
func FactsOf(s residency.Site) RegionFacts {
	return RegionFacts{
		Country: s.Country, Subdivision: s.Subdivision, Operator: Operator{Home: s.Operator.Home, Parent: s.Operator.Parent}, Claims: s.Claims,
		Assurance: Assurance{Location: s.Assurance.Location, Operator: s.Assurance.Operator, AsOf: s.Assurance.AsOf},
	}
}

// PeerState is where the federation with a foreign region stands.
type PeerState string

// The states of a peer. Only an active one exchanges anything.
const (
	PeerInvited PeerState = "invited" // we made a code for it
	PeerJoining PeerState = "joining" // it answered (or we did); an operator has to approve
	PeerActive  PeerState = "active"
	PeerLeft    PeerState = "left"
	PeerDead    PeerState = "dead" // declared dead by an operator, not by a timeout
)

// FrontDoor is an address at which a region takes requests of others.
type FrontDoor struct {
	Node NodeID `json:"node,omitempty"` // empty in what crosses a border
	QUIC string `json:"quic"`           // host:port, UDP
	API  string `json:"api"`            // https://host:port
}

// Region is one region as its own ledger, or that of a peer, records it.
type Region struct {
	ID    RegionID    `json:"name"`
	Mesh  string      `json:"mesh"`
	Self  bool        `json:"self,omitempty"`
	Facts RegionFacts `json:"facts"`
	State PeerState   `json:"state"`
	// Bundle is the SPIFFE bundle (JWK Set) pinned for the region's trust
	// domain, Fingerprint what operators compare, ServingCA the PEM roots that
	// ordinary HTTPS clients verify its front doors with.
	Bundle      []byte      `json:"bundle,omitempty"`
	Fingerprint string      `json:"fingerprint,omitempty"`
	ServingCA   string      `json:"serving_ca,omitempty"`
	FrontDoors  []FrontDoor `json:"front_doors,omitempty"`
	// LogKey and WitnessKey are the verifier keys (https://c2sp.org/signed-note)
	// of the region's log and of its cosignatures, pinned like the bundle.
	LogKey     string `json:"log_key,omitempty"`
	WitnessKey string `json:"witness_key,omitempty"`
	// SealKey is what secrets of jobs are sealed with; of the own region alone.
	SealKey string `json:"seal_key,omitempty"`
	// Export narrows what may leave this region for another, Import what this
	// region takes from another: tags in wire form, empty means no rule.
	Export     string    `json:"export,omitempty"`
	Import     string    `json:"import,omitempty"`
	LawPack    string    `json:"law_pack,omitempty"` // the pack that it last said it decides by
	ApprovedAt time.Time `json:"approved_at,omitzero"`
}
