package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

// readTag reads a tag as people give it to a command: the short form, the wire
// form, or @FILE with the long form in YAML or JSON. A lone "-" is a tag.
func readTag(arg string, pack *residency.Pack, on residency.Date) (residency.Tag, []string, error) {
	path, isFile := strings.CutPrefix(arg, "@")
	if !isFile {
		if strings.HasPrefix(arg, "json:") {
			tag, err := residency.ParseWire(arg, pack, on)
			return tag, nil, err
		}
		tag, warnings, err := residency.Parse(arg, pack)
		return tag, texts(warnings), err
	}
	data, err := readBounded(path, maxYAMLFile)
	if err != nil {
		return residency.Tag{}, nil, err
	}
	v, err := decodeTagFile(data, path)
	if err != nil {
		return residency.Tag{}, nil, err
	}
	tag, warnings, err := residency.ParseLong(v, pack, on)
	return tag, texts(warnings), err
}

func decodeTagFile(data []byte, path string) (residency.Value, error) {
	if text := bytes.TrimLeft(data, " \t\r\n"); bytes.HasPrefix(text, []byte("{")) {
		// A YAML flow mapping begins like JSON: YAML has the last word.
		if v, err := residency.ValueFromJSON(data); err == nil {
			return v, nil
		}
	}
	return decodeYAML(data, path, "tag.syntax")
}

func texts(warnings []residency.Warning) []string {
	var out []string
	for _, w := range warnings {
		out = append(out, w.String())
	}
	return out
}

// wireTag reads a tag given with a flag and returns its wire form.
func (p *program) wireTag(arg string) (string, error) {
	tag, warnings, err := readTag(arg, residency.Embedded(), residency.DateOf(p.now()))
	if err != nil {
		return "", err
	}
	for _, w := range warnings {
		p.warn(w)
	}
	return tag.Wire(), nil
}

// asOf is the day of --as-of, or today in UTC.
func (p *program) asOf(c *cli.Context) (residency.Date, error) {
	if s := c.String("as-of"); c.IsSet("as-of") {
		return residency.ParseDate(s)
	}
	return residency.DateOf(p.now()), nil
}

// unknownNames warns of regions and sites that a tag names and nobody here
// knows: a slip in a name looks like a tag that permits nothing.
func unknownNames(tag residency.Tag, sites []spot) []string {
	knows := func(has func(spot) string, name string) bool {
		return slices.ContainsFunc(sites, func(s spot) bool { return strings.EqualFold(has(s), name) })
	}
	var out []string
	regions, places := tag.Names()
	for _, r := range regions {
		if !knows(func(s spot) string { return string(s.region.ID) }, r) {
			out = append(out, fmt.Sprintf("no known region is called %s", r))
		}
	}
	for _, n := range places {
		if !knows(func(s spot) string { return s.site }, n) {
			out = append(out, fmt.Sprintf("no known site is called %s", n))
		}
	}
	return out
}
