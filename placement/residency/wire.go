package residency

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// wirePrefix stands before the canonical long form in X-Data-Residency.
const wirePrefix = "json:"

// maxWireJSON is the most bytes of canonical JSON that a tag may need.
const maxWireJSON = 4 << 10

// ParseWire reads the header X-Data-Residency: any short form, or "json:" and
// the unpadded base64url of a canonical long form. Bytes that are a long form
// but not its canonical one are refused, so that two headers which mean the
// same are the same.
func ParseWire(s string, p *Pack, on Date) (Tag, error) {
	encoded, ok := strings.CutPrefix(s, wirePrefix)
	if !ok {
		t, _, err := Parse(s, p)
		return t, err
	}
	if len(encoded) > base64.RawURLEncoding.EncodedLen(maxWireJSON) {
		return Tag{}, tooLong(fmt.Sprintf("a long form of more than %d bytes", maxWireJSON))
	}
	// The decoder skips line breaks and stray bits: the comparison below refuses both.
	data, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return Tag{}, &Error{Code: "tag.syntax", Message: "the residency header is not unpadded base64url after json:", Help: "send json: and the base64url of the canonical long form, without ="}
	}
	v, err := ValueFromJSON(data)
	if err != nil {
		return Tag{}, err
	}
	t, _, err := ParseLong(v, p, on)
	if err != nil {
		return Tag{}, err
	}
	if t.Wire() != s {
		return Tag{}, &Error{Code: "tag.field", Message: "the residency header is not in canonical form", Help: "send " + shortened(t.Wire())}
	}
	return t, nil
}

func shortened(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}

// fixWire writes the wire form once everything is read.
func (b *body) fixWire() error {
	long := b.longJSON()
	if len(long) == 1 && len(long["residency"].(map[string]any)) == b.placeLists() {
		b.wire = b.canonical
		return nil
	}
	// Keys of maps are marshalled in byte order, which is the canonical one.
	data, err := json.Marshal(long)
	if err != nil {
		return &Error{Code: "tag.field", Message: err.Error()}
	}
	if len(data) > maxWireJSON {
		return tooLong(fmt.Sprintf("the canonical long form has %d bytes; the most is %d", len(data), maxWireJSON))
	}
	b.wire = wirePrefix + base64.RawURLEncoding.EncodeToString(data)
	return nil
}

// placeLists is how many of allow and deny the tag has.
func (b *body) placeLists() int {
	if len(b.deny) > 0 {
		return 2
	}
	return 1
}

// longJSON is the long form without what is left at its default.
func (b *body) longJSON() map[string]any {
	l := &b.long
	residency := object("allow", l.Allow, "deny", l.Deny, "prefer", l.Prefer, "data", l.Data, "exporter", l.Exporter, "mechanisms", l.Mechanisms)
	scope := map[string]any{}
	for _, name := range scopeNames() {
		if list := *l.Scope.list(name); list != nil {
			scope[name] = list // an empty scope is not the default
		}
	}
	put(residency, "scope", scope)
	control := object(
		"operator", object("home", l.Home, "parent", l.Parent),
		"exposed_to", object("deny", l.ExposedTo),
		"keys", keysJSON(l.Keys),
	)
	transit := object("direct", l.Transit.Direct, "sealed", l.Transit.Sealed)
	if l.Transit.Via != nil {
		transit["via"] = l.Transit.Via // an empty list permits no relay
	}
	return object("residency", residency, "control", control, "transit", transit, "assurance", assuranceJSON(l.Assurance), "on_change", onChangeJSON(l.OnChange), "confidential", l.Confidential)
}

func keysJSON(k Keys) map[string]any {
	out := object("holder", k.Holder)
	if k.Where != nil {
		out["where"] = k.Where
	}
	return out
}

func assuranceJSON(a MinAssurance) map[string]any {
	out := object("location", a.Location, "operator", a.Operator, "framework", a.Framework)
	if a.HasMaxAge {
		out["max_age"] = fmt.Sprintf("%dd", a.MaxAge)
	}
	return out
}

func onChangeJSON(o OnChange) map[string]any {
	out := map[string]any{}
	if o.Law != nil {
		out["law"] = map[string]any{"action": o.Law.Action, "grace": durationText(o.Law.Grace)}
	}
	if o.Claim != nil {
		out["claim"] = map[string]any{"action": o.Claim.Action, "grace": durationText(o.Claim.Grace)}
	}
	if o.Partition != nil {
		out["partition"] = map[string]any{"action": o.Partition.Action, "max": durationText(o.Partition.Max)}
	}
	return out
}

// object makes a mapping of alternating names and values, without the empty ones.
func object(pairs ...any) map[string]any {
	out := map[string]any{}
	for pair := range slices.Chunk(pairs, 2) {
		put(out, pair[0].(string), pair[1])
	}
	return out
}

func put(out map[string]any, name string, v any) {
	switch v := v.(type) {
	case string:
		if v == "" {
			return
		}
	case bool:
		if !v {
			return
		}
	case []string:
		if len(v) == 0 {
			return
		}
	case map[string]any:
		if len(v) == 0 {
			return
		}
	}
	out[name] = v
}
