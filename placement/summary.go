package placement

import "time"

// RegionSummary is all that a region tells another about its capacity:
// log-bucketed counts per device class, none below three nodes, and no
// identifier of anything smaller than the region. It ranks candidates; the
// destination alone decides. Country, operator and claims are not in it: those
// pinned at federation count.
type RegionSummary struct {
	Region    RegionID  `json:"region"`
	Epoch     uint64    `json:"epoch"` // coarse: grows with the region's ledger
	Generated time.Time `json:"generated"`
	Expires   time.Time `json:"expires"`
	LawPack   string    `json:"law_pack"`
	// Classes are sorted by name, profile and mode. A class that is missing or withheld means
	// "ask", never "none".
	Classes  []ClassSummary `json:"classes"`
	Models   []string       `json:"models,omitempty"` // model names that tenants export, sorted
	Draining bool           `json:"draining,omitempty"`
}

// ClassSummary is one class of capacity.
type ClassSummary struct {
	Class string `json:"class"` // "cpu", or a device model
	// Profile is the MIG profile, if these are instances of that model;
	// Confidential counts devices in confidential-computing mode apart.
	Profile      string `json:"profile,omitempty"`
	Confidential bool   `json:"confidential,omitempty"`
	Free         Bucket `json:"free"` // devices, or whole cores for "cpu"
	Largest      Bucket `json:"largest"`
	Withheld     bool   `json:"withheld,omitempty"` // fewer than three nodes have it
}

// Bucket is a count rounded down to 0, 1, 4, 16, 64 or 256.
type Bucket int

// BucketOf rounds a count down to its bucket.
func BucketOf(n int) Bucket {
	b := Bucket(0)
	for limit := 1; limit <= 256 && n >= limit; limit *= 4 {
		b = Bucket(limit)
	}
	return b
}
