package residency

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (r *longReader) control(path string, v Value) error {
	f, err := r.fields(path, v, "operator", "exposed_to", "keys")
	if err != nil {
		return err
	}
	if op, ok := f["operator"]; ok {
		if err := r.operator(path+".operator", op); err != nil {
			return err
		}
	}
	if ex, ok := f["exposed_to"]; ok {
		if err := r.exposedTo(path+".exposed_to", ex); err != nil {
			return err
		}
	}
	if keys, ok := f["keys"]; ok {
		return r.keys(path+".keys", keys)
	}
	return nil
}

func (r *longReader) operator(path string, v Value) error {
	f, err := r.fields(path, v, "home", "parent")
	if err != nil {
		return err
	}
	for _, side := range []struct {
		name  string
		items *[]item
		words *[]string
	}{{"home", &r.b.home, &r.b.long.Home}, {"parent", &r.b.parent, &r.b.long.Parent}} {
		list, ok := f[side.name]
		if !ok {
			continue
		}
		items, err := r.places(path+"."+side.name, list)
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return r.field(list, "name at least one, or leave the field out", "%s.%s names no place", path, side.name)
		}
		for i, it := range items {
			if it.kind != kindCountry && it.kind != kindGroup {
				return r.field(list.List[i], "write a country or a group", "%s.%s takes countries and groups, not %s", path, side.name, it.text)
			}
		}
		*side.items = canonicalItems(items)
		*side.words = texts(*side.items)
	}
	return nil
}

func (r *longReader) exposedTo(path string, v Value) error {
	f, err := r.fields(path, v, "deny")
	if err != nil {
		return err
	}
	list, ok := f["deny"]
	if !ok {
		return nil
	}
	ids, err := r.list(path+".deny", list)
	if err != nil {
		return err
	}
	for i, id := range ids {
		id = upper(id)
		if !slices.Contains(r.p.lawIDs, id) {
			e := &Error{Code: "tag.unknown-law", Message: quote(ids[i]) + " is not a law that an operator can be exposed to", Help: "valid: " + strings.Join(r.p.lawIDs, ", "), Line: list.List[i].Line, Column: list.List[i].Column}
			if s := nearest(id, r.p.lawIDs); s != "" {
				e.Help = "did you mean " + s + "? " + e.Help
			}
			return e
		}
		if !slices.Contains(r.b.long.ExposedTo, id) {
			r.b.long.ExposedTo = append(r.b.long.ExposedTo, id)
		}
	}
	return nil
}

func (r *longReader) keys(path string, v Value) error {
	f, err := r.fields(path, v, "holder", "where")
	if err != nil {
		return err
	}
	if h, ok := f["holder"]; ok {
		s, err := r.text(path+".holder", h)
		if err != nil {
			return err
		}
		if !nameShape(s) {
			return r.field(h, "write a name, for example tenant", "%s.holder cannot be %s", path, quote(s))
		}
		r.b.long.Keys.Holder = lower(s)
	}
	if w, ok := f["where"]; ok {
		items, err := r.places(path+".where", w)
		if err != nil {
			return err
		}
		r.b.long.Keys.Where = texts(canonicalItems(items))
	}
	return nil
}

func (r *longReader) transit(path string, v Value) error {
	f, err := r.fields(path, v, "via", "direct", "sealed")
	if err != nil {
		return err
	}
	if via, ok := f["via"]; ok {
		items, err := r.places(path+".via", via)
		if err != nil {
			return err
		}
		r.b.via = canonicalItems(items)
		r.b.long.Transit.Via = texts(r.b.via)
	}
	if d, ok := f["direct"]; ok {
		if r.b.long.Transit.Direct, err = r.boolean(path+".direct", d); err != nil {
			return err
		}
	}
	if s, ok := f["sealed"]; ok {
		r.b.long.Transit.Sealed, err = r.boolean(path+".sealed", s)
	}
	return err
}

func (r *longReader) confidential(path string, v Value) (err error) {
	r.b.long.Confidential, err = r.boolean(path, v)
	return err
}

