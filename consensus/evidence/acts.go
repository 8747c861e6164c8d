package evidence

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// kindSubmit is the kind of leaf by which a job enters a region.
const kindSubmit = "job.submit"

// act is what somebody with a role changed. Its leaf says the role in clear, and
// who and where from as commitments; the leaf's opening opens both.
type act struct {
	kind, role, set string
	who, where      string
	at              time.Time
}

// Administers reports whether a leaf is an act of administration, which an
// export opens where it is asked who acted. Nodes and regions act all the time;
// what they do is told elsewhere.
func Administers(l *ledger.Leaf) bool {
	role := l.Get(ledger.ShownRole)
	administers := strings.Contains(role, "admin") || strings.Contains(role, "operator") || strings.Contains(role, "auditor")
	setting := strings.HasPrefix(l.Kind, "region.") || strings.HasPrefix(l.Kind, "law.") || strings.HasPrefix(l.Kind, "token.") ||
		strings.HasPrefix(l.Kind, "peer.") || strings.HasPrefix(l.Kind, "tenant.") || strings.HasPrefix(l.Kind, "witness.") || strings.HasPrefix(l.Kind, "audit.")
	// To run jobs is no act of administration, whoever does it; to stop one is.
	use := strings.HasPrefix(l.Kind, "task.") || l.Kind == kindSubmit || l.Kind == kindGrant
	return l.Accepted() && (setting || administers && !use)
}

// opens reports whether the filter asks for the opening of a leaf, as far as the
// leaf can tell: which leaves are of a tenant only their openings do.
func (f *Filter) opens(l *ledger.Leaf) bool {
	return f.Acts && Administers(l) || f.Job != "" && f.Tenant == "" && slices.Contains(JobsOf(l), f.Job)
}

func (r *RegionAccount) act(index uint64, l *ledger.Leaf) {
	if !Administers(l) {
		return
	}
	if len(r.acts) >= maxRows {
		r.More++
		return
	}
	var words []string
	for _, s := range l.Shown {
		switch s.Name {
		case ledger.ShownRegion, ledger.ShownPack, ledger.ShownGranted, ledger.ShownTag, ledger.ShownExport, ledger.ShownImport, ledger.ShownState, ledger.ShownFingerprint, ledger.ShownBundle, ledger.ShownWitness:
			words = append(words, s.Name+" "+s.Value)
		}
	}
	r.acts[index] = &act{l.Kind, orNone(l.Get(ledger.ShownRole)), strings.Join(words, ", "), l.Actor, l.Get(ledger.ShownWhere), l.Time}
}

// Opening takes what a leaf commits to; it is made for [Options.Opening]. It
// opens who acted, and where from.
func (a *Account) Opening(region string, index uint64, command []byte) {
	act := a.region(region).acts[index]
	salt, actor, ok := commandActor(command)
	if act == nil || !ok {
		return
	}
	who, where, _ := strings.Cut(actor, "@")
	if act.who == ledger.Opaque(salt, who) || act.who == ledger.Opaque(salt, strings.TrimPrefix(who, "node:")) {
		act.who = who
	}
	if act.where == ledger.Opaque(salt, where) {
		act.where = where
	}
}

// closeActs makes rows of the acts. Commitments differ from leaf to leaf and say
// nothing to people.
func (r *RegionAccount) closeActs() {
	words := func(s string) string {
		if strings.HasPrefix(s, "h:") {
			return "hidden: the region can open it"
		}
		return s
	}
	for _, index := range slices.SortedFunc(maps.Keys(r.acts), cmp.Compare[uint64]) {
		a := r.acts[index]
		r.add("acts", index, a.at, []string{a.kind, a.role, orNone(words(a.who)), words(a.where), a.set}, nil)
	}
	clear(r.acts)
}
