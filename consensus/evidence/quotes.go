package evidence

import (
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// quote is another region's leaf, as a leaf of this one quotes it.
type quote struct {
	at     uint64
	region string
	index  uint64
	hash   ledger.Hash
	// landing is what the leaf must be about, where the quote says it.
	landing landing
}

// landing is a job that came into a region by another region's grant.
type landing struct{ grant, job string }

// crossed reports whether a leaf takes something of another region, and so has a
// leaf there to quote.
func crossed(l *ledger.Leaf) bool {
	role := l.Get(ledger.ShownRole)
	return l.Accepted() && (l.Kind == kindReserve || l.Kind == kindUsed || l.Kind == kindSubmit && (role == "region" || role == "grant"))
}

// noteLanding remembers which job a leaf let in by which grant.
func (r *regionReader) noteLanding(index uint64, l *ledger.Leaf) {
	grant, ok := strings.CutPrefix(l.Actor, "grant:")
	if !ok || l.Kind != kindSubmit || !l.Accepted() {
		return
	}
	if r.landings == nil {
		r.landings = map[uint64]landing{}
	}
	r.landings[index] = landing{grant, l.Subject}
}

func parseQuote(s string) (q quote, ok bool) {
	words := strings.Split(s, " ")
	if len(words) != 3 {
		return q, false
	}
	q.region = words[0]
	n, err := strconv.ParseUint(words[1], 10, 63)
	raw, err2 := hex.DecodeString(words[2])
	if err != nil || err2 != nil || len(raw) != len(q.hash) {
		return q, false
	}
	q.index = n
	copy(q.hash[:], raw)
	return q, true
}
