package placement

import (
	"fmt"

	"github.com/sovmesh/sovmesh/placement/residency"
)

// Use is what bytes are for at the place that they go to.
type Use uint8

// The uses. The zero value is the strictest.
const (
	UseRun    Use = iota // to be computed on there
	UseEnter             // to come there at all: to run there, or to pass on their way
	UseAnswer            // an answer on its way back: the place passes it on, or shows it to whoever asked
	UseLogs              // a job's output, as an answer; a tag's scope "logs" narrows it
)

// Law is by what a crossing is judged: the pack in force where it is asked, the
// packs that other regions may decide by, and the day.
type Law struct {
	Pack *residency.Pack
	// Held gives another pack by its hash, nil if it is not held here. Without
	// the function none is held.
	Held func(hash string) *residency.Pack
	On   residency.Date
	// Read remembers policies as read under Pack on that day, so that like
	// questions are read once. Without it they are read afresh.
	Read func([]Layer) (residency.Policy, error)
}

// Crossing is one question of law: may this work, or what came of it, be at
// that place? Planning, egress, acceptance and Apply all ask it, by
// [Crossing.Judge], and nobody else puts the layers of a border together.
//
// It lives here and not in residency because the rules of a border, the pack a
// region decides by and the pinned facts are parts of a [Region]; residency is
// the algebra of tags and knows no regions.
type Crossing struct {
	// Layers are the work's own, in wire form: of the job, its token, tenant and
	// data sets, and of borders crossed before. Policy is more of them, already
	// read. Together they must not be empty: no tag permits nothing.
	Layers []Layer
	Policy residency.Policy
	// From lets the bytes go and To takes them in. If they are two regions, the
	// export rule of the one, the import rule of the other and the law packs of
	// both count. From is nil, or the same as To, for what does not cross.
	From, To *Region
	// Under are the hashes of further packs by which somebody let it go: the one
	// that a grant or a reservation names. They must permit too.
	Under []string
	// Arrived: what From sent was accepted under both packs before, and is only
	// to be placed within To: the law in force there decides alone.
	Arrived bool
	// Via is a region that holds or passes the payload on its way, and must lie
	// on the path; ViaSite is where in it.
	Via     *Region
	ViaSite string
	// Site is the place within To; empty means the region as a whole. Where that
	// leaves it open, any one of Sites will do; they are asked for on need.
	Site  string
	Sites func() []string
	Use   Use
	Law   Law
	// Exporter, Data and Sealed fill what the tags leave open. The day is Law's.
	Options residency.Options
}

// Finding is the answer of one pack about one place.
type Finding struct {
	residency.Decision
	Site residency.Site
}

// Ruling is the answer to a crossing. Only a permitted one permits.
type Ruling struct {
	Finding // the one that decides: a refusal before an unknown
	// Policy is what was judged: every layer, the border's rules included.
	Policy residency.Policy
	// Findings are the answers about the destination, one for each pack, for the
	// record. What could not be asked, for want of a pack or of a layer that can be
	// read, and whether Via lies on the path, decide and are no findings.
	Findings []Finding
}

// Permitted reports whether it may be.
func (r *Ruling) Permitted() bool { return r.Verdict == residency.Permitted }

// Err is nil if it may be, else a [*residency.Refusal] that names the layer.
func (r *Ruling) Err() error {
	if r.Permitted() {
		return nil
	}
	return &residency.Refusal{Decision: r.Decision, Region: r.Site.Region}
}

// Across are the layers under which work goes from one region to another: its
// own, what the one lets out and what the other takes in. Within a region there
// is no border and no rule of one.
func Across(layers []Layer, from, to *Region) []Layer {
	if !border(from, to) {
		return layers
	}
	return WithLayer(WithLayer(layers, residency.OriginExport, from.Export), residency.OriginImport, to.Import)
}

// WithLayer adds a layer that is not there yet; an empty tag is no rule. It
// never writes into layers.
func WithLayer(layers []Layer, origin residency.Origin, tag string) []Layer {
	if tag == "" {
		return layers
	}
	l := Layer{Origin: origin, Tag: tag}
	for _, have := range layers {
		if have == l {
			return layers
		}
	}
	return append(layers[:len(layers):len(layers)], l)
}

func border(from, to *Region) bool { return from != nil && to != nil && from.ID != to.ID }

// Judge answers the question. It is pure: the same crossing has the same answer
// on every machine and at any time.
func (x Crossing) Judge() Ruling {
	x.Options.On = x.Law.On
	r := Ruling{Finding: Finding{Site: x.To.Facts.Site(x.To.ID, x.Site)}}
	if x.Law.Pack == nil {
		return x.unknown(r, "law.unknown", "the region holds no law pack yet")
	}
	if err := x.read(&r); err != nil {
		return x.unknown(r, "law.unknown", "a layer cannot be read under the law pack in force: "+err.Error())
	}
	own := [1]*residency.Pack{x.Law.Pack}
	packs, missing := x.packs(own[:])
	for _, pack := range packs {
		f := x.there(&r, pack)
		r.Findings = append(r.Findings, f)
		r.take(f)
		if x.Via != nil {
			r.take(x.through(&r, x.Via.Facts.Site(x.Via.ID, x.ViaSite), pack))
		}
	}
	if missing != "" && r.Permitted() {
		return x.unknown(r, residency.RuleNotHeld, missing)
	}
	return r
}

