package evidence

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// A region that lost its quorum goes on under a new log, whose first leaf quotes
// the old one's last known checkpoint. Whoever reads either of the two must see
// the break: what only the lost voters had is in neither.

// quoted reads the checkpoint that a first leaf quotes. It was signed by the log
// that ended; what vouches for it here is the log that quotes it.
func quoted(l *ledger.Leaf) (c ledger.Checkpoint, ok bool, err error) {
	text := l.Get(ledger.ShownPrevious)
	if text == "" {
		return c, false, nil
	}
	signed, err := ledger.ParseSignedCheckpoint([]byte(text))
	if err != nil {
		return c, false, err
	}
	return signed.Unverified(), true, nil
}

// judgeRestart reads the first leaf of a log that was begun anew.
func (r *regionReader) judgeRestart(l *ledger.Leaf) {
	b := &Recovery{At: l.Time}
	c, ok, err := quoted(l)
	switch {
	case err != nil:
		r.v.f.fail(Integrity, "region %s: the first leaf quotes no checkpoint of the log before: %v", r.desc.Name, err)
	case ok:
		b.Origin, b.Quoted = c.Origin, c.Size
	}
	r.out.Begun = b
	if from := r.v.desc; from != nil && !from.Filter.From.IsZero() && from.Filter.From.Before(l.Time.Add(-2*maxSkew)) {
		r.v.f.lack(Completeness, "region %s: the pack is said to begin at %s; what was before %s is in the log %s, which the region was recovered from: export it by itself, with an earlier end", r.desc.Name, stamp(from.Filter.From), stamp(l.Time), nonEmpty(b.Origin, "before"))
	}
}

// fromTheBeginning reports whether everything that the region ever did is here
// up to the pack's end: not in a log that was begun in the place of another.
func (r *regionReader) fromTheBeginning() bool { return r.desc.First == 0 && r.out.Begun == nil }

// takeSuccessor reads the proof of the next log's first leaf, and compares what
// it quotes with the leaves that are here.
func (r *regionReader) takeSuccessor(data []byte) error {
	p, err := ledger.ParseProof(data)
	if err != nil || r.tree == nil || r.out.Ended != nil || p.Index != 0 {
		return fmt.Errorf("%w: the %s of region %s is none", ErrArchive, fileSuccessor, r.desc.Name)
	}
	l, err := ledger.Decode(p.Extra)
	next := p.Checkpoint.Unverified().Origin
	if err != nil || l.Kind != kindRestart || !l.Accepted() || l.Get(ledger.ShownOrigin) != next {
		return fmt.Errorf("%w: the %s of region %s is no first leaf of a log begun anew", ErrArchive, fileSuccessor, r.desc.Name)
	}
	c, ok, err := quoted(l)
	if err != nil || ok && c.Origin != r.desc.Origin {
		return fmt.Errorf("%w: the %s of region %s follows another log", ErrArchive, fileSuccessor, r.desc.Name)
	}
	r.out.Ended = &Recovery{Origin: next, Quoted: c.Size, At: l.Time}
	if r.v.policy == nil {
		return nil // origin says so
	}
	proved, err := ledger.Verify(r.v.policy, data, p.Extra)
	if err != nil {
		var refused *ledger.VerifyError
		if errors.As(err, &refused) && refused.Verdict == ledger.WrongOrigin {
			r.v.f.lack(Consistency, "region %s: the log that is said to go on in its place, %s, is none that the policy names: take a policy of after the recovery", r.desc.Name, next)
			return nil
		}
		r.v.f.fail(Consistency, "region %s: the first leaf of %s, which is said to go on in its place, is not proved: %v", r.desc.Name, next, err)
		return nil
	}
	if len(proved.Checkpoint().Unknown()) > 0 {
		r.v.f.fail(Integrity, "region %s: the checkpoint of %s has a signature line of a key that the policy does not name", r.desc.Name, next)
	}
	r.follows(c)
	return nil
}

// follows compares the end that the next log quotes with the signed states here.
func (r *regionReader) follows(end ledger.Checkpoint) {
	for i := range r.seals {
		switch s := &r.seals[i]; {
		case s.size == end.Size && s.root != end.Root:
			r.v.f.fail(Consistency, "region %s: the log that goes on in its place quotes another tree of %d leaves: one of the two was rewritten", r.desc.Name, end.Size)
		case s.size > end.Size:
			r.v.f.fail(Completeness, "region %s: the recovery ended the log at %d leaves, and %d had been signed: the difference was given up", r.desc.Name, end.Size, s.size)
			return
		}
	}
}

// later is a log that the policy names of the region after this one; empty if
// there is none. A log that another took the place of, and whose pack does not
// show where it ended, may have been written on by whoever kept its key.
func (r *regionReader) later() (origin string) {
	if r.v.policy == nil || r.partial != nil || r.out.Ended != nil {
		return ""
	}
	own, most := restarts(r.desc.Origin), 0
	for _, l := range r.v.policy.Logs() {
		region, mesh, ok := ownerOf(l.Key.Name())
		if n := restarts(l.Key.Name()); ok && region == r.desc.Name && mesh == r.v.desc.Mesh && n > max(own, most) {
			origin, most = l.Key.Name(), n
		}
	}
	return origin
}

// restarts is the number in the name of a log: 1 for "<region>.<mesh>/ledger",
// n for "<region>.<mesh>/ledger/<n>".
func restarts(origin string) int {
	_, path, _ := strings.Cut(origin, "/")
	n, err := strconv.Atoi(strings.TrimPrefix(path, "ledger/"))
	if err != nil {
		return 1
	}
	return n
}
