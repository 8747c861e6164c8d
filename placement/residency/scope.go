package residency

import (
	"fmt"
	"slices"
)

// scopeNames are the fields of scope.
func scopeNames() []string { return []string{"compute", "rest", "backup", "logs", "metadata", "admin"} }

// list is where Scope keeps the field of that name.
func (s *Scope) list(name string) *[]string {
	return map[string]*[]string{"compute": &s.Compute, "rest": &s.Rest, "backup": &s.Backup, "logs": &s.Logs, "metadata": &s.Metadata, "admin": &s.Admin}[name]
}

// scope reads the narrower sets and refuses what allow does not hold.
func (r *longReader) scope(path string, v Value) error {
	f, err := r.fields(path, v, scopeNames()...)
	if err != nil {
		return err
	}
	held := r.p.allowedCountries(r.b.allow, r.on)
	for _, name := range scopeNames() {
		list, ok := f[name]
		if !ok {
			continue
		}
		items, err := r.places(path+"."+name, list)
		if err != nil {
			return err
		}
		for i, it := range items {
			if !r.p.within(it, r.b.allow, held, r.on) {
				return &Error{
					Code:    "tag.scope",
					Message: fmt.Sprintf("%s.%s holds %s, which allow does not", path, name, it.text),
					Help:    "allow " + it.text + " or drop it",
					Line:    list.List[i].Line, Column: list.List[i].Column,
				}
			}
		}
		if r.b.scope == nil {
			r.b.scope = map[string][]item{}
		}
		r.b.scope[name] = canonicalItems(items)
		*r.b.long.Scope.list(name) = texts(r.b.scope[name])
	}
	return nil
}

// allowedCountries is the set of countries that an allow list holds on a day;
// nil stands for all of them. A decision counts whatever claim it asks.
func (p *Pack) allowedCountries(allow []item, on Date) map[string]bool {
	held := map[string]bool{}
	for _, it := range allow {
		if it.kind == kindAny {
			return nil
		}
		for _, c := range p.countriesOf(it, on) {
			held[c] = true
		}
	}
	return held
}

// countriesOf lists every country of an item on a day. Subdivisions and names
// are no countries.
func (p *Pack) countriesOf(it item, on Date) []string {
	switch it.kind {
	case kindAny:
		return p.codes
	case kindCountry:
		return []string{it.code}
	case kindGroup:
		return p.Members(it.code, on)
	case kindAdequate:
		var out []string
		for _, c := range p.codes {
			for _, t := range p.decisions(it.code, on) {
				if p.covers(t, c, on).v == yes {
					out = append(out, c)
					break
				}
			}
		}
		return out
	}
	return nil
}

// within reports whether a scope's item narrows allow. held is what
// allowedCountries gave for it.
func (p *Pack) within(it item, allow []item, held map[string]bool, on Date) bool {
	if slices.Contains(allow, it) || it.kind == kindRegion || it.kind == kindSite || held == nil {
		return true
	}
	if it.kind == kindSubdivision {
		return held[it.code[:2]]
	}
	for _, c := range p.countriesOf(it, on) {
		if !held[c] {
			return false
		}
	}
	return true
}
