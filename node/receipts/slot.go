package receipts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// segment takes records. All of it is guarded by the keeper's mu until the
// segment is closed; after that nothing changes it.
type segment struct {
	seq      uint64
	file     *os.File
	size     int64 // of what stands whole in the file
	slots    []slot
	from, to time.Time
	dropped  uint64
}

// closed is a segment on its way into the ledger.
type closed struct {
	seq uint64
	closing
}

// batch is what goes to disk together.
type batch struct {
	files map[*os.File]bool
	done  chan struct{}
	err   error // set before done is closed
}

// Begin is what is known of a request when its receipt begins.
type Begin struct {
	Owner               string // the tenant; beside the leaf, never in it
	RequestID           string
	Model, Tag, LawPack string
	Policy              ledger.Hash
	Entry               string // the node that took it, in clear: the leaf has an opaque id
	Start               time.Time
	Evidence            receipt.Evidence
	Body                []byte // of the request
}

// Slot is a receipt that is being made. It is not safe for concurrent use.
type Slot struct {
	k     *Keeper
	owner string
	key   ledger.Salt
	leaf  receipt.Leaf
	body  *receipt.Committer // to the response; nil once that is over
	wrote bool

	seg   *segment // where the promise stands
	index int
	id    string
}

// Begin begins a receipt. Nothing is promised by that.
func (k *Keeper) Begin(b Begin) *Slot {
	s := &Slot{k: k, owner: b.Owner}
	_, _ = rand.Read(s.key[:])
	s.body = k.committers.Get().(*receipt.Committer)
	s.leaf = receipt.Leaf{
		RequestID: clip(b.RequestID), Request: s.body.Commit(s.key, receipt.OfRequest, b.Body), Model: clip(b.Model), Tag: b.Tag, LawPack: b.LawPack, Policy: b.Policy,
		Entry: s.opaque(b.Entry), Start: b.Start, Outcome: receipt.Open, Evidence: b.Evidence,
	}
	if len(s.leaf.Tag) > receipt.MaxText {
		s.leaf.Tag = "" // the policy's hash stands for it
	}
	s.leaf.Salt = s.body.Salt(s.key)
	s.body.Start(s.key, receipt.OfResponse)
	return s
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), receipt.MaxText)], "") }

// opaque hides a node's name behind the receipt's key.
func (s *Slot) opaque(name string) string {
	if name == "" {
		return ""
	}
	return ledger.Opaque(s.key, name)
}

// errOver is the answer to a part of a response after its end.
var errOver = errors.New("the receipt is finished")

// Write takes a part of the response, as it went to the caller.
func (s *Slot) Write(p []byte) (int, error) {
	if s.body == nil {
		return 0, errOver
	}
	s.wrote = s.wrote || len(p) > 0
	return s.body.Write(p)
}

// Promise gives the receipt's id, whose record is then in the segment's file.
// Its error is a [*Busy], or [ErrDropped] where best effort was asked for.
func (s *Slot) Promise(ctx context.Context) (string, error) {
	if s.id != "" {
		return s.id, nil
	}
	if err := s.k.put(ctx, s, ""); err != nil {
		return "", s.k.drop(s, err)
	}
	return s.id, nil
}

// End is what became of a request.
type End struct {
	Exec   string // the node that ran it, in clear
	Region string
	Peer   string // the other region's receipt
	// Policy replaces the request's, if it was narrowed for where it ran.
	Policy  ledger.Hash
	At      time.Time
	Outcome receipt.Outcome
	Status  uint16
}

// Finish completes the receipt and gives its id. With required evidence it
// returns once that is on the disk.
func (s *Slot) Finish(ctx context.Context, e End) (string, error) {
	s.leaf.Exec, s.leaf.Region, s.leaf.Peer = s.opaque(e.Exec), clip(e.Region), clip(e.Peer)
	s.leaf.End, s.leaf.Outcome, s.leaf.Status = e.At, e.Outcome, e.Status
	if e.Policy != (ledger.Hash{}) {
		s.leaf.Policy = e.Policy
	}
	if s.wrote && s.body != nil {
		s.leaf.Response = s.body.Sum()
	}
	if s.body != nil {
		s.k.committers.Put(s.body)
		s.body = nil
	}
	if err := s.k.put(ctx, s, s.id); err != nil {
		return s.id, s.k.drop(s, err)
	}
	if s.leaf.Evidence != receipt.Required {
		return s.id, nil
	}
	if err := s.k.durable(ctx, s); err != nil {
		return s.id, err
	}
	return s.id, nil
}

// drop counts what best effort loses.
func (k *Keeper) drop(s *Slot, err error) error {
	if s.leaf.Evidence == receipt.Required {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropped++
	k.stats.Dropped++
	return fmt.Errorf("%w: %w", ErrDropped, err)
}

// Ready is why no receipt can be kept now, nil if nothing is known against it.
func (k *Keeper) Ready() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.obstacle()
}

