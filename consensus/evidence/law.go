package evidence

import (
	"errors"
	"fmt"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// ruleAdmission is the rule of a judgement that asked only whether a policy can
// be held at all; no place was judged.
const ruleAdmission = "tag.read"

// rulePath is the rule of a judgement by which a place may be passed.
const rulePath = "transit.via"

// Packs are law packs by their hash. A pack is found by hash alone, so it does
// not matter who supplied it.
type Packs map[string]*residency.Pack

// ErrNoPack says that a judgement pins a law pack that is not at hand.
var ErrNoPack = errors.New("law pack not at hand")

// Rejudge repeats a decision from what its leaf pins: the policy, the facts,
// the pack and the day. Its error says what differs. A nil error means that the
// law of that day gives the verdict that was recorded; it does not mean that
// the facts were true.
//
// A permission for ANY is not in a leaf, so a refusal for its lack cannot be
// repeated; it harmed nobody.
func Rejudge(j *ledger.Judgement, packs Packs) error {
	pack := packs[j.LawPack]
	if pack == nil {
		return fmt.Errorf("%w: %s", ErrNoPack, j.LawPack)
	}
	on, err := residency.ParseDate(j.On)
	if err != nil {
		return fmt.Errorf("the day %q of the decision is none: %w", j.On, err)
	}
	policy, err := residency.ParseCanonical(j.Tag, pack, on)
	if err != nil {
		return fmt.Errorf("the tag %q of the decision: %w", j.Tag, err)
	}
	if j.Facts == nil {
		return rejudgeAdmission(j, policy, pack, on)
	}
	if j.Rule != rulePath {
		policy = policy.ForScope("compute")
	}
	return rejudgeSite(j, policy, pack, on)
}

func rejudgeAdmission(j *ledger.Judgement, policy residency.Policy, pack *residency.Pack, on residency.Date) error {
	_, _, empty := residency.Conflict(policy, pack, on)
	if permitted := j.Verdict == string(residency.Permitted); permitted && empty {
		return fmt.Errorf("the policy %q was admitted, and no place can satisfy it", j.Tag)
	} else if permitted != (j.Rule == ruleAdmission) {
		return fmt.Errorf("the verdict %s and the rule %s do not belong together", j.Verdict, j.Rule)
	}
	return nil
}

func rejudgeSite(j *ledger.Judgement, policy residency.Policy, pack *residency.Pack, on residency.Date) error {
	site, o := siteOf(j.Facts), residency.Options{On: on}
	if j.Rule == rulePath && j.Verdict == string(residency.Permitted) && j.Place == "" {
		// The region may hold it on its way. Nothing is placed on a node by this rule.
		if err := residency.CheckTransit(policy, site, pack, o); err != nil {
			return fmt.Errorf("%s was recorded as lying on the path, and does not: %w", j.Tag, err)
		}
		return nil
	}
	d := residency.Evaluate(policy, site, pack, o)
	if string(d.Verdict) != j.Verdict {
		return fmt.Errorf("%s was recorded as %s (rule %s), and is %s (rule %s: %s)", j.Tag, j.Verdict, j.Rule, d.Verdict, d.Rule, d.Reason)
	}
	// Several layers may refuse, each by a rule of its own; the leaf names the
	// one that was asked first, and canonical form does not keep that order.
	for _, l := range policy.Layers() {
		if one := residency.Evaluate(residency.NewPolicy(l), site, pack, o); one.Rule == j.Rule && one.Verdict == d.Verdict {
			return nil
		}
	}
	return fmt.Errorf("%s was recorded as %s by rule %s, and no layer of it says so: rule %s does", j.Tag, j.Verdict, j.Rule, d.Rule)
}

func siteOf(f *ledger.Facts) residency.Site {
	site := residency.Site{
		Region: f.Region, Site: f.Site, Country: f.Country, Subdivision: f.Subdivision,
		Operator:  residency.Operator{Home: f.Home, Parent: f.Parent},
		Assurance: residency.Assurance{Location: f.Location, Operator: f.Operator, AsOf: f.AsOf},
	}
	if len(f.Claims) > 0 {
		site.Claims = make(map[string]string, len(f.Claims))
		for _, c := range f.Claims {
			site.Claims[c.Name] = c.Value
		}
	}
	return site
}
