package residency

import (
	"fmt"
	"strings"
)

// Site is what is known about one place: a region, or a site of it. Codes and
// names may stand in any case; an empty string is the same as not said.
type Site struct {
	Region      string            `json:"region"`
	Site        string            `json:"site,omitempty"`
	Country     string            `json:"country,omitempty"`     // ISO 3166-1 alpha-2, or UK, EL
	Subdivision string            `json:"subdivision,omitempty"` // ISO 3166-2
	Operator    Operator          `json:"operator,omitzero"`
	Claims      map[string]string `json:"claims,omitempty"` // by lower-case name
	Assurance   Assurance         `json:"assurance,omitzero"`
}

// Operator says under whose law the operator stands.
type Operator struct {
	Home   string `json:"home,omitempty"`   // country
	Parent string `json:"parent,omitempty"` // country of the ultimate parent; "none": it has none
}

// Assurance says how well the facts of a site are known, and since when.
type Assurance struct {
	Location string `json:"location,omitempty"` // a level of [AssuranceLevels]
	Operator string `json:"operator,omitempty"`
	AsOf     string `json:"as_of,omitempty"` // YYYY-MM-DD
}

const maxSitesBytes = 16 << 20

// ParseSites reads the sites file: a JSON list that is not empty. Unknown
// fields, wrong types and malformed codes are refused with code input.sites;
// well-formed values that nobody lists are left to be unknown.
func ParseSites(data []byte) ([]Site, error) {
	if len(data) > maxSitesBytes {
		return nil, &Error{Code: codeSites, Message: "the sites file has more than 16 MiB", Help: "split it"}
	}
	v, err := decodeJSON(data, codeSites)
	if err != nil {
		return nil, err
	}
	if v.Kind != List || len(v.List) == 0 {
		return nil, siteFault(v, "the sites file must be a JSON list with at least one site", "")
	}
	sites := make([]Site, 0, len(v.List))
	for i, e := range v.List {
		r := siteReader{path: fmt.Sprintf("sites[%d]", i)}
		s, err := r.site(e)
		if err != nil {
			return nil, err
		}
		sites = append(sites, s)
	}
	return sites, nil
}

const codeSites = "input.sites"

func siteFault(v Value, message, help string) error {
	if help == "" {
		help = `write for example [{"region":"fra-1","country":"FR","operator":{"home":"FR","parent":"none"}}]`
	}
	return &Error{Code: codeSites, Message: message, Help: help, Line: v.Line, Column: v.Column}
}

type siteReader struct{ path string }

