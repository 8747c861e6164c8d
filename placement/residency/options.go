package residency

import "slices"

// OptionsFor checks what a caller sets beside a tag (--exporter, --data, a
// tenant's setting) and puts it into canonical words. It is refused with
// tag.field when the tag itself says otherwise, and with tag.unknown-exporter
// when nobody is exporter of that name.
func OptionsFor(t Tag, o Options, p *Pack) (Options, []Warning, error) {
	r := &reader{p: p}
	l := t.Long()
	if o.Exporter != "" {
		code, err := r.exporter(o.Exporter, 0)
		if err != nil {
			return Options{}, nil, err
		}
		if l.Exporter != "" && l.Exporter != code {
			return Options{}, nil, contradiction("exporter", l.Exporter, code)
		}
		o.Exporter = code
	}
	if o.Data != "" {
		if !slices.Contains(dataWords(), o.Data) {
			return Options{}, nil, &Error{Code: "tag.field", Message: "data cannot be " + quote(o.Data), Help: "valid: none, personal, special, confidential"}
		}
		if l.Data != "" && l.Data != o.Data {
			return Options{}, nil, contradiction("data", l.Data, o.Data)
		}
	}
	return o, r.warnings, nil
}

func contradiction(field, tag, option string) error {
	return &Error{Code: "tag.field", Message: "the tag says " + field + " " + tag + ", the caller says " + option, Help: "leave one of them out: what a tag says is never overridden"}
}