// read gives the ruling its whole policy.
func (x Crossing) read(r *Ruling) error {
	r.Policy = x.Policy
	if len(x.Layers) == 0 && x.Policy.IsZero() {
		return nil // the rules of a border narrow a policy; they are none
	}
	layers, read := Across(x.Layers, x.From, x.To), x.Law.Read
	if len(layers) == 0 {
		return nil
	}
	if read == nil {
		read = func(l []Layer) (residency.Policy, error) { return ReadLayers(l, x.Law.Pack, x.Law.On) }
	}
	p, err := read(layers)
	if err != nil {
		return err
	}
	if r.Policy = p; !x.Policy.IsZero() {
		r.Policy = x.Policy.Meet(p)
	}
	return nil
}

// ReadLayers reads a policy from the wire forms of its layers.
func ReadLayers(layers []Layer, pack *residency.Pack, on residency.Date) (residency.Policy, error) {
	read := make([]residency.Layer, 0, len(layers))
	for _, l := range layers {
		tag, err := residency.ParseWire(l.Tag, pack, on)
		if err != nil {
			return residency.Policy{}, err
		}
		read = append(read, residency.Layer{Origin: l.Origin, Tag: tag})
	}
	return residency.NewPolicy(read...), nil
}

// packs are those that must permit. Missing says why one of them cannot be
// asked: it is not held here, or its region has not said which it is.
func (x Crossing) packs(packs []*residency.Pack) (all []*residency.Pack, missing string) {
	if x.Arrived || !border(x.From, x.To) {
		return packs, ""
	}
	for _, r := range [...]*Region{x.From, x.To} {
		if r.Self {
			continue
		}
		if r.LawPack == "" {
			missing = fmt.Sprintf("region %s has not said by which law pack it decides", r.ID)
			continue
		}
		if packs = x.add(packs, r.LawPack); packs[len(packs)-1] == nil {
			packs, missing = packs[:len(packs)-1], x.notHeld(r.ID, r.LawPack)
		}
	}
	for _, hash := range x.Under {
		if hash == "" {
			continue
		}
		if packs = x.add(packs, hash); packs[len(packs)-1] == nil {
			packs, missing = packs[:len(packs)-1], x.notHeld(x.From.ID, hash)
		}
	}
	return packs, missing
}

// add adds a pack that is not there yet, nil for one that is not held.
func (x Crossing) add(packs []*residency.Pack, hash string) []*residency.Pack {
	for _, have := range packs {
		if have.Hash() == hash {
			return packs
		}
	}
	if x.Law.Held == nil {
		return append(packs, nil)
	}
	return append(packs, x.Law.Held(hash))
}

func (x Crossing) notHeld(region RegionID, hash string) string {
	here := x.To.ID
	if x.From.Self {
		here = x.From.ID
	}
	return fmt.Sprintf("region %s decides by law pack %.80s, which region %s does not hold", region, hash, here)
}

// there judges the destination under one pack.
func (x Crossing) there(r *Ruling, pack *residency.Pack) Finding {
	site := x.To.Facts.Site(x.To.ID, x.Site)
	switch x.Use {
	case UseAnswer:
		return x.through(r, site, pack)
	case UseLogs:
		return x.orPass(x.inside(r.Policy.ForScope("logs"), site, pack), pack, r.Policy.ForScope("logs"))
	case UseEnter:
		return x.orPass(x.inside(r.Policy.ForScope("compute"), site, pack), pack, r.Policy)
	}
	return x.inside(r.Policy.ForScope("compute"), site, pack)
}

// inside judges a place, and where it leaves that open the sites of the region.
func (x Crossing) inside(p residency.Policy, site residency.Site, pack *residency.Pack) Finding {
	first := Finding{residency.Evaluate(p, site, pack, x.Options), site}
	if first.Verdict != residency.Unknown || x.Sites == nil {
		return first
	}
	for _, name := range x.Sites() {
		site.Site = name
		if d := residency.Evaluate(p, site, pack, x.Options); d.Verdict == residency.Permitted {
			return Finding{d, site}
		}
	}
	return first
}

// orPass takes a place that lies on the path, where it may not be more than that.
func (x Crossing) orPass(f Finding, pack *residency.Pack, p residency.Policy) Finding {
	if f.Verdict == residency.Permitted || residency.CheckTransit(p, f.Site, pack, x.Options) != nil {
		return f
	}
	f.Verdict, f.Rule, f.Reason = residency.Permitted, onPath, "the path may lead through "+f.Site.Region
	return f
}

// onPath is the rule of what permits to pass a place, and not to run there.
const onPath = "transit.via"

// through judges a place on the path.
func (x Crossing) through(r *Ruling, site residency.Site, pack *residency.Pack) Finding {
	f := Finding{residency.EvaluateTransit(r.Policy, site, pack, x.Options), site}
	if f.Verdict == residency.Permitted {
		f.Rule = onPath
	}
	return f
}

// take lets what refuses decide, else what is not known.
func (r *Ruling) take(f Finding) {
	if r.Verdict == "" || r.Permitted() || r.Verdict == residency.Unknown && f.Verdict == residency.Refused {
		r.Finding = f
	}
}

func (x Crossing) unknown(r Ruling, rule, reason string) Ruling {
	r.Decision = residency.Decision{Verdict: residency.Unknown, Rule: rule, Reason: reason, On: x.Law.On}
	if x.Law.Pack != nil {
		r.Pack = x.Law.Pack.Hash()
	}
	return r
}
