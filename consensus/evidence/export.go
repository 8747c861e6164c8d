package evidence

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// Source is where an exporter takes a region's evidence from: the log's files
// and what the region holds beside them.
type Source interface {
	ledger.TileReader
	// Entries gives count leaves from first on, all of one bundle of 256.
	Entries(first uint64, count int) ([][]byte, error)
	// Opening gives the bytes behind a leaf's commitment; nil where they are not
	// here, with erased where they were erased.
	Opening(leaf uint64) (command []byte, erased bool, err error)
	// LawPack gives the tables of a pack by its hash, nil if it is not here.
	LawPack(hash string) map[string][]byte
	// Bundle gives the certificates that a leaf names by the hex of their
	// SHA-256, nil if they are not here.
	Bundle(digest string, leaf uint64) []byte
}

// Signed is a signed state of the log.
type Signed struct {
	Size      uint64
	Note      []byte    // the signed note with its cosignatures
	At        time.Time // when it was signed, as the region knows it
	Witnesses int       // how many cosigned
}

// Exporter makes evidence packs of one region's part.
type Exporter struct {
	Mesh, Region, Origin string
	Now                  time.Time // stands in the pack
	Filter               Filter
	Source               Source
	Checkpoints          []Signed // rising in size
	// Successor proves, as a tlog-proof, the first leaf of the log that was begun
	// in the place of this one; nil for the region's present log.
	Successor []byte
	// Enough is how many witnesses the last checkpoint should have; with fewer,
	// that with the most is taken.
	Enough int
	// Certificates are chains of nodes as PEM, by the decimal serial of the first.
	Certificates map[string][]byte
	// Refused are forged chains that the region was shown and did not believe, as
	// PEM by the hex of their SHA-256: evidence against whoever signed them.
	Refused map[string][]byte
	// Selects says of which leaves the openings are wanted; nil of none. A leaf is
	// asked about once and in order, and open gives its opening.
	Selects func(l *ledger.Leaf, open func() []byte) bool
	// Segments gives the inference receipts of a segment, those that the filter
	// asks for with their leaf; none at all if it asks for none of them. An error
	// that is an [*AbsentError] goes into the pack, any other ends the export. Nil
	// where no receipts are wanted: the verifier then says that none are shown.
	Segments func(ctx context.Context, chain string, seq uint64) ([]receipt.Kept, error)
}

// AbsentError says why the receipts of a segment cannot be had.
type AbsentError struct{ Why string } // AbsentAway and so on

func (e *AbsentError) Error() string { return "the receipts are not here: " + absences()[e.Why] }

// Unready says that nothing can be exported yet.
type Unready struct{ What, Help string }

func (e *Unready) Error() string { return e.What }

// Hint says what to do.
func (e *Unready) Hint() string { return e.Help }

// Write writes a pack. The log is read twice, as the manifest comes first;
// memory holds one file at a time. Nothing is written before everything was
// found; after that, an error leaves a pack that is cut short, which every
// verifier sees.
func (e *Exporter) Write(ctx context.Context, w io.Writer) error {
	x, err := e.plan(ctx)
	if err != nil {
		return err
	}
	entries := make([]Entry, len(x.files))
	byName := make(map[string]func() ([]byte, error), len(x.files))
	for i, f := range x.files {
		entries[i] = Entry{f.name, f.sum}
		byName[f.name] = f.open
	}
	return WriteArchive(w, entries, func(en Entry) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return byName[en.Name]()
	})
}

// export is a pack in the making.
type export struct {
	Exporter
	first, end uint64
	cover      Signed // the checkpoint that covers the end
	files      []planned

	law     map[string]bool
	bundles map[string]uint64 // digest -> a leaf that names it
	open    []uint64          // leaves whose openings go in
	erased  []uint64
	inside  []segmentAt // segments with receipts
	absent  []Absent
}

// planned is a file whose content can be had again.
type planned struct {
	name string
	sum  [sha256.Size]byte
	open func() ([]byte, error)
}

func (x *export) add(name string, data []byte) {
	x.files = append(x.files, planned{name, sha256.Sum256(data), func() ([]byte, error) { return data, nil }})
}

