package residency

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Origin says who put a layer into a policy.
type Origin string

// The origins, in the order in which a refusal looks for its layer.
const (
	OriginJob     Origin = "job"
	OriginToken   Origin = "token"
	OriginTenant  Origin = "tenant"
	OriginExport  Origin = "export"
	OriginDataset Origin = "dataset"
	OriginImport  Origin = "import"
)

var origins = [...]Origin{OriginJob, OriginToken, OriginTenant, OriginExport, OriginDataset, OriginImport}

// Known reports whether it is one of the origins above.
func (o Origin) Known() bool { return slices.Contains(origins[:], o) }

func (o Origin) order() int {
	if i := slices.Index(origins[:], o); i >= 0 {
		return i
	}
	return len(o) + len(origins) // unknown origins come last
}

// Layer is one tag of a policy, with who says it.
type Layer struct {
	Origin Origin
	Tag    Tag
}

func (l Layer) compare(m Layer) int {
	return cmp.Or(
		cmp.Compare(l.Origin.order(), m.Origin.order()),
		strings.Compare(string(l.Origin), string(m.Origin)),
		strings.Compare(l.Tag.Wire(), m.Tag.Wire()),
	)
}

// Policy is a set of layers, all of which must permit. It is immutable. The
// zero Policy has no layers and permits nothing: where no tag was given, work
// is refused.
type Policy struct{ layers []Layer }

// NewPolicy makes a policy of its layers. A layer with the zero Tag makes it
// permit nothing.
func NewPolicy(layers ...Layer) Policy {
	set := slices.Clone(layers)
	slices.SortFunc(set, Layer.compare)
	return Policy{slices.CompactFunc(set, func(a, b Layer) bool { return a.compare(b) == 0 })}
}

// Meet is what both policies permit: the union of their layers. It is
// commutative, associative and idempotent, and never widens either. The one
// exception in form: the zero Policy is "no layer yet" and is absorbed, so
// that a policy can be built up from it.
func (p Policy) Meet(q Policy) Policy {
	return NewPolicy(append(slices.Clone(p.layers), q.layers...)...)
}

// Layers gives the layers in the order of the rules: job, token, tenant, export,
// dataset, import.
func (p Policy) Layers() []Layer { return slices.Clone(p.layers) }

// IsZero reports whether the policy has no layers.
func (p Policy) IsZero() bool { return len(p.layers) == 0 }

// Canonical is the wire forms of the layers, without repetition, sorted,
// joined by " & ". Who said what is left out.
func (p Policy) Canonical() string {
	forms := make([]string, 0, len(p.layers))
	for _, l := range p.layers {
		forms = append(forms, l.Tag.Wire())
	}
	slices.Sort(forms)
	return strings.Join(slices.Compact(forms), layerSeparator)
}

// layerSeparator stands between layers; no tag holds it.
const layerSeparator = " & "

// Hash is the SHA-256 of [Policy.Canonical] in hexadecimal.
func (p Policy) Hash() string {
	sum := sha256.Sum256([]byte(p.Canonical()))
	return hex.EncodeToString(sum[:])
}

// UsesAny reports whether a layer allows ANY.
func (p Policy) UsesAny() bool {
	return slices.ContainsFunc(p.layers, func(l Layer) bool { return l.Tag.UsesAny() })
}

// ForScope is the policy of one scope (compute, rest, backup, logs, metadata,
// admin): every layer that narrows it adds its narrower set, and what a layer
// denies stays denied.
func (p Policy) ForScope(name string) Policy {
	if !slices.ContainsFunc(p.layers, func(l Layer) bool { return l.narrows(name) }) {
		return p
	}
	out := slices.Clone(p.layers)
	for _, l := range p.layers {
		if l.Tag.b == nil {
			continue
		}
		if items, ok := l.Tag.b.scope[name]; ok {
			out = append(out, Layer{l.Origin, Tag{newTag(items, l.Tag.b.deny)}})
		}
	}
	return NewPolicy(out...)
}

func (l Layer) narrows(scope string) bool {
	if l.Tag.b == nil {
		return false
	}
	_, ok := l.Tag.b.scope[scope]
	return ok
}

// Verdict is the answer of an evaluation.
type Verdict string

// The three verdicts. Only permitted permits.
const (
	Permitted Verdict = "permitted"
	Refused   Verdict = "refused"
	Unknown   Verdict = "unknown"
)

// Decision is a verdict with everything needed to state and to replay it.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	Rule    string  `json:"rule"`
	Reason  string  `json:"reason"`
	Layer   Origin  `json:"layer,omitempty"` // whose tag decided
	Tag     string  `json:"tag"`             // canonical short form of that tag
	Pack    string  `json:"law_pack"`
	On      Date    `json:"as_of"`
}

