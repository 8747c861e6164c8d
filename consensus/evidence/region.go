package evidence

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// maxSkew is how far a leaf's time may lie from what witnesses saw: whoever
// acts on a command refuses what is more off.
const maxSkew = 60 * time.Second

// seal is a signed state of the log.
type seal struct {
	size uint64
	root ledger.Hash
	// at is when the first witness cosigned; zero if none did.
	at   time.Time
	note []byte
}

// chain is where the segments of a node stand.
type chain struct {
	seq  uint64
	root string
}

// regionReader judges one region's part.
type regionReader struct {
	v    *verifier
	desc Region
	rank int // of the last file's kind

	seals  []seal
	clocks map[string]seen // of witnesses, by their names in the policy
	passed int             // seals whose root was compared
	tailed bool            // the last seal is of a larger log, that was shown to begin so
	tree   *ledger.Tree
	hashes []ledger.Hash // of the leaves, where they are compared with others
	hidden []ledger.Hash // the leaves' commitments, where openings are here
	opened uint64        // one past the last leaf that was opened
	// unopened are leaves whose openings the filter asks for, until they are here
	// or said to be erased; gone are those that a leaf says were erased.
	unopened, gone map[uint64]bool
	unrecorded     int // said to be erased, and by no leaf that is here
	// partial are the leaves of a receipt by index; nil for a pack.
	partial  map[uint64]ledger.Hash
	chains   map[string]chain
	admitted admissions // of jobs
	// segments are those whose receipts may be here.
	segments  segments
	chosen    bool // which of their receipts are here, the region chose
	quoted    []quote
	landings  map[uint64]landing // by leaf
	unseen    int
	unquoted  int               // crossings that quote no leaf of the other region
	bundle    map[string]bool   // hashes of bundles that leaves name
	held      map[string]bool   // bundles in the pack
	chained   []chainHeld       // certificates in the pack
	refused   []chainHeld       // those that it was shown and did not believe
	here      map[string]bool   // numbers of certificates whose chains are in the pack
	unchained int               // certificates that leaves show, beyond what is remembered
	serials   map[string]string // SHA-256 of certificates that leaves show, by number; empty where a leaf says none
	rootless  int               // certificates of regions that the policy has no root of

	out RegionReport
}

func newRegionReader(v *verifier, d Region) *regionReader {
	return &regionReader{v: v, desc: d, chains: map[string]chain{}, bundle: map[string]bool{}, held: map[string]bool{}, serials: map[string]string{}, segments: segments{absent: map[string]*Absent{}},
		clocks: map[string]seen{}, admitted: newAdmissions(), unopened: map[uint64]bool{}, gone: map[uint64]bool{},
		out: RegionReport{Name: d.Name, Origin: d.Origin, First: d.First, End: d.End, Erased: len(d.Erased)}}
}

// rank orders the kinds of files.
func rank(kind string) int {
	return slices.Index([]string{dirBundles, dirCertificates, dirRefused, dirCheckpoints, fileEdge, dirEntries, fileTail, fileSuccessor, dirOpenings, dirSegments}, kind)
}

func (r *regionReader) file(n name, data []byte) error {
	at := rank(n.kind)
	if at < r.rank {
		return fmt.Errorf("%w: %s of region %s stands too late", ErrArchive, n.kind, r.desc.Name)
	}
	r.rank = at
	switch n.kind {
	case dirBundles:
		return r.takeBundle(n.file, data)
	case dirCertificates:
		return r.takeCertificate(n.file, data)
	case dirRefused:
		return r.takeRefused(n.file, data)
	case dirCheckpoints:
		return r.takeCheckpoint(n.file, data)
	case fileEdge:
		return r.takeEdge(data)
	case dirEntries:
		if r.tree == nil {
			return fmt.Errorf("%w: region %s has leaves and no %s", ErrArchive, r.desc.Name, fileEdge)
		}
		return parseRun(data, r.takeLeaf)
	case fileTail:
		return r.takeTail(data)
	case fileSuccessor:
		return r.takeSuccessor(data)
	case dirOpenings:
		return parseOpenings(data, r.takeOpening)
	case dirSegments:
		return ParseSegments(data, r.takeSegment)
	}
	return nil
}