// plan finds what goes in, and the hash of every file.
func (e *Exporter) plan(ctx context.Context) (*export, error) {
	x := &export{Exporter: *e, law: map[string]bool{}, bundles: map[string]uint64{}}
	if err := x.bounds(); err != nil {
		return nil, err
	}
	runs, err := x.leaves(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := x.openings()
	if err != nil {
		return nil, err
	}
	answered, err := x.segments(ctx)
	if err != nil {
		return nil, err
	}
	d := Description{Version: 1, Mesh: e.Mesh, ExportedAt: e.Now.UTC(), ExportedBy: e.Region, Filter: x.Filter,
		Regions: []Region{{Name: e.Region, Origin: e.Origin, First: x.first, End: x.end, Erased: x.erased, Absent: x.absent}}}
	desc, err := d.Encode()
	if err != nil {
		return nil, err
	}
	x.add(ReadmeName, []byte(readme))
	x.add(DescriptionName, desc)
	if err := x.held(); err != nil {
		return nil, err
	}
	if err := x.proofs(ctx, runs); err != nil {
		return nil, err
	}
	if e.Successor != nil {
		x.add(successorName(e.Region), e.Successor)
	}
	x.files = append(append(x.files, opened...), answered...)
	return x, nil
}

// bounds finds the leaves of the time that was asked for. Leaves are in the
// order of commitment, and each one's time is at most maxSkew off, so twice of
// it on both sides leaves none out.
func (x *export) bounds() error {
	if len(x.Checkpoints) == 0 {
		return &Unready{"no checkpoint of this region's ledger has been signed yet", "ask again in a moment: the leader signs once there is something new"}
	}
	top := x.best(0)
	x.end, x.cover = top.Size, top
	var failed error
	search := func(after time.Time) uint64 {
		return uint64(sort.Search(int(top.Size), func(i int) bool {
			l, err := x.leaf(uint64(i))
			if err != nil {
				failed = err
				return true
			}
			return l.Time.After(after)
		}))
	}
	if to := x.Filter.To; !to.IsZero() {
		if x.end = min(search(to.Add(2*maxSkew))+1, top.Size); x.end < top.Size {
			x.cover = x.best(x.end)
		} else if top.At.Before(to) {
			// The log does not reach that far: it ends here, and says so.
			x.Filter.To = time.Time{}
		}
	}
	if from := x.Filter.From; !from.IsZero() {
		if x.first = search(from.Add(-2 * maxSkew)); x.first > 0 {
			x.first--
		}
	}
	x.first = min(x.first, x.end)
	return failed
}

// near is how far apart checkpoints may be that stand for one moment: one that
// more witnesses cosigned is not worth a pack that ends, or is dated, much
// otherwise.
const near = 5 * time.Minute

// best is the checkpoint to cover leaves up to a size: of those with enough
// witnesses near the end of the log the newest, or near the size, if one is
// given, the oldest.
func (x *export) best(size uint64) (found Signed) {
	from, _ := slices.BinarySearchFunc(x.Checkpoints, size, func(c Signed, n uint64) int { return cmp.Compare(c.Size, n) })
	all := x.Checkpoints[from:]
	if len(all) == 0 {
		return found
	}
	at := all[0].At
	if size == 0 {
		at = all[len(all)-1].At
	}
	for _, c := range all {
		switch {
		case c.At.Sub(at).Abs() > near:
			if size > 0 && found.Witnesses <= x.Enough/2 && c.Witnesses > x.Enough/2 {
				return c // the first that a majority cosigned
			}
		case found.Note == nil, min(c.Witnesses, x.Enough) > min(found.Witnesses, x.Enough):
			found = c
		case size == 0 && min(c.Witnesses, x.Enough) == min(found.Witnesses, x.Enough):
			found = c
		}
	}
	return found
}

func (x *export) leaf(i uint64) (*ledger.Leaf, error) {
	all, err := x.Source.Entries(i, 1)
	if err != nil {
		return nil, err
	}
	return ledger.Decode(all[0])
}

// span are leaves that make one file.
type span struct{ from, to uint64 }

// each calls f for the leaves of a span in order.
func (x *export) each(ctx context.Context, s span, f func(index uint64, entry []byte) error) error {
	for i := s.from; i < s.to; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(ledger.TileWidth-i%ledger.TileWidth, s.to-i)
		all, err := x.Source.Entries(i, int(n))
		if err != nil {
			return err
		}
		for k, entry := range all {
			if err := f(i+uint64(k), entry); err != nil {
				return err
			}
		}
		i += n
	}
	return nil
}

// leaves reads the leaves once: what they name, and the files they make.
func (x *export) leaves(ctx context.Context) (runs []planned, err error) {
	sum, size, at := sha256.New(), 0, span{x.first, x.first}
	cut := func() {
		if at.to == at.from {
			return
		}
		s := at
		runs = append(runs, planned{runName(x.Region, dirEntries, len(runs)), [sha256.Size]byte(sum.Sum(nil)), func() ([]byte, error) { return x.run(ctx, s) }})
		sum.Reset()
		size, at.from = 0, at.to
	}
	var head []byte
	err = x.each(ctx, span{x.first, x.end}, func(index uint64, entry []byte) error {
		if size > 0 && size+2+len(entry) > RunSize {
			cut()
		}
		head = AppendEntry(head[:0], entry)
		sum.Write(head)
		size += len(head)
		at.to = index + 1
		return x.named(index, entry)
	})
	cut()
	return runs, err
}