// Code is the stable code of a decision, what programs and exit codes branch
// on: empty when it permits, residency.refused when the law says no, and for
// what is not known its cause: claim.unknown, claim.weak, law.unknown,
// law.not-held.
func (d Decision) Code() string {
	switch d.Verdict {
	case Permitted:
		return ""
	case Unknown:
		return d.Rule
	}
	return CodeRefused
}

// CodeRefused is the code of every decision by which something is not lawful.
const CodeRefused = "residency.refused"

// RuleNotHeld is the cause of an unknown verdict between regions that decide by
// different law packs, of which one is not held where it was asked.
const RuleNotHeld = "law.not-held"

// UnknownCode reports whether a code says that something is not known, rather
// than that it is not lawful. A mesh adds peer.unknown for a region that is out
// of contact.
func UnknownCode(code string) bool {
	switch code {
	case causeClaim, causeWeak, causeLaw, RuleNotHeld, "residency.unknown":
		return true
	}
	return false
}

// Evaluate answers whether a policy permits a site, under a pack, on a day. Of
// several layers, one that refuses decides, else one that does not know.
func Evaluate(p Policy, site Site, pack *Pack, o Options) Decision {
	s := newSituation(pack, o.On, &site)
	out, l := p.judge(func(b *body) outcome { return s.judge(b, o) })
	return p.decision(out, l, &s)
}

// Check is nil when the policy permits the site, else a [*Refusal].
func Check(p Policy, site Site, pack *Pack, o Options) error {
	s := newSituation(pack, o.On, &site)
	out, l := p.judge(func(b *body) outcome { return s.judge(b, o) })
	return p.refusal(out, l, &s)
}

// judge asks every layer and keeps the one that decides; its index is -1 when
// there is no layer.
func (p Policy) judge(ask func(*body) outcome) (outcome, int) {
	best, at := outcome{v: no, rule: ruleEmpty}, -1
	for i, l := range p.layers {
		if l.Tag.b == nil {
			return outcome{v: no, rule: ruleEmpty}, i
		}
		one := ask(l.Tag.b)
		if at < 0 || one.v < best.v {
			best, at = one, i
		}
		if best.v == no {
			break
		}
	}
	return best, at
}

func (p Policy) refusal(out outcome, layer int, s *situation) error {
	if out.v == yes {
		return nil
	}
	return &Refusal{Decision: p.decision(out, layer, s), Region: s.name}
}

// decision puts an outcome into words.
func (p Policy) decision(out outcome, layer int, s *situation) Decision {
	d := Decision{Rule: out.rule, Reason: out.words(), Pack: s.p.hash, On: s.on}
	if layer >= 0 {
		d.Layer, d.Tag = p.layers[layer].Origin, p.layers[layer].Tag.Canonical()
	}
	switch {
	case out.rule == ruleEmpty:
		d.Verdict, d.Reason = Refused, "no residency tag was given"
	case out.v == yes:
		d.Verdict, d.Reason = Permitted, s.whereWords()+" is in "+d.Tag
	case out.v == no:
		d.Verdict = Refused
	default:
		d.Verdict = Unknown
	}
	return d
}

// Refusal is a decision that does not permit.
type Refusal struct {
	Decision
	Region string
}

// Error says what is not lawful, and why.
func (r *Refusal) Error() string {
	if r.Unknown() {
		return fmt.Sprintf("it is not known whether %s is lawful for this job: %s (rule %s, law pack %s)", r.Region, r.Reason, r.Rule, r.Pack)
	}
	return fmt.Sprintf("%s is not lawful for this job: %s (rule %s, law pack %s)", r.Region, r.Reason, r.Rule, r.Pack)
}

// Unknown reports whether the answer may change once more is known.
func (r *Refusal) Unknown() bool { return r.Verdict == Unknown }

// Hint says what to do next.
func (r *Refusal) Hint() string {
	see := fmt.Sprintf("see which regions satisfy it: sovmesh residency check '%s'", r.Tag)
	switch r.Rule {
	case ruleEmpty:
		return "give the job a residency tag, for example EEA"
	case causeClaim, causeWeak:
		return "the region must state that claim, and state it well enough; or " + see
	case RuleNotHeld:
		return "an administrator of the region that does not hold the pack imports it: sovmesh law import FILE"
	case causeLaw:
		return "the law pack leaves this open, so nothing is permitted; name another place, or " + see
	case ruleDirect:
		return "send directly to a region that may hold the data, or set transit.direct to false; " + see
	case ruleVia:
		return "name the place in transit.via, or enter the mesh elsewhere; " + see
	}
	return fmt.Sprintf("widen the tag %q, or %s", r.Tag, see)
}