// takeCheckpoint judges one signed state. All of them must be signed by the
// log; the last must be witnessed as the policy asks.
func (r *regionReader) takeCheckpoint(file string, data []byte) error {
	size, ok := parseSize(file)
	if !ok || len(r.seals) > 0 && size <= r.seals[len(r.seals)-1].size {
		return fmt.Errorf("%w: checkpoint %q of region %s is not in its place", ErrArchive, shorten(file), r.desc.Name)
	}
	s := seal{size: size, note: data}
	parsed, err := ledger.ParseSignedCheckpoint(data)
	if err != nil {
		return fmt.Errorf("%w: checkpoint %d of region %s: %v", ErrArchive, size, r.desc.Name, err)
	}
	c := parsed.Unverified()
	if c.Size != size || c.Origin != r.desc.Origin {
		r.v.f.fail(Integrity, "region %s: the checkpoint filed for size %d of %s is for size %d of %s", r.desc.Name, size, r.desc.Origin, c.Size, shorten(c.Origin))
	}
	s.root = c.Root
	if r.v.policy != nil {
		r.named(&s, parsed.Signatures())
		r.signed(&s)
	}
	r.seals = append(r.seals, s)
	return nil
}

// named refuses signature lines of keys that the policy does not name: they
// would be bytes that anybody may add or change.
func (r *regionReader) named(s *seal, lines []ledger.Signature) {
	known := func(line ledger.Signature) bool {
		same := func(k *ledger.Verifier) bool { return k.Name() == line.Name && k.ID() == line.ID }
		return slices.ContainsFunc(r.v.policy.Logs(), func(l ledger.PolicyLog) bool { return same(l.Key) }) ||
			slices.ContainsFunc(r.v.policy.Witnesses(), func(w ledger.PolicyWitness) bool { return same(w.Key) })
	}
	for _, line := range lines {
		if !known(line) {
			r.v.f.fail(Integrity, "region %s: the checkpoint of size %d has a signature line of %q, a key that the policy does not name", r.desc.Name, s.size, shorten(line.Name))
		}
	}
}

// signed asks the policy whether the log signed the state, and since when
// witnesses know it. Whether enough of them do is asked of the last one.
func (r *regionReader) signed(s *seal) {
	verified, err := ledger.VerifyCheckpoint(r.v.policy, s.note)
	var refused *ledger.VerifyError
	switch {
	case err == nil:
		for _, w := range verified.Witnesses() {
			if s.at.IsZero() || !w.At.IsZero() && w.At.Before(s.at) {
				s.at = w.At
			}
			r.clockOf(w, s.size)
		}
	case errors.As(err, &refused) && refused.Verdict == ledger.NotWitnessed:
		// Signed, and not (yet) witnessed.
	case errors.As(err, &refused) && refused.Verdict == ledger.WrongTime:
		r.v.f.fail(Time, "region %s: %s", r.desc.Name, refused.What)
	default:
		r.v.f.fail(Origin, "region %s: %v", r.desc.Name, err)
	}
}

// seen is when a witness cosigned the largest log so far.
type seen struct {
	size uint64
	at   time.Time
}

// clockOf follows the clock of a witness from checkpoint to checkpoint: a
// cosignature says that the log was the largest by then, so that of a larger one
// comes later, but for what clocks are put right by.
func (r *regionReader) clockOf(w ledger.Witnessed, size uint64) {
	if w.At.IsZero() {
		return
	}
	if last, ok := r.clocks[w.Name]; ok && w.At.Before(last.at.Add(-maxSkew)) {
		r.v.f.fail(Time, "region %s: the clock of witness %s ran back: it cosigned %d leaves at %s, and %d at %s", r.desc.Name, w.Name, last.size, stamp(last.at), size, stamp(w.At))
	}
	if w.At.After(r.clocks[w.Name].at) {
		r.clocks[w.Name] = seen{size, w.At}
	}
}

func (r *regionReader) takeEdge(data []byte) (err error) {
	if r.tree != nil {
		return fmt.Errorf("%w: region %s has two of %s", ErrArchive, r.desc.Name, fileEdge)
	}
	r.tree, err = ledger.UnmarshalTree(data)
	if err != nil || r.tree.Size() != r.desc.First {
		return fmt.Errorf("%w: the %s of region %s is not that of a log of %d leaves", ErrArchive, fileEdge, r.desc.Name, r.desc.First)
	}
	r.compare()
	return nil
}

// compare looks whether a signed state is of just this size.
func (r *regionReader) compare() {
	for r.passed < len(r.seals) && r.seals[r.passed].size <= r.tree.Size() {
		s := &r.seals[r.passed]
		if s.size < r.tree.Size() {
			r.v.f.fail(Consistency, "region %s: the checkpoint of size %d is of before the leaves that are here, so nothing shows that they follow it", r.desc.Name, s.size)
		} else if s.root != r.tree.Root() {
			r.v.f.fail(Consistency, "region %s: the checkpoint of size %d was signed over another log than these leaves: a leaf was changed, or the log was forked", r.desc.Name, s.size)
		}
		r.passed++
	}
}

