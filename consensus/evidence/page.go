package evidence

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed page.html
var pageTemplate string

// Page is a report for people who answer for data: what was found, and the
// account of it.
type Page struct {
	Reports []*Report
	Account *Account
	Duties  []Duty
}

// Holds reports whether everything holds.
func (p *Page) Holds() bool {
	for _, r := range p.Reports {
		if !r.OK() {
			return false
		}
	}
	return len(p.Reports) > 0
}

// section is one table of a region.
type section struct {
	Title string
	Heads []string
	Rows  []Row
	None  string
}

func sections(r *RegionAccount) []section {
	return []section{
		{"Where jobs ran, and under which rule", []string{"country", "operator and assurance", "tag", "rule", "law pack and day"}, r.Places, "no placement in this time"},
		{"Transfers, and their basis", []string{"direction", "region", "country", "tag", "rule", "law pack and day", "basis in the law pack"}, r.Transfers, "no job crossed to or from another region"},
		{"Refusals", []string{"asked for", "answer", "rule", "tag", "country"}, r.Refusals, "nothing was refused"},
		{"Who administered", []string{"act", "role", "who", "from where", "what it set"}, r.Acts, "no act of an administrator"},
		{"Certificates", []string{"what", "serial, and end"}, r.Certificates, "none was issued or revoked"},
	}
}

// WriteHTML writes the page: one file, without scripts and without anything from
// elsewhere.
func (p *Page) WriteHTML(w io.Writer) error {
	t, err := template.New("page").Funcs(template.FuncMap{"stamp": when, "sections": sections, "text": printable}).Parse(pageTemplate)
	if err != nil {
		return err
	}
	return t.Execute(w, p)
}

// WriteText writes the same as text.
func (p *Page) WriteText(w io.Writer) error {
	if err := WriteText(w, p.Reports); err != nil {
		return err
	}
	out := &printer{w: w}
	for _, r := range p.Account.Regions {
		out.line("")
		out.line("REGION %s %s", r.Name, r.Country)
		for _, s := range sections(r) {
			out.line("")
			out.line("%s", s.Title)
			if len(s.Rows) == 0 {
				out.line("  %s", s.None)
			}
			for _, row := range s.Rows {
				out.line("  %d x, %s to %s, leaf %d", row.Count, when(row.First), when(row.Last), row.Leaf)
				for i, word := range row.What {
					if word != "" {
						out.line("    %s: %s", s.Heads[i], word)
					}
				}
			}
		}
		if r.More > 0 {
			out.line("  %d leaves more are in no table: report a shorter time", r.More)
		}
	}
	if len(p.Duties) > 0 {
		out.line("")
		out.line("DUTIES (a reading aid, no legal advice)")
		for _, d := range p.Duties {
			out.line("  %s %s (%s): %s", strings.ToUpper(d.Regime), d.Article, d.Who, d.What)
			out.line("    %s", fmt.Sprintf("%s: %s", d.Section, d.Shows))
		}
	}
	return out.err
}
