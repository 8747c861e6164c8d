package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Options are how an auditor asks.
type Options struct {
	// MaxAge fails freshness if the last checkpoint is older at Now; zero judges
	// no age.
	MaxAge time.Duration
	Now    time.Time
	// Leaf, if set, is given every leaf that was read and every opening, in
	// order; a report is made of it. It keeps nothing of what it is given.
	Leaf    func(region string, index uint64, l *ledger.Leaf)
	Opening func(region string, index uint64, command []byte)
}

// Verify reads a pack and judges it. The policy is the only trust anchor; with
// none, nothing says whose evidence this is, and the verdict origin says
// "self-declared". A report is always given unless reading itself failed: bytes
// that are no pack fail integrity.
//
// It reads once, from front to back, in memory that grows with the number of
// leaves by their hashes alone (32 bytes each, and only where several regions
// quote each other).
func Verify(policy *ledger.Policy, r io.Reader, o Options) (*Report, error) {
	v := &verifier{policy: policy, o: o, f: newFindings(), packs: Packs{}, tables: map[string]map[string][]byte{}, judged: map[string]error{}}
	err := v.read(r)
	if err != nil && !errors.Is(err, ErrArchive) {
		return nil, err
	}
	if err != nil {
		v.f.fail(Integrity, "%v", err)
	}
	return v.report(err == nil), nil
}

// verifier is one pass over a pack.
type verifier struct {
	policy *ledger.Policy
	o      Options
	f      *findings
	id     [sha256.Size]byte
	desc   *Description
	tables map[string]map[string][]byte // of law packs, until the first region
	packs  Packs
	judged map[string]error // judgements repeated before
	done   []*regionReader
	at     *regionReader
}

func (v *verifier) read(r io.Reader) error {
	a, err := OpenArchive(r)
	if err != nil {
		return err
	}
	v.id = a.ID()
	for i := 0; ; i++ {
		n, data, err := a.Next()
		if errors.Is(err, io.EOF) {
			return v.end()
		}
		if err != nil {
			return err
		}
		if err := v.file(i, n, data); err != nil {
			return err
		}
	}
}

// file takes the next file; what comes in another order is no pack.
func (v *verifier) file(i int, full string, data []byte) (err error) {
	switch {
	case i == 0 && full == ReadmeName:
		return nil
	case i == 1 && full == DescriptionName:
		v.desc, err = ParseDescription(data)
		return err
	case i < 2 || v.desc == nil:
		return fmt.Errorf("%w: %s stands too early", ErrArchive, full)
	}
	n, err := parseName(full)
	if err != nil {
		return err
	}
	if n.law != "" {
		return v.law(n, data)
	}
	if err := v.enter(n.region); err != nil {
		return err
	}
	return v.at.file(n, data)
}

func (v *verifier) law(n name, data []byte) error {
	if v.at != nil {
		return fmt.Errorf("%w: a law pack stands behind a region", ErrArchive)
	}
	t := v.tables[n.law]
	if t == nil {
		t = map[string][]byte{}
		v.tables[n.law] = t
	}
	t[n.table] = data
	return nil
}

// loadPacks makes packs of the tables, by the hash that they really have.
func (v *verifier) loadPacks() {
	for hash, tables := range v.tables {
		p, err := residency.LoadPack(tables)
		if err != nil {
			v.f.fail(Integrity, "law pack %s: %v", hash, err)
			continue
		}
		if got := dirOf(p.Hash()); got != hash {
			v.f.fail(Integrity, "the law pack that is called %s has the hash %s", hash, got)
		}
		v.packs[p.Hash()] = p
	}
	v.tables = nil
}

