package residency

import "time"

// Long holds the fields of the long form, in canonical words. What a tag does
// not say is the zero value; a nil list is "not said", an empty one is "said,
// and empty".
type Long struct {
	Allow, Deny  []string
	Prefer       []string // an order among lawful places, best first; never widens
	Data         string   // none, personal, special or confidential; "" when left open
	Exporter     string   // whose transfer law applies; "" when left open
	Mechanisms   []string // none, or adequacy and instrument:<id>; nil means adequacy
	Scope        Scope
	Home, Parent []string // where the operator and its ultimate parent must be
	ExposedTo    []string // laws that must not reach the operator, in the order written
	Keys         Keys
	Transit      Transit
	Assurance    MinAssurance
	OnChange     OnChange
	Confidential bool // attested hardware only
}

// Scope narrows what may happen inside the tag; nil lists follow the tag.
type Scope struct{ Compute, Rest, Backup, Logs, Metadata, Admin []string }

// Keys says who holds the keys of data at rest, and where.
type Keys struct {
	Holder string
	Where  []string
}

// Transit restricts the path of payload bytes.
type Transit struct {
	Via    []string // every relay hop; nil: the tag's own set
	Direct bool     // no relay at all
	Sealed bool     // ciphertext may pass relays outside
}

// MinAssurance is how well the site's claims must be known.
type MinAssurance struct {
	Location, Operator string // a level of [AssuranceLevels]; "" when not asked
	MaxAge             int    // days; meaningful when HasMaxAge
	HasMaxAge          bool
	Framework          []string // "CSF:SEAL-2"
}

// AssuranceLevels are the words for how well a claim is known, lowest first.
func AssuranceLevels() []string {
	return []string{"declared", "documented", "probed", "audited", "attested"}
}

// OnChange says what happens to running work; nil parts have a safe default
// that the mesh chooses.
type OnChange struct {
	Law, Claim *Change
	Partition  *Partition
}

// Change is what to do when law or claim no longer permits the place.
type Change struct {
	Action string // continue-flagged, drain, checkpoint-stop or stop
	Grace  time.Duration
}

// Partition is what to do when contact is lost.
type Partition struct {
	Action string // finish, pause or stop
	Max    time.Duration
}

// NeedsOnChange reports whether a submit must refuse the tag because special
// data comes without a word on what happens when the law changes.
func (t Tag) NeedsOnChange() bool {
	l := t.Long()
	return l.Data == "special" && l.OnChange == OnChange{}
}

// LongFields are the top-level keys that the long form takes; in a job file
// they are keys of the job.
func LongFields() []string {
	return []string{"residency", "control", "transit", "assurance", "on_change", "confidential"}
}

// ParseLong reads the long form: a mapping with the keys of [LongFields], of
// which residency may be the short form as a string. on is the day on which
// scope must lie within allow. Its error is an [*Error] with a tag.* code and
// the position that v carries.
func ParseLong(v Value, p *Pack, on Date) (Tag, []Warning, error) {
	r := &longReader{reader: reader{p: p}, on: on}
	top, err := r.fields("", v, LongFields()...)
	if err != nil {
		return Tag{}, nil, err
	}
	b, err := r.residency(top["residency"])
	if err != nil {
		return Tag{}, nil, err
	}
	r.b = b
	for _, part := range []struct {
		name string
		read func(string, Value) error
	}{
		{"control", r.control},
		{"transit", r.transit},
		{"assurance", r.assurance},
		{"on_change", r.onChange},
		{"confidential", r.confidential},
	} {
		if f, ok := top[part.name]; ok {
			if err := part.read(part.name, f); err != nil {
				return Tag{}, nil, err
			}
		}
	}
	if err := b.fixWire(); err != nil {
		return Tag{}, nil, err
	}
	return Tag{b}, r.warnings, nil
}
