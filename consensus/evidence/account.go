package evidence

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// maxRows bounds each table of an account; what does not fit is counted.
const maxRows = 2000

// Account is what a pack tells people: where, when, under which rule, which
// transfers on what basis, who administered. It is made while a pack is judged:
// its Leaf goes into [Options]. What it says is worth what the verdicts are.
type Account struct {
	// Job, if set, is the only job whose placements and transfers are told.
	Job     string
	Regions []*RegionAccount
}

// RegionAccount is one region's part of an account.
type RegionAccount struct {
	Name    string `json:"name"`
	Country string `json:"country,omitempty"` // as it was judged
	// Places are placements that are alike, Transfers crossings to and from other
	// regions, Refusals what was not permitted, Acts what people and nodes with a
	// role changed, Certificates what was issued and revoked.
	Places       []Row `json:"places"`
	Transfers    []Row `json:"transfers"`
	Refusals     []Row `json:"refusals"`
	Acts         []Row `json:"acts"`
	Certificates []Row `json:"certificates"`
	More         int   `json:"more,omitempty"` // leaves that fit into no row

	rows map[string]map[string]*Row
	acts map[uint64]*act
}

// Row is one line: what is alike, how often, and from when to when.
type Row struct {
	What  []string  `json:"what"`
	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Leaf is the first leaf of it.
	Leaf uint64 `json:"leaf"`

	judged *ledger.Judgement
	// used is how many of a row's grants a job went by, as the other region told.
	used int
}

// Leaf takes a leaf; it is made for [Options.Leaf].
func (a *Account) Leaf(region string, index uint64, l *ledger.Leaf) {
	r := a.region(region)
	about := a.Job == "" || slices.Contains(JobsOf(l), a.Job)
	for i := range l.Judged {
		if f := l.Judged[i].Facts; f != nil && f.Region == region {
			r.Country = f.Country
		}
	}
	switch {
	case !l.Accepted():
		if about {
			r.refusal(index, l)
		}
	case l.Kind == kindAssign && about:
		for i := range l.Judged {
			r.add("places", index, l.Time, placeWords(&l.Judged[i]), &l.Judged[i])
		}
	case (l.Kind == kindForward || l.Kind == kindGrant || l.Kind == kindUsed || l.Kind == kindReserve || byGrant(l)) && about:
		r.transfer(index, l)
	}
	if l.Accepted() {
		r.certificates(index, l)
		r.act(index, l)
	}
}

func (r *RegionAccount) certificates(index uint64, l *ledger.Leaf) {
	for _, s := range l.Shown {
		switch s.Name {
		case ledger.ShownCertificate:
			r.add("certificates", index, l.Time, []string{"issued", s.Value}, nil)
		case ledger.ShownRevoked:
			r.add("certificates", index, l.Time, []string{"revoked", s.Value}, nil)
		}
	}
}

func (a *Account) region(name string) *RegionAccount {
	for _, r := range a.Regions {
		if r.Name == name {
			return r
		}
	}
	r := &RegionAccount{Name: name, rows: map[string]map[string]*Row{}, acts: map[uint64]*act{}}
	a.Regions = append(a.Regions, r)
	return r
}

func (r *RegionAccount) add(table string, index uint64, at time.Time, what []string, j *ledger.Judgement) {
	rows := r.rows[table]
	if rows == nil {
		rows = map[string]*Row{}
		r.rows[table] = rows
	}
	key := strings.Join(what, "\x00")
	row := rows[key]
	switch {
	case row == nil && len(rows) >= maxRows:
		r.More++
		return
	case row == nil:
		row = &Row{What: what, First: at, Leaf: index}
		if j != nil {
			one := *j
			row.judged = &one
		}
		rows[key] = row
	}
	row.Count++
	row.Last = at
}

