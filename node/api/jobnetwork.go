package api

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/sovmesh/sovmesh/node/userdata"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// network reads what the workload may reach: the word host or none, or lists.
func network(v residency.Value) (*placement.Network, error) {
	const help = `write network: none, network: host, or network: {allow: ["192.0.2.7:443", "region:NAME"], dns: ["192.0.2.53"]}`
	out := new(placement.Network)
	if v.Kind == residency.String {
		mode, err := word("network", v, "none", "host")
		out.Host = mode == "host"
		return out, err
	}
	err := fields("network", help, v, []string{"host", "allow", "dns"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "host":
			out.Host, err = boolean(f, v)
		case "allow":
			out.Allow, err = reaches(v)
		case "dns":
			out.DNS, err = resolvers(v)
		}
		return err
	})
	if err == nil && out.Host && (len(out.Allow) > 0 || len(out.DNS) > 0) {
		err = jobError(v, "leave out host, or allow and dns", "a workload with the node's own network reaches what the node does: allow and dns would bind nothing")
	}
	return out, err
}

// bounded reads a list of at most so many different words; an empty list is none.
func bounded(name string, v residency.Value, most int) ([]string, error) {
	if v.Kind == residency.List && len(v.List) == 0 {
		return nil, nil
	}
	list, err := texts(name, v)
	if err != nil {
		return nil, err
	}
	if len(list) > most {
		return nil, jobError(v, "write fewer, or prefixes", "%s has %d items, and at most %d are read", name, len(list), most)
	}
	seen := map[string]bool{}
	for i, s := range list {
		if seen[s] {
			return nil, jobError(v.List[i], "write it once", "%s names %s a second time", name, quoteWord(s))
		}
		seen[s] = true
	}
	return list, nil
}

func reaches(v residency.Value) ([]string, error) {
	list, err := bounded("allow", v, maxReaches)
	services := 0
	for i, s := range list {
		reach, err := placement.ParseReach(s)
		if err != nil {
			return nil, jobError(v.List[i], "write an address, a prefix, either with :PORT, region:NAME or service:NAME", "allow cannot hold %s: %v", quoteWord(s), err)
		}
		if reach.Service == "" {
			continue
		}
		if services++; services > placement.MaxServices {
			return nil, jobError(v.List[i], "write fewer", "allow names more than %d services", placement.MaxServices)
		}
		if !placement.ValidName(reach.Service) {
			return nil, jobError(v.List[i], "name that job with lower-case letters, digits and hyphens: the workload looks it up as NAME.service.sovmesh", "allow cannot hold %s: it is no name that can be looked up", quoteWord(s))
		}
	}
	return list, err
}

func resolvers(v residency.Value) ([]string, error) {
	list, err := bounded("dns", v, maxDNS)
	for i, s := range list {
		if a, err := netip.ParseAddr(s); err != nil || placement.ReachProblem(netip.PrefixFrom(a, a.BitLen())) != nil {
			return nil, jobError(v.List[i], "write the address of a resolver in the region, such as 192.0.2.53", "dns cannot hold %s", quoteWord(s))
		}
	}
	return list, err
}

// cloudInit reads a vm's user-data: a mapping, which is kept as JSON below the
// line that cloud-init knows it by, or the text itself.
// https://cloudinit.readthedocs.io/en/latest/explanation/format.html
func cloudInit(v residency.Value) (string, error) {
	const head = "#cloud-config\n"
	if v.Kind == residency.Map {
		body, err := plainJSON("cloud_init", v)
		return head + body, err
	}
	s, err := text("cloud_init", v, maxTextBytes)
	if err == nil && !userdata.Begins(s) {
		err = jobError(v, "write a mapping, or a text whose first line is #cloud-config or #!/bin/sh", "cloud_init begins with neither #cloud-config nor #!")
	}
	if err == nil {
		err = guestText("cloud_init", v, userdata.Check(s))
	}
	return s, err
}

// guestText says what is wrong with a text that a guest reads, by its own lines.
func guestText(name string, v residency.Value, problem error) error {
	if problem == nil {
		return nil
	}
	return jobError(v, "correct it there, or write it as a mapping in place of a text", "%s is not what a guest can read, in its own text: %v", name, problem)
}

func cloudNetwork(v residency.Value) (string, error) {
	if v.Kind == residency.Map {
		return plainJSON("cloud_network", v)
	}
	s, err := text("cloud_network", v, maxTextBytes)
	if err == nil {
		err = guestText("cloud_network", v, userdata.CheckYAML(s))
	}
	return s, err
}

// plainJSON writes a mapping as JSON, which is YAML too. A number that JSON has
// no form for stays the text that it was: 0644 as the mode of a file is what was
// meant by it.
func plainJSON(name string, v residency.Value) (string, error) {
	var b bytes.Buffer
	if err := writeTree(&b, v); err != nil {
		return "", err
	}
	if b.Len() > maxTextBytes {
		return "", jobError(v, "write at most 128 KiB", "%s has %d bytes", name, b.Len())
	}
	return b.String() + "\n", nil
}

func writeTree(b *bytes.Buffer, v residency.Value) error {
	switch v.Kind {
	case residency.Map:
		return writeMap(b, v)
	case residency.List:
		b.WriteByte('[')
		for i, item := range v.List {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeTree(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	case residency.Null:
		b.WriteString("null")
	case residency.Bool:
		b.WriteString(strings.ToLower(v.Text))
	case residency.Number:
		if json.Valid([]byte(v.Text)) {
			b.WriteString(v.Text)
			return nil
		}
		writeText(b, v.Text)
	default:
		writeText(b, v.Text)
	}
	return nil
}

func writeMap(b *bytes.Buffer, v residency.Value) error {
	seen := map[string]bool{}
	b.WriteByte('{')
	for i, f := range v.Fields {
		if seen[f.Name] {
			return jobError(residency.Value{Line: f.Line, Column: f.Column}, "write every key once", "%s stands here a second time", quoteWord(f.Name))
		}
		seen[f.Name] = true
		if i > 0 {
			b.WriteByte(',')
		}
		writeText(b, f.Name)
		b.WriteByte(':')
		if err := writeTree(b, f.Value); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func writeText(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a text is always written
	b.Truncate(b.Len() - 1)
}
