package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// verifier is one pass over a pack.
type verifier struct {
	name   string // of the file
	policy *ledger.Policy
	o      Options
	f      *findings
	id     [sha256.Size]byte
	desc   *Description
	opens  map[string]bool // regions that have openings here
	// receipted are the regions whose inference receipts are here.
	receipted map[string]bool
	tables    map[string]map[string][]byte // of law packs, until the first region
	packs     Packs
	judged    map[string]error // judgements repeated before, by [appendJudged]
	key       []byte           // of one of them, in the making
	done      []*regionReader
	at        *regionReader
	whole     bool              // it was read to its end
	kind      string            // of evidence: KindPack, KindReceipt or KindInference
	answer    *InferenceReceipt // of one request, if it is that
	aside     map[string]string // verdicts that do not count for this kind, and why
}

// pack judges one pack.
func (v *verifier) pack(r io.Reader) error {
	a, err := OpenArchive(r)
	if err != nil {
		return err
	}
	v.id = a.ID()
	for _, e := range a.Entries() {
		if n, err := parseName(e.Name); err == nil && n.kind == dirOpenings {
			v.opens[n.region] = true
		} else if err == nil && n.kind == dirSegments {
			v.receipted[n.region] = true
		}
	}
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
	return nil
}

// rejudge repeats a judgement, once for all that are alike.
func (v *verifier) rejudge(j *ledger.Judgement) error {
	v.key = appendJudged(v.key[:0], j)
	err, known := v.judged[string(v.key)]
	if !known {
		err = Rejudge(j, v.packs)
		if len(v.judged) > 1<<16 {
			clear(v.judged)
		}
		v.judged[string(v.key)] = err
	}
	return err
}

// appendJudged writes all that [Rejudge] looks at, so that no two judgements
// are taken for alike that are not: each text stands behind its length. Of the
// place it asks only whether there is one.
func appendJudged(key []byte, j *ledger.Judgement) []byte {
	texts := func(all ...string) {
		for _, s := range all {
			key = append(binary.AppendUvarint(key, uint64(len(s))), s...)
		}
	}
	texts(j.Verdict, j.Rule, j.Tag, j.LawPack, j.On)
	if j.Place != "" {
		key = append(key, 1)
	} else {
		key = append(key, 0)
	}
	if f := j.Facts; f != nil {
		texts(f.Region, f.Site, f.Country, f.Subdivision, f.Home, f.Parent, f.Location, f.Operator, f.AsOf)
		for _, c := range f.Claims {
			texts(c.Name, c.Value)
		}
	}
	return key
}

// dirOf is the hash of a law pack as the name of a folder.
func dirOf(hash string) string { return hash }

func (v *verifier) report() *Report {
	rep := &Report{File: v.name, Kind: v.kind, Receipt: v.answer, NotShownHere: cannotShow()}
	if v.id != [sha256.Size]byte{} { // else it ended before there was anything to hash
		rep.SHA256 = hex.EncodeToString(v.id[:])
	}
	if v.desc != nil {
		rep.Mesh, rep.ExportedAt, rep.ExportedBy, rep.Filter = v.desc.Mesh, v.desc.ExportedAt, v.desc.ExportedBy, v.desc.Filter
	}
	if !v.whole {
		for _, name := range Verdicts() {
			if name != Integrity {
				v.f.lack(name, "it could not be read to its end")
			}
		}
	}
	var leaves uint64
	for _, r := range v.done {
		rep.Regions = append(rep.Regions, r.report())
		leaves += r.count()
		rep.NotShownHere = append(rep.NotShownHere, r.lacks()...)
	}
	rep.NotShownHere = append(rep.NotShownHere, v.foreignLaw()...)
	if v.policy == nil {
		v.f.fail(Origin, "self-declared: without a policy nothing says whose evidence this is; give one with --policy")
	}
	if v.whole && len(v.done) == 0 && v.kind == KindPack {
		v.f.fail(Completeness, "the pack holds no region")
	}
	for _, name := range Verdicts() {
		verdict := v.f.verdict(name, says(v.kind, name, len(v.done), leaves))
		if why := v.aside[name]; why != "" && verdict.State != Fails {
			verdict = Verdict{Name: name, State: NotShown, Says: why, Aside: true}
		}
		rep.Verdicts = append(rep.Verdicts, verdict)
	}
	return rep
}

// foreignLaw names the law packs that came with the evidence and are not this
// program's. Decisions are repeated under them, and a region writes its own: that
// what they say is the law is for a person to compare.
func (v *verifier) foreignLaw() (all []string) {
	own := residency.Embedded().Hash()
	for _, hash := range sorted(v.packs) {
		if hash != own && v.kind == KindPack {
			all = append(all, fmt.Sprintf("that the law pack %s says what the law says: it came with the evidence, and this program's own is %s; compare its tables, in law/, with those that you trust", hash, own))
		}
	}
	return all
}

// says is what a verdict that holds says.
func says(kind, name string, logs int, leaves uint64) string {
	switch name {
	case Origin:
		if kind == KindInference {
			return "a log that the policy names, signed by its key, and a node that its region's root certified"
		}
		return fmt.Sprintf("%s, named by the policy and signed by its key", plural(uint64(logs), "log"))
	case Integrity:
		if kind == KindInference {
			return "the receipt is what its segment has, and the segment what was committed"
		}
		return fmt.Sprintf("%s, each as it was committed", plural(leaves, "leaf"))
	case Consistency:
		return "every signed state is of a log that only grew"
	case Completeness:
		if kind == KindInference {
			return "what was promised stands in the ledger"
		}
		return "no leaf of the time is left out"
	case Freshness:
		if kind != KindPack {
			return "the checkpoint covers every leaf of the receipt"
		}
		return "the last checkpoint covers the pack's own end"
	case Time:
		return "the leaves' times fit the witnesses'"
	}
	return "every decision repeated gives what was recorded"
}

func plural(n uint64, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case noun == "leaf":
		return fmt.Sprintf("%d leaves", n)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