func (x *export) run(ctx context.Context, s span) (out []byte, err error) {
	err = x.each(ctx, s, func(_ uint64, entry []byte) error {
		out = AppendEntry(out, entry)
		return nil
	})
	return out, err
}

// named gathers what a leaf refers to.
func (x *export) named(index uint64, entry []byte) error {
	l, err := ledger.Decode(entry)
	if err != nil {
		return fmt.Errorf("leaf %d: %w", index, err)
	}
	for i := range l.Judged {
		x.law[l.Judged[i].LawPack] = true
	}
	for _, s := range l.Shown {
		if s.Name == ledger.ShownBundle {
			if _, known := x.bundles[s.Value]; !known {
				x.bundles[s.Value] = index
			}
		}
	}
	x.segment(index, l)
	if x.Selects == nil {
		return nil
	}
	open := func() []byte {
		command, _, err := x.Source.Opening(index)
		if err != nil {
			return nil
		}
		return command
	}
	if x.Selects(l, open) {
		x.open = append(x.open, index)
	}
	return nil
}

// openings makes files of the openings that the filter selects.
func (x *export) openings() (runs []planned, err error) {
	var data []byte
	var part []uint64
	cut := func() {
		if len(part) > 0 {
			mine := part
			runs = append(runs, planned{runName(x.Region, dirOpenings, len(runs)), sha256.Sum256(data), func() ([]byte, error) { return x.openRun(mine) }})
		}
		data, part = data[:0], nil
	}
	for _, leaf := range x.open {
		command, erased, err := x.Source.Opening(leaf)
		switch {
		case err != nil:
			return nil, err
		case erased:
			x.erased = append(x.erased, leaf)
			continue
		case command == nil:
			continue
		}
		if len(data) > 0 && len(data)+12+len(command) > RunSize {
			cut()
		}
		data = AppendOpening(data, leaf, command)
		part = append(part, leaf)
	}
	cut()
	return runs, nil
}

func (x *export) openRun(leaves []uint64) (out []byte, err error) {
	for _, leaf := range leaves {
		command, _, err := x.Source.Opening(leaf)
		if err != nil {
			return nil, err
		}
		out = AppendOpening(out, leaf, command)
	}
	return out, nil
}

// held adds what the region holds beside the log: law packs, the certificates
// it and its peers are known by, chains of its nodes.
func (x *export) held() error {
	for _, hash := range sorted(x.law) {
		tables := x.Source.LawPack(hash)
		if tables == nil {
			return fmt.Errorf("the law pack %s, which leaves pin, is not held any more: import it again", hash)
		}
		for _, table := range sorted(tables) {
			x.add(lawName(hash, table), tables[table])
		}
	}
	for _, digest := range sorted(x.bundles) {
		data := x.Source.Bundle(digest, x.bundles[digest])
		if data == nil {
			continue // the verifier says that it is missing, and since which leaf
		}
		x.add(fileName(x.Region, dirBundles, digest+".json"), data)
	}
	for _, serial := range sorted(x.Certificates) {
		x.add(fileName(x.Region, dirCertificates, serial+".pem"), x.Certificates[serial])
	}
	for _, digest := range sorted(x.Refused) {
		x.add(fileName(x.Region, dirRefused, digest+".pem"), x.Refused[digest])
	}
	return nil
}

// proofs adds checkpoints, the edge before the leaves, the leaves, and the way
// from the last leaf to the last checkpoint.
func (x *export) proofs(ctx context.Context, runs []planned) error {
	for _, c := range x.Checkpoints {
		if c.Size >= x.first && c.Size > 0 && (c.Size <= x.end || c.Size == x.cover.Size) && c.Size <= x.cover.Size {
			x.add(checkpointName(x.Region, c.Size), c.Note)
		}
	}
	edge, err := ledger.ReadTree(ctx, x.Source, x.first)
	if err != nil {
		return err
	}
	x.add(edgeName(x.Region), edge.Marshal())
	x.files = append(x.files, runs...)
	if x.cover.Size == x.end {
		return nil
	}
	ends, err := ledger.ReadTree(ctx, x.Source, x.end)
	if err != nil {
		return err
	}
	c, err := ledger.ParseSignedCheckpoint(x.cover.Note)
	if err != nil {
		return err
	}
	hashes, err := ledger.ProveConsistency(ctx, x.Source, ledger.Head{Size: x.end, Root: ends.Root()}, c.Unverified().Head())
	if err != nil {
		return err
	}
	var tail []byte
	for i := range hashes {
		tail = append(tail, hashes[i][:]...)
	}
	x.add(tailName(x.Region), tail)
	return nil
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
