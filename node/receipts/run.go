package receipts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

const (
	// retryEvery is the pause after what failed.
	retryEvery = 200 * time.Millisecond
	// stopWithin bounds how long the last segments may take into the ledger when
	// the node stops; what remains is committed at the next start.
	stopWithin = 2 * time.Second
	// sweepEvery is how often files are looked through for what is too old.
	sweepEvery = time.Minute
)

// Run commits what an earlier run left, then segments as they are closed, until
// ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	if err := os.MkdirAll(k.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("receipts: %w", err)
	}
	defer k.stop()
	last, ok := k.begin(ctx)
	if !ok {
		return nil
	}
	committing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { k.commitAll(committing, last) })
	k.serve(ctx, last.Seq+1)
	k.stop()
	late := time.AfterFunc(stopWithin, cancel)
	defer late.Stop()
	poke(k.queued)
	wg.Wait()
	return nil
}

func (k *Keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		k.stopped = true
		k.turn()
	}
}

// turn wakes who waits for a segment. The caller holds mu.
func (k *Keeper) turn() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// begin mends what a crash left, and waits for the first request of a node that
// has no chain yet: a node that answers nobody leaves no trace.
func (k *Keeper) begin(ctx context.Context) (last state.Segment, ok bool) {
	for ctx.Err() == nil {
		seg, err := k.recover(ctx)
		if err == nil && seg == nil {
			select {
			case <-ctx.Done():
				return last, false
			case <-k.wantStart:
			}
			seg, err = k.openChain(ctx)
		}
		if err == nil {
			k.mu.Lock()
			k.chain = chainName(seg.Chain)
			k.turn()
			k.mu.Unlock()
			return *seg, true
		}
		if ctx.Err() == nil {
			k.cfg.Logger.Warn("the chain of receipts cannot begin yet", "err", err)
		}
		pause(ctx, retryEvery)
	}
	return last, false
}

// openChain commits an empty first segment: from then on the chain has a name.
func (k *Keeper) openChain(ctx context.Context) (*state.Segment, error) {
	now := k.cfg.Now()
	res, err := k.cfg.Log.Commit(ctx, state.CommitSegment{Node: k.cfg.Node, Seq: 1, Root: emptyRoot(), From: now, To: now})
	if err != nil {
		return nil, err
	}
	seg, err := k.cfg.Log.Segment(ctx)
	if err != nil {
		return nil, err
	}
	if seg == nil {
		return nil, fmt.Errorf("the first segment was not accepted: %w", refusal(res))
	}
	return seg, nil
}

func refusal(res state.Result) error {
	if res.Refused == nil {
		return errors.New("nothing came of it")
	}
	return res.Refused
}

// serve opens, fills and closes segments until ctx ends.
func (k *Keeper) serve(ctx context.Context, seq uint64) {
	tick, sweep := time.NewTicker(k.cfg.Every), time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer sweep.Stop()
	var spare *segment
	open := func() *segment {
		s, err := k.create(seq)
		k.fault(err)
		if err == nil {
			seq++
		}
		return s
	}
	begin := func() {
		if spare == nil {
			spare = open()
		}
		if spare != nil && k.enter(spare) {
			spare = nil
		}
	}
	for {
		select {
		case <-ctx.Done():
			k.rotate(nil)
			k.discard(spare)
			return
		case <-k.wantStart:
			begin()
		case <-tick.C:
			if k.due(false) {
				spare = k.next(spare, open)
			} else if k.owes() {
				begin() // to say what was dropped
			}
		case <-k.wantClose:
			if k.due(true) {
				spare = k.next(spare, open)
			}
		case <-k.wantSync:
			k.sync()
		case <-sweep.C:
			k.sweep()
		}
	}
}

// next closes the segment and lets a new one follow, whose file is there
// already as a rule.
func (k *Keeper) next(spare *segment, open func() *segment) *segment {
	if spare == nil {
		spare = open()
	}
	k.rotate(spare)
	return open()
}

// due reports whether the open segment is to be closed.
func (k *Keeper) due(full bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cur == nil {
		return false
	}
	if full {
		return len(k.cur.slots) >= k.cfg.Max
	}
	return len(k.cur.slots) > 0 || k.dropped > 0
}

// owes reports whether drops are to be told and no segment is open for that.
func (k *Keeper) owes() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cur == nil && k.dropped > 0
}

// fault notes why there is no file, or that there is one again.
func (k *Keeper) fault(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.trouble = ""
		return
	}
	if k.trouble == "" {
		k.cfg.Logger.Error("no file for receipts", "err", err)
	}
	k.trouble, k.troubled = "the disk takes no file: "+err.Error(), k.cfg.Now()
	k.turn()
}

// enter makes the segment the open one, if there is none.
func (k *Keeper) enter(s *segment) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cur != nil {
		return false
	}
	if err := appendTo(k.cfg.Dir, s.seq-1, begunRecord(1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.cfg.Logger.Warn("the file before does not say that a segment of receipts was begun", "segment", s.seq, "err", err)
	}
	k.cur = s
	k.turn()
	return true
}