// obstacle is what refuses every receipt. The caller holds mu.
func (k *Keeper) obstacle() error {
	switch {
	case k.stopped:
		return &Busy{Why: "the node stops", RetryAfter: time.Second}
	case len(k.queue) >= k.cfg.Backlog:
		return &Busy{Why: fmt.Sprintf("%d segments wait for the region's ledger", len(k.queue)), RetryAfter: 2 * time.Second}
	case k.cur == nil && k.trouble != "" && k.cfg.Now().Sub(k.troubled) < time.Second:
		return &Busy{Why: k.trouble, RetryAfter: 5 * time.Second}
	}
	return nil
}

// openWait is how long a request waits for a segment to take it.
const openWait = 2 * time.Second

// put writes the slot's leaf: into its place while its segment is open, else as
// a new receipt that continues the promised one.
func (k *Keeper) put(ctx context.Context, s *Slot, promised string) error {
	var limit *time.Timer // most receipts find their place at once
	for {
		k.mu.Lock()
		done, err := k.place(s, promised)
		changed := k.changed
		k.mu.Unlock()
		if done || err != nil {
			return err
		}
		if limit == nil {
			limit = time.NewTimer(openWait)
			defer limit.Stop()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &Busy{Why: "the request ended", RetryAfter: time.Second}
		case <-limit.C:
			return &Busy{Why: "no segment is open: the region's ledger or the disk does not answer", RetryAfter: time.Second}
		}
	}
}

// place reports false if there is no room yet. The caller holds mu.
func (k *Keeper) place(s *Slot, promised string) (bool, error) {
	seg := k.cur
	if err := k.obstacle(); err != nil {
		return false, err
	}
	if seg == nil {
		poke(k.wantStart)
		return false, nil
	}
	own := promised != "" && s.seg == seg
	if !own && len(seg.slots) >= k.cfg.Max {
		poke(k.wantClose)
		return false, nil
	}
	index, first := len(seg.slots), ""
	if own {
		index = s.index
	} else if promised != "" {
		first, s.leaf.Continues = promised, promised
	}
	// A leaf that ends in a segment of its own has the bytes of the slot alone.
	entry := slot{key: s.key, owner: s.owner}
	rec := beginSlot(make([]byte, 0, slotRoom+len(s.owner)), index, &entry)
	at := len(rec)
	rec, err := s.leaf.Append(rec)
	if err != nil {
		return false, err
	}
	entry.leaf = rec[at:len(rec):len(rec)] // one allocation for both
	if err := seg.write(endRecord(rec, 0)); err != nil {
		return false, &Busy{Why: "the disk does not take it: " + err.Error(), RetryAfter: 5 * time.Second}
	}
	if own {
		seg.slots[index] = entry
	} else {
		seg.slots = append(seg.slots, entry)
		k.stats.Kept++
	}
	seg.note(s.leaf.Start, s.leaf.End)
	if id := k.id(seg.seq, index); first != "" {
		k.follow(s, id)
	} else {
		s.id = id
	}
	s.seg, s.index = seg, index
	if len(seg.slots) >= k.cfg.Max {
		poke(k.wantClose)
	}
	return true, nil
}

// follow notes beside a promised receipt which one continues it. Without the
// note both are still in their segments, and the second names the first.
func (k *Keeper) follow(s *Slot, next string) {
	if err := appendTo(k.cfg.Dir, s.seg.seq, nextRecord(s.index, next)); err != nil {
		k.cfg.Logger.Warn("a receipt's continuation was not noted beside it", "receipt", s.id, "next", next, "err", err)
	}
}

// write appends a record whole, or leaves the file as it was.
func (seg *segment) write(rec []byte) error {
	n, err := seg.file.Write(rec)
	if err == nil {
		seg.size += int64(n)
		return nil
	}
	if n > 0 {
		if cut := seg.file.Truncate(seg.size); cut != nil {
			// What follows would stand behind a part: skip over it by length.
			seg.size += int64(n)
		}
	}
	return err
}

// note widens the segment's time.
func (seg *segment) note(times ...time.Time) {
	for _, t := range times {
		if t.IsZero() {
			continue
		}
		if seg.from.IsZero() || t.Before(seg.from) {
			seg.from = t
		}
		if t.After(seg.to) {
			seg.to = t
		}
	}
}

// durable waits until the slot's record is on the disk.
func (k *Keeper) durable(ctx context.Context, s *Slot) error {
	k.mu.Lock()
	if s.seg != k.cur {
		// Closed meanwhile: the whole file goes to disk before it is committed,
		// and the batch of that moment has it.
		k.mu.Unlock()
		return k.synced(ctx, s)
	}
	if k.batch == nil {
		k.batch = &batch{files: map[*os.File]bool{}, done: make(chan struct{})}
		poke(k.wantSync)
	}
	b := k.batch
	b.files[s.seg.file] = true
	k.mu.Unlock()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// synced opens the closed file once more to bring it to disk.
func (k *Keeper) synced(_ context.Context, s *Slot) error {
	f, err := os.Open(s.seg.file.Name())
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