func (r *regionReader) takeLeaf(entry []byte) error {
	index := r.tree.Size()
	if index >= r.desc.End {
		return fmt.Errorf("%w: region %s has more leaves than it says", ErrArchive, r.desc.Name)
	}
	r.tree.Append(entry)
	if r.v.o.Several || len(r.v.desc.Regions) > 1 {
		r.hashes = append(r.hashes, ledger.HashLeaf(entry))
	}
	r.compare()
	r.out.Leaves++
	l, err := ledger.Decode(entry)
	if err != nil {
		r.v.f.fail(Integrity, "region %s: leaf %d: %v", r.desc.Name, index, err)
		l = &ledger.Leaf{}
	} else {
		r.judge(index, l)
		if r.v.desc.Filter.opens(l) {
			r.unopened[index] = true
		}
	}
	if r.v.opens[r.desc.Name] {
		r.hidden = append(r.hidden, l.Commitment)
	}
	if err != nil {
		return nil
	}
	if r.v.o.Leaf != nil {
		r.v.o.Leaf(r.desc.Name, index, l)
	}
	return nil
}

// judge looks at what one leaf says.
func (r *regionReader) judge(index uint64, l *ledger.Leaf) {
	if r.out.FirstAt.IsZero() {
		r.out.FirstAt = l.Time
	}
	r.out.LastAt = l.Time
	if !l.Accepted() {
		r.out.Refusals++
	}
	if index == 0 && l.Kind == kindRestart && l.Accepted() {
		r.judgeRestart(l)
	}
	r.judgeTime(index, l)
	r.judgeLaw(index, l)
	for _, s := range l.Shown {
		r.judgeShown(index, l, s)
	}
	r.noteLanding(index, l)
	if crossed(l) && l.Get(ledger.ShownPeerLeaf) == "" {
		r.unquoted++
	}
	if l.Kind == kindSegment && l.Accepted() {
		r.judgeSegment(index, l)
		r.segments.note(index, l, r.v.receipted[r.desc.Name])
	}
}

// The kinds of commands whose leaves mean more than what they show.
const (
	kindAssign  = "task.assign"
	kindReserve = "reservation.hold"
	kindForward = "job.forward"
	kindGrant   = "grant.issue"
	kindUsed    = "grant.used"
	kindSegment = "receipt.segment"
	kindRestart = "ledger.restart"
)