// create makes a segment's file, on the disk with its name.
func (k *Keeper) create(seq uint64) (*segment, error) {
	path := filepath.Join(k.cfg.Dir, fileName(seq))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	head := header(seq)
	if _, err = f.Write(head); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(k.cfg.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &segment{seq: seq, file: f, size: int64(len(head))}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// discard removes the file of a segment that promised nothing. The one before says
// so first: a file that it speaks of and that is not there has been lost.
func (k *Keeper) discard(s *segment) {
	if s == nil {
		return
	}
	err := appendTo(k.cfg.Dir, s.seq-1, begunRecord(0))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, s.file.Close(), os.Remove(s.file.Name()))
	if err != nil {
		k.cfg.Logger.Warn("an unused file of receipts stays", "err", err)
	}
}

// rotate closes the open segment and lets next follow it.
func (k *Keeper) rotate(next *segment) {
	k.mu.Lock()
	old := k.cur
	k.cur = next
	if old != nil {
		old.dropped, k.dropped = k.dropped, 0
	}
	k.turn()
	k.mu.Unlock()
	if old == nil {
		return
	}
	if len(old.slots) == 0 && old.dropped == 0 {
		k.discard(old)
		return
	}
	k.sync() // who waits for the old file waits no longer than for this
	c := k.seal(old, next != nil)
	k.mu.Lock()
	k.queue = append(k.queue, c)
	k.mu.Unlock()
	poke(k.queued)
}

// seal writes what the commit will say behind the receipts, and brings the file
// to disk. Where that fails the commit says it nevertheless: it is made of what
// was promised.
func (k *Keeper) seal(s *segment, followed bool) *closed {
	leaves := make([][]byte, len(s.slots))
	for i := range s.slots {
		leaves[i] = s.slots[i].leaf
	}
	if s.from.IsZero() {
		s.note(k.cfg.Now())
	}
	c := &closed{s.seq, closing{count: uint64(len(leaves)), root: receipt.Root(leaves), from: s.from, to: s.to, dropped: s.dropped}}
	end := closedRecord(&c.closing)
	if followed {
		end = append(end, begunRecord(1)...)
	}
	err := s.write(end)
	if err = errors.Join(err, s.file.Sync(), s.file.Close()); err != nil {
		k.cfg.Logger.Error("a segment of receipts is not whole on the disk", "segment", s.seq, "err", err)
	}
	return c
}

// sync brings to disk what waits for it. What comes meanwhile waits for the next
// turn: there is no timer.
func (k *Keeper) sync() {
	k.mu.Lock()
	b := k.batch
	k.batch = nil
	k.mu.Unlock()
	if b == nil {
		return
	}
	for f := range b.files {
		if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) {
			b.err = errors.Join(b.err, &Busy{Why: "the disk does not take it: " + err.Error(), RetryAfter: 5 * time.Second})
		}
	}
	close(b.done)
}

// commitAll commits segments in their order until ctx ends, or the keeper has
// stopped and none is left.
func (k *Keeper) commitAll(ctx context.Context, last state.Segment) {
	prev := last.Root
	for ctx.Err() == nil {
		k.mu.Lock()
		var c *closed
		if len(k.queue) > 0 {
			c = k.queue[0]
		}
		over := k.stopped
		k.mu.Unlock()
		switch {
		case c == nil && over:
			return
		case c == nil:
			select {
			case <-k.queued:
			case <-ctx.Done():
			}
			continue
		}
		if err := k.commit(ctx, c, prev); err != nil {
			if ctx.Err() == nil {
				k.cfg.Logger.Warn("a segment of receipts is not committed yet", "segment", c.seq, "err", err)
			}
			pause(ctx, retryEvery)
			continue
		}
		prev = c.root
		k.mu.Lock()
		k.queue = k.queue[1:]
		k.stats.Segments++
		k.mu.Unlock()
	}
}

// commit is nil once the segment stands in the ledger.
func (k *Keeper) commit(ctx context.Context, c *closed, prev ledger.Hash) error {
	res, err := k.cfg.Log.Commit(ctx, state.CommitSegment{
		Node: k.cfg.Node, Seq: c.seq, Prev: prev, Root: c.root, Count: c.count, From: c.from, To: c.to,
		Dropped: c.dropped, Missing: c.missing, Recovered: c.recovered,
	})
	if err != nil {
		return err
	}
	leaf := res.Leaf
	if res.Refused != nil {
		// An answer may have been lost: then the chain ends with this segment.
		seg, err := k.cfg.Log.Segment(ctx)
		if err != nil || seg == nil || seg.Seq != c.seq || seg.Root != c.root {
			return errors.Join(refusal(res), err)
		}
		leaf = seg.Leaf
	}
	if err := appendTo(k.cfg.Dir, c.seq, committedRecord(leaf)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.cfg.Logger.Warn("the ledger's leaf was not noted in a file of receipts", "segment", c.seq, "leaf", leaf, "err", err)
	}
	return nil
}

// pause waits for d or the end of the context.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