// each calls set for every key of a mapping and refuses repeated keys.
func (r siteReader) each(path string, v Value, set func(name, path string, v Value) error) error {
	if v.Kind != Map {
		return siteFault(v, path+" must be an object, not "+v.Kind.String(), "")
	}
	seen := make(map[string]bool, len(v.Fields))
	for _, f := range v.Fields {
		at := Value{Line: f.Line, Column: f.Column}
		if seen[f.Name] {
			return siteFault(at, path+": the field "+quote(f.Name)+" stands twice", "keep one of them")
		}
		seen[f.Name] = true
		if err := set(f.Name, path+"."+f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

func (r siteReader) unknown(path string, v Value, allowed ...string) error {
	name := path[strings.LastIndexByte(path, '.')+1:]
	help := "valid here: " + strings.Join(allowed, ", ")
	if s := nearest(name, allowed); s != "" {
		help = "did you mean " + s + "? " + help
	}
	return siteFault(v, "unknown field "+quote(path), help)
}

func (r siteReader) text(path string, v Value) (string, error) {
	if v.Kind != String {
		return "", siteFault(v, path+" must be a string, not "+v.Kind.String(), "")
	}
	return v.Text, nil
}

func (r siteReader) site(v Value) (s Site, err error) {
	err = r.each(r.path, v, func(name, path string, v Value) (err error) {
		switch name {
		case "region":
			s.Region, err = r.text(path, v)
		case "site":
			s.Site, err = r.text(path, v)
		case "country":
			s.Country, err = r.country(path, v)
		case "subdivision":
			s.Subdivision, err = r.text(path, v)
			if err == nil && s.Subdivision != "" && !subdivisionShape(s.Subdivision) {
				err = siteFault(v, path+" "+quote(s.Subdivision)+" is not a subdivision", "write ISO 3166-2, for example CA-QC")
			}
		case "operator":
			err = r.operator(path, v, &s.Operator)
		case "claims":
			s.Claims, err = r.claims(path, v)
		case "assurance":
			err = r.assurance(path, v, &s.Assurance)
		default:
			err = r.unknown(path, v, "region", "site", "country", "subdivision", "operator", "claims", "assurance")
		}
		return err
	})
	if err != nil {
		return Site{}, err
	}
	if !nameShape(s.Region) {
		return Site{}, siteFault(v, r.path+".region "+quote(s.Region)+" is not a name", "give every site a region of 1 to 63 letters, digits and hyphens")
	}
	s.Region, s.Site, s.Subdivision = lower(s.Region), lower(s.Site), upper(s.Subdivision)
	return s, nil
}

func (r siteReader) country(path string, v Value) (string, error) {
	s, err := r.text(path, v)
	if err == nil && s != "" && !countryShape(s) {
		err = siteFault(v, path+" "+quote(s)+" is not two letters", "write ISO 3166-1 alpha-2, for example FR")
	}
	return upper(s), err
}

func (r siteReader) operator(path string, v Value, o *Operator) error {
	return r.each(path, v, func(name, path string, v Value) (err error) {
		switch name {
		case "home":
			o.Home, err = r.country(path, v)
		case "parent":
			if lower(v.Text) == parentNone && v.Kind == String {
				o.Parent = parentNone
				return nil
			}
			o.Parent, err = r.country(path, v)
		default:
			err = r.unknown(path, v, "home", "parent")
		}
		return err
	})
}

// parentNone means that the operator is its own ultimate parent.
const parentNone = "none"

func (r siteReader) claims(path string, v Value) (map[string]string, error) {
	out := map[string]string{}
	err := r.each(path, v, func(name, path string, v Value) error {
		s, err := r.text(path, v)
		if err != nil {
			return err
		}
		if _, twice := out[lower(name)]; twice {
			return siteFault(v, path+" stands twice, in different case", "keep one of them")
		}
		out[lower(name)] = s
		return nil
	})
	return out, err
}

func (r siteReader) assurance(path string, v Value, a *Assurance) error {
	return r.each(path, v, func(name, path string, v Value) (err error) {
		switch name {
		case "location":
			a.Location, err = r.text(path, v)
		case "operator":
			a.Operator, err = r.text(path, v)
		case "as_of":
			a.AsOf, err = r.text(path, v)
		default:
			err = r.unknown(path, v, "location", "operator", "as_of")
		}
		return err
	})
}

// place is where a site is, as far as the pack can tell.
type place struct {
	country     string // "": not known
	subdivision string // "": not known
}

// place reads a site's country and subdivision together.
func (p *Pack) place(s *Site) place {
	country := canonicalCountry(upper(s.Country))
	sub := upper(s.Subdivision)
	if sub == "" {
		return place{country: p.listed(country)}
	}
	if !subdivisionShape(sub) {
		return place{} // only a caller that skipped ParseSites comes here
	}
	prefix := canonicalCountry(sub[:2])
	sub = prefix + sub[2:]
	home, listed := p.subdivisions[sub]
	if listed && home != prefix {
		// A subdivision with a country code of its own moves the site there.
		if country == "" || country == prefix || country == home {
			return place{country: p.listed(home)}
		}
		return place{}
	}
	if country == "" {
		country = prefix
	}
	if country != prefix {
		return place{}
	}
	if country = p.listed(country); country == "" || !listed && p.complete[prefix] {
		return place{country: country}
	}
	return place{country, sub}
}

// listed gives the code back when the pack lists it as a country, else "".
func (p *Pack) listed(code string) string {
	if _, ok := p.countries[code]; ok {
		return code
	}
	return ""
}