// judgeTime compares a leaf with the cosignatures around it.
func (r *regionReader) judgeTime(index uint64, l *ledger.Leaf) {
	after, _ := slices.BinarySearchFunc(r.seals, index+1, func(s seal, n uint64) int { return cmp.Compare(s.size, n) })
	var seen, unseen time.Time
	for i := after; i < len(r.seals) && seen.IsZero(); i++ {
		seen = r.seals[i].at
	}
	for i := after - 1; i >= 0 && unseen.IsZero(); i-- {
		unseen = r.seals[i].at
	}
	if !seen.IsZero() && l.Time.After(seen.Add(maxSkew)) {
		r.v.f.fail(Time, "region %s: leaf %d says %s, and witnesses had seen it by %s", r.desc.Name, index, stamp(l.Time), stamp(seen))
	}
	if !unseen.IsZero() && l.Time.Before(unseen.Add(-maxSkew)) {
		r.v.f.fail(Time, "region %s: leaf %d says %s, and witnesses saw the log without it at %s", r.desc.Name, index, stamp(l.Time), stamp(unseen))
	}
	if !seen.IsZero() && !unseen.IsZero() {
		r.out.Apart = max(r.out.Apart, int64(seen.Sub(unseen)/time.Second))
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// judgeLaw repeats every decision. A placement, a reservation and a crossing
// need one that permits; there is no other way to run.
func (r *regionReader) judgeLaw(index uint64, l *ledger.Leaf) {
	permitted := 0
	for i := range l.Judged {
		j := &l.Judged[i]
		r.out.Judgements++
		if err := r.v.rejudge(j); errors.Is(err, ErrNoPack) {
			r.v.f.lack(Law, "region %s: leaf %d pins a law pack that is not here: %s", r.desc.Name, index, j.LawPack)
		} else if err != nil {
			r.v.f.fail(Law, "region %s: leaf %d: %v", r.desc.Name, index, err)
		}
		if j.Verdict == "permitted" {
			permitted++
		}
	}
	if !l.Accepted() {
		return
	}
	r.judgePolicy(index, l)
	all := permitted == len(l.Judged)
	switch l.Kind {
	case kindAssign:
		r.out.Placements++
		if !all || permitted == 0 {
			r.v.f.fail(Law, "region %s: leaf %d places a job, and %d of its %d decisions permit it", r.desc.Name, index, permitted, len(l.Judged))
		}
		r.judgedHere(index, l, "places a job")
	case kindReserve:
		if !all || permitted == 0 {
			r.v.f.fail(Law, "region %s: leaf %d holds room, and not every decision permits it", r.desc.Name, index)
		}
		r.judgedHere(index, l, "holds room")
	case kindForward:
		if sent := strings.HasSuffix(l.Get(ledger.ShownJob), " "+statusSent); !all || sent && permitted == 0 {
			r.v.f.fail(Law, "region %s: leaf %d sends a job to another region, and not every decision permits it", r.desc.Name, index)
		}
	case kindGrant:
		if !all {
			r.v.f.fail(Law, "region %s: leaf %d sends a job to another region, and not every decision permits it", r.desc.Name, index)
		}
	}
}

// statusSent is the status of a job that another region has taken.
const statusSent = "starting"

// judgedHere asks whether it was this region that was judged, and as a place to
// run in: that a job may pass through is no permission for that.
func (r *regionReader) judgedHere(index uint64, l *ledger.Leaf, does string) {
	for i := range l.Judged {
		j := &l.Judged[i]
		if j.Facts == nil || j.Facts.Region != r.desc.Name {
			r.v.f.fail(Law, "region %s: leaf %d %s here, and judged another region", r.desc.Name, index, does)
		} else if j.Rule == rulePath && j.Place == "" {
			r.v.f.fail(Law, "region %s: leaf %d %s where it was judged only that it may pass through", r.desc.Name, index, does)
		}
	}
}

func (r *regionReader) judgeShown(index uint64, l *ledger.Leaf, s ledger.Shown) {
	switch s.Name {
	case ledger.ShownPeerLeaf:
		if q, ok := parseQuote(s.Value); ok {
			q.at = index
			if l.Kind == kindUsed {
				q.landing = landing{l.Get(ledger.ShownGrant), l.Subject}
			}
			r.quoted = append(r.quoted, q)
		} else {
			r.v.f.fail(Integrity, "region %s: leaf %d quotes %q, which names no leaf", r.desc.Name, index, shorten(s.Value))
		}
	case ledger.ShownBundle:
		r.bundle[s.Value] = true
	case ledger.ShownCertificate:
		r.showSerial(s.Value)
	case ledger.ShownErased:
		for word := range strings.FieldsSeq(s.Value) {
			if leaf, err := strconv.ParseUint(word, 10, 63); err == nil {
				r.gone[leaf] = true
			}
		}
	case ledger.ShownMissing:
		n, _ := strconv.ParseUint(s.Value, 10, 64)
		r.out.Missing += n
		if r.v.kind == KindInference {
			return // of others: this one is here
		}
		r.v.f.fail(Completeness, "region %s: leaf %d: %d promised receipts are MISSING", r.desc.Name, index, n)
	}
}

// takeTail reads the proof that the log of the last checkpoint begins with the
// leaves up to here (https://www.rfc-editor.org/rfc/rfc6962#section-2.1.2).
func (r *regionReader) takeTail(data []byte) error {
	const size = len(ledger.Hash{})
	if r.tree == nil || r.tailed || len(data)%size != 0 || len(data) > ledger.MaxProofHashes*size || r.tree.Size() == 0 {
		return fmt.Errorf("%w: the %s of region %s is none", ErrArchive, fileTail, r.desc.Name)
	}
	if len(r.seals) == 0 || r.seals[len(r.seals)-1].size <= r.tree.Size() {
		return fmt.Errorf("%w: region %s has a %s and no checkpoint beyond its leaves", ErrArchive, r.desc.Name, fileTail)
	}
	last, root := &r.seals[len(r.seals)-1], r.tree.Root()
	var hashes [][]byte
	for ; len(data) > 0; data = data[size:] {
		hashes = append(hashes, data[:size])
	}
	r.tailed = true
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, r.tree.Size(), last.size, hashes, root[:], last.root[:]); err != nil {
		r.v.f.fail(Consistency, "region %s: the log of the checkpoint of size %d does not begin with these %d leaves: a leaf was changed, or the log was forked", r.desc.Name, last.size, r.tree.Size())
	}
	return nil
}

// takeOpening checks bytes against the commitment of their leaf. Openings come
// in the leaves' order.
func (r *regionReader) takeOpening(leaf uint64, command []byte) error {
	if leaf < r.desc.First || leaf-r.desc.First >= uint64(len(r.hidden)) || leaf < r.opened {
		return fmt.Errorf("%w: an opening of region %s is for leaf %d, which is not here, or comes twice", ErrArchive, r.desc.Name, leaf)
	}
	r.opened = leaf + 1
	delete(r.unopened, leaf)
	salt, _, parsed := commandSalt(command)
	if !parsed || ledger.Commit(salt, command) != r.hidden[leaf-r.desc.First] {
		r.v.f.fail(Integrity, "region %s: the opening of leaf %d is not what the leaf commits to", r.desc.Name, leaf)
		return nil
	}
	r.out.Openings++
	if r.v.o.Opening != nil {
		r.v.o.Opening(r.desc.Name, leaf, command)
	}
	return nil
}