func (r *longReader) assurance(path string, v Value) error {
	f, err := r.fields(path, v, "location", "operator", "max_age", "framework")
	if err != nil {
		return err
	}
	a := &r.b.long.Assurance
	if l, ok := f["location"]; ok {
		if a.Location, err = r.enum(path+".location", l, AssuranceLevels()...); err != nil {
			return err
		}
	}
	if o, ok := f["operator"]; ok {
		if a.Operator, err = r.enum(path+".operator", o, AssuranceLevels()...); err != nil {
			return err
		}
	}
	if m, ok := f["max_age"]; ok {
		s, err := r.text(path+".max_age", m)
		if err != nil {
			return err
		}
		days, ok := strings.CutSuffix(s, "d")
		n, numeric := number(days)
		if !ok || !numeric {
			return r.field(m, "write days: 90d", "%s.max_age cannot be %s", path, quote(s))
		}
		a.MaxAge, a.HasMaxAge = n, true
	}
	if fw, ok := f["framework"]; ok {
		return r.framework(path+".framework", fw)
	}
	return nil
}

func (r *longReader) framework(path string, v Value) error {
	words, err := r.list(path, v)
	if err != nil {
		return err
	}
	var out []string
	for i, w := range words {
		framework, level, _ := strings.Cut(upper(w), ":")
		if !slices.Contains(r.p.levels[framework], level) {
			return r.field(v.List[i], "valid: "+strings.Join(r.p.frameworkLevels(), ", "), "%s cannot hold %s", path, quote(w))
		}
		out = append(out, framework+":"+level)
	}
	slices.Sort(out)
	r.b.long.Assurance.Framework = slices.Compact(out)
	return nil
}

func (r *longReader) onChange(path string, v Value) error {
	f, err := r.fields(path, v, "law", "claim", "partition")
	if err != nil {
		return err
	}
	o := &r.b.long.OnChange
	actions := []string{"continue-flagged", "drain", "checkpoint-stop", "stop"}
	if law, ok := f["law"]; ok {
		o.Law = &Change{}
		if o.Law.Action, o.Law.Grace, err = r.reaction(path+".law", law, "grace", actions); err != nil {
			return err
		}
	}
	if claim, ok := f["claim"]; ok {
		o.Claim = &Change{}
		if o.Claim.Action, o.Claim.Grace, err = r.reaction(path+".claim", claim, "grace", actions); err != nil {
			return err
		}
	}
	if part, ok := f["partition"]; ok {
		o.Partition = &Partition{}
		o.Partition.Action, o.Partition.Max, err = r.reaction(path+".partition", part, "max", []string{"finish", "pause", "stop"})
	}
	return err
}

// reaction reads {action, grace} and {action, max}; the action is required.
func (r *longReader) reaction(path string, v Value, bound string, actions []string) (action string, d time.Duration, err error) {
	f, err := r.fields(path, v, "action", bound)
	if err != nil {
		return "", 0, err
	}
	a, ok := f["action"]
	if !ok {
		return "", 0, r.field(v, "valid: "+strings.Join(actions, ", "), "%s has no action", path)
	}
	if action, err = r.enum(path+".action", a, actions...); err != nil {
		return "", 0, err
	}
	if b, ok := f[bound]; ok {
		s, err := r.text(path+"."+bound, b)
		if err != nil {
			return "", 0, err
		}
		if d, ok = duration(s); !ok {
			return "", 0, r.field(b, "write one number with s, m, h or d: 72h", "%s.%s cannot be %s", path, bound, quote(s))
		}
	}
	return action, d, nil
}

// number reads up to six digits.
func number(s string) (int, bool) {
	if len(s) == 0 || len(s) > 6 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

func duration(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	unit, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[len(s)-1]]
	n, numeric := number(s[:len(s)-1])
	if !ok || !numeric || time.Duration(n) > 100*365*24*time.Hour/unit {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// durationText writes a whole number of the largest unit up to hours.
func durationText(d time.Duration) string {
	switch {
	case d == 0:
		return "0s"
	case d%time.Hour == 0 && d/time.Hour < 1_000_000:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0 && d/time.Minute < 1_000_000:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// frameworkLevels lists FRAMEWORK:LEVEL, frameworks sorted, levels rising.
func (p *Pack) frameworkLevels() []string {
	var out []string
	for _, f := range sortedKeys(p.levels) {
		for _, l := range p.levels[f] {
			out = append(out, f+":"+l)
		}
	}
	return out
}
