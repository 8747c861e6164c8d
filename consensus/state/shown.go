package state

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// maxShown bounds what one leaf says in clear, in bytes. With the judgements,
// which have a bound of their own, a leaf stays within a log entry.
const maxShown = 8 << 10

// show says something of the command in clear, see [ledger.Shown].
func (c *call) show(name, value string) {
	if value == "" {
		return
	}
	size := 4 + len(name) + len(value)
	if c.showing+size > maxShown {
		c.unshown++
		return
	}
	c.showing += size
	c.shown = append(c.shown, ledger.Shown{Name: name, Value: value})
}

// showJob tells that a job has another status than before.
func (c *call) showJob(r *jobRecord) {
	value := opaqueJob(r.ID) + " " + string(r.Status)
	if r.ExitCode != nil && r.Status.Terminal() {
		value += " " + strconv.Itoa(*r.ExitCode)
	}
	c.show(ledger.ShownJob, value)
}

// showRegion tells which region, known by which certificates.
func (c *call) showRegion(r *placement.Region) {
	c.show(ledger.ShownRegion, string(r.ID))
	if op := r.Facts.Operator; op.Home != "" || op.Parent != "" {
		c.show(ledger.ShownOperator, op.Home+" "+op.Parent)
	}
	if len(r.Bundle) > 0 {
		sum := sha256.Sum256(r.Bundle)
		c.show(ledger.ShownBundle, hex.EncodeToString(sum[:]))
	}
	c.show(ledger.ShownFingerprint, r.Fingerprint)
	c.show(ledger.ShownLogKey, r.LogKey)
	c.show(ledger.ShownWitnessKey, r.WitnessKey)
	c.show(ledger.ShownPack, r.LawPack)
}

// allShown gives the fields for the leaf. A refused command changed nothing:
// its leaf says who asked and no more than what was judged.
func (c *call) allShown(role, where string, refused *Refused) []ledger.Shown {
	var out []ledger.Shown
	if role != "" {
		out = append(out, ledger.Shown{Name: ledger.ShownRole, Value: role})
	}
	if where != "" {
		out = append(out, ledger.Shown{Name: ledger.ShownWhere, Value: where})
	}
	if refused != nil {
		return out
	}
	out = append(out, c.shown...)
	if c.unshown > 0 {
		out = append(out, ledger.Shown{Name: ledger.ShownMore, Value: strconv.Itoa(c.unshown)})
	}
	return out
}

// From adds to an actor where it asked from: the node that took the request,
// and the address it came from. No id has an @.
func From(actor string, node placement.NodeID, address string) string {
	return actor + "@" + string(node) + " " + address
}

// speaker is who asked, as the leaf may say it: the role in clear, and who and
// where from as salted commitments that the region can open. In clear are regions
// and grants, which another region's ledger has as well.
func (s *State) speaker(c *call) (actor, role, where string) {
	who, where, _ := strings.Cut(c.head.Actor, "@")
	if where != "" {
		where = ledger.Opaque(c.head.Salt, where)
	}
	kind, name, _ := strings.Cut(who, ":")
	switch {
	case who == "":
		return "", "", where
	case kind == "node" && name != "":
		return ledger.Opaque(c.head.Salt, name), "node", where
	case kind == "region" && placement.ValidName(name):
		return who, "region", where
	case kind == "grant" && validID(name):
		return who, "grant", where
	}
	if t, ok := s.tokens.get(who); ok {
		role = rolesText(t.Roles)
	}
	return ledger.Opaque(c.head.Salt, who), role, where
}

func rolesText(roles []Role) string {
	words := make([]string, len(roles))
	for i, r := range roles {
		words[i] = string(r)
	}
	return strings.Join(words, "+")
}

func certificateText(serial string, notAfter time.Time, digest string) string {
	text := serial + " " + notAfter.UTC().Format(time.RFC3339)
	if digest != "" {
		text += " " + digest
	}
	return text
}

// validDigest reports whether it is a SHA-256 in hex; none is well too.
func validDigest(s string) bool {
	raw, err := hex.DecodeString(s)
	return s == "" || err == nil && len(raw) == 32 && strings.ToLower(s) == s
}