// enter begins the next region of the description.
func (v *verifier) enter(region string) error {
	if v.at != nil && v.at.desc.Name == region {
		return nil
	}
	if v.at == nil {
		v.loadPacks()
	}
	if err := v.leave(); err != nil {
		return err
	}
	if len(v.done) >= len(v.desc.Regions) || v.desc.Regions[len(v.done)].Name != region {
		return fmt.Errorf("%w: region %q is not the next of %s", ErrArchive, shorten(region), DescriptionName)
	}
	v.at = newRegionReader(v, v.desc.Regions[len(v.done)])
	return nil
}

func (v *verifier) leave() error {
	if v.at == nil {
		return nil
	}
	v.done = append(v.done, v.at)
	return v.at.end()
}

func (v *verifier) end() error {
	if v.desc == nil {
		return fmt.Errorf("%w: it has no %s", ErrArchive, DescriptionName)
	}
	if err := v.leave(); err != nil {
		return err
	}
	if len(v.done) != len(v.desc.Regions) {
		return fmt.Errorf("%w: %s names %d regions, %d are here", ErrArchive, DescriptionName, len(v.desc.Regions), len(v.done))
	}
	v.quotes()
	return nil
}

// quotes compares what regions say of each other's leaves.
func (v *verifier) quotes() {
	by := map[string]*regionReader{}
	for _, r := range v.done {
		by[r.desc.Name] = r
	}
	for _, r := range v.done {
		for _, q := range r.quoted {
			other := by[q.region]
			switch {
			case other == nil || q.index < other.desc.First || q.index >= other.desc.End:
				r.unseen++
			case other.hashes[q.index-other.desc.First] != q.hash:
				v.f.fail(Consistency, "leaf %d of region %s quotes leaf %d of region %s, which is another there", q.at, r.desc.Name, q.index, q.region)
			}
		}
	}
}

// rejudge repeats a judgement, once for all that are alike.
func (v *verifier) rejudge(j *ledger.Judgement) error {
	key := fmt.Sprintf("%s\x00%s\x00%s\x00%s\x00%s\x00%v", j.Verdict, j.Rule, j.Tag, j.LawPack, j.On, j.Facts)
	err, known := v.judged[key]
	if !known {
		err = Rejudge(j, v.packs)
		if len(v.judged) > 1<<16 {
			clear(v.judged)
		}
		v.judged[key] = err
	}
	return err
}

// dirOf is the hash of a law pack as the name of a folder.
func dirOf(hash string) string { return hash }

func (v *verifier) report(whole bool) *Report {
	rep := &Report{Pack: hex.EncodeToString(v.id[:]), NotShownHere: cannotShow()}
	if !whole {
		for _, name := range Verdicts() {
			if name != Integrity {
				v.f.lack(name, "the pack could not be read to its end")
			}
		}
	}
	var leaves uint64
	for _, r := range v.done {
		rep.Regions = append(rep.Regions, r.report())
		leaves += r.desc.End - r.desc.First
		if r.unseen > 0 {
			rep.NotShownHere = append(rep.NotShownHere, fmt.Sprintf("the other half of %d crossings of region %s: the other region's leaves are not in this pack", r.unseen, r.desc.Name))
		}
	}
	if v.policy == nil {
		v.f.fail(Origin, "self-declared: without a policy nothing says whose evidence this is; give one with --policy")
	}
	if whole && len(v.done) == 0 {
		v.f.fail(Completeness, "the pack holds no region")
	}
	says := map[string]string{
		Origin:       fmt.Sprintf("%d logs, each named by the policy and signed by its key", len(v.done)),
		Integrity:    fmt.Sprintf("%d leaves, each as it was committed", leaves),
		Consistency:  "every signed state is of a log that only grew",
		Completeness: "no leaf of the time is left out",
		Freshness:    "the last checkpoint covers the pack's own end",
		Time:         "the leaves' times fit the witnesses'",
		Law:          "every decision repeated gives what was recorded",
	}
	for _, name := range Verdicts() {
		rep.Verdicts = append(rep.Verdicts, v.f.verdict(name, says[name]))
	}
	return rep
}
