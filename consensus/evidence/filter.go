package evidence

import (
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// JobsOf are the ids of the jobs that a leaf is about.
func JobsOf(l *ledger.Leaf) (ids []string) {
	add := func(id string) {
		if id == "" {
			return
		}
		for _, have := range ids {
			if have == id {
				return
			}
		}
		ids = append(ids, id)
	}
	for _, s := range l.Shown {
		if s.Name == ledger.ShownJob || s.Name == ledger.ShownNote || s.Name == ledger.ShownMove {
			id, _, _ := strings.Cut(s.Value, " ")
			add(id)
		}
	}
	for i := range l.Judged {
		add(l.Judged[i].Subject)
	}
	add(l.Subject)
	return ids
}