// placeWords: country, operator, tag, rule, law pack and day.
func placeWords(j *ledger.Judgement) []string {
	country, operator := "", ""
	if f := j.Facts; f != nil {
		country = strings.TrimSpace(f.Country + " " + f.Subdivision)
		operator = fmt.Sprintf("home %s, parent %s; location %s, operator %s", f.Home, orNone(f.Parent), f.Location, f.Operator)
	}
	return []string{country, operator, j.Tag, j.Rule, j.LawPack + " of " + j.On}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// byGrant reports whether a job came in by a grant of another region: what
// others forward is told where room was held for it.
func byGrant(l *ledger.Leaf) bool {
	return l.Kind == kindSubmit && l.Get(ledger.ShownRole) == "grant"
}

func (r *RegionAccount) transfer(index uint64, l *ledger.Leaf) {
	if l.Kind == kindUsed {
		r.used(index, l)
		return
	}
	if l.Kind == kindGrant {
		// The job itself goes from its owner to the other region, which judges it.
		r.add("transfers", index, l.Time, grantWords(l), nil)
		return
	}
	if byGrant(l) {
		from, _, _ := strings.Cut(l.Get(ledger.ShownPeerLeaf), " ")
		r.add("transfers", index, l.Time, []string{"from, by a grant", from, "", "", "", ""}, nil)
		return
	}
	for i := range l.Judged {
		j := &l.Judged[i]
		direction, other, country := "to", "", ""
		if l.Kind == kindReserve {
			direction, other = "from", strings.TrimPrefix(l.Actor, "region:")
		} else if j.Facts != nil {
			other, country = j.Facts.Region, j.Facts.Country
		}
		r.add("transfers", index, l.Time, []string{direction, other, country, j.Tag, j.Rule, j.LawPack + " of " + j.On}, j)
	}
}

// grantWords are the row of all grants for one region.
func grantWords(l *ledger.Leaf) []string {
	return []string{"to, by a grant", l.Get(ledger.ShownRegion), "", "", "", ""}
}

// used tells in the row of the grants that one of them was used. It counts as a
// crossing of its own only where the leaf that issued it is not told.
func (r *RegionAccount) used(index uint64, l *ledger.Leaf) {
	row := r.rows["transfers"][strings.Join(grantWords(l), "\x00")]
	if row == nil || row.used == row.Count {
		r.add("transfers", index, l.Time, grantWords(l), nil)
		row = r.rows["transfers"][strings.Join(grantWords(l), "\x00")]
	}
	if row != nil {
		row.used++
		row.Last = l.Time
	}
}

func (r *RegionAccount) refusal(index uint64, l *ledger.Leaf) {
	rule, country, tag := "", "", ""
	for i := range l.Judged {
		if j := &l.Judged[i]; j.Verdict != string(residency.Permitted) {
			rule, tag = j.Rule, j.Tag
			if j.Facts != nil {
				country = j.Facts.Country
			}
		}
	}
	r.add("refusals", index, l.Time, []string{l.Kind, l.Code, rule, tag, country}, nil)
}

// Close orders the rows, and finds the basis of transfers in the law packs.
func (a *Account) Close(packs Packs) {
	for _, r := range a.Regions {
		r.closeActs()
		r.Places, r.Refusals = r.table("places"), r.table("refusals")
		r.Acts, r.Certificates, r.Transfers = r.table("acts"), r.table("certificates"), r.table("transfers")
		for i := range r.Transfers {
			row := &r.Transfers[i]
			row.What = append(slices.Clone(row.What), r.basis(row, packs))
		}
	}
}

func (r *RegionAccount) table(name string) []Row {
	out := []Row{}
	for _, row := range slices.SortedFunc(maps.Values(r.rows[name]), func(a, b *Row) int { return cmp.Compare(a.Leaf, b.Leaf) }) {
		out = append(out, *row)
	}
	return out
}

// basis is what the law pack of a decision says of data that goes to a country.
func (r *RegionAccount) basis(row *Row, packs Packs) string {
	j := row.judged
	if row.What[0] == "from" || row.What[0] == "from, by a grant" {
		return "the exporter's to name: see its pack"
	}
	if row.What[0] == "to, by a grant" {
		return fmt.Sprintf("judged by the region that took the job: see its pack; %d of %d known to have been used", row.used, row.Count)
	}
	if j == nil || j.Facts == nil || r.Country == "" {
		return "not shown: the pack does not say between which countries"
	}
	pack := packs[j.LawPack]
	on, err := residency.ParseDate(j.On)
	if pack == nil || err != nil {
		return "not shown: the law pack is not here"
	}
	return basisBetween(pack, on, j.On, r.Country, j.Facts.Country)
}

func basisBetween(pack *residency.Pack, on residency.Date, day, from, to string) string {
	eea := pack.Members("EEA", on)
	inside, reaches := slices.Contains(eea, from), slices.Contains(eea, to)
	switch {
	case from == to:
		return "none needed: it stays in " + from
	case inside && reaches:
		return "none needed: it stays in the EEA"
	}
	exporter := from
	if inside {
		exporter = "EU"
	}
	rows, err := csv.NewReader(strings.NewReader(string(pack.Tables()["adequacy.csv"]))).ReadAll()
	if err != nil || len(rows) == 0 {
		return "not shown: the law pack's table of transfers cannot be read"
	}
	at := map[string]int{}
	for i, name := range rows[0] {
		at[name] = i
	}
	var found []string
	for _, row := range rows[1:] {
		get := func(name string) string { return row[at[name]] }
		if get("exporter") == exporter && get("importer") == to && get("effective_from") <= day && (get("effective_to") == "" || day <= get("effective_to")) {
			text := get("mechanism") + " " + get("instrument") + " (" + get("status") + ")"
			if c := get("claim"); c != "" {
				text += ", for whoever has " + c
			}
			found = append(found, text)
		}
	}
	if len(found) == 0 {
		return fmt.Sprintf("no row from %s to %s: a basis outside of the law pack must be named, such as standard clauses", exporter, to)
	}
	return strings.Join(found, "; ")
}
