package receipts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/state"
)

func chainName(id string) string { return strings.TrimPrefix(id, "h:") }

// recover commits what files say and the ledger does not know, and gives the
// end of the chain; nil if there is none yet.
func (k *Keeper) recover(ctx context.Context) (*state.Segment, error) {
	last, err := k.cfg.Log.Segment(ctx)
	if err != nil {
		return nil, err
	}
	files, err := listFiles(k.cfg.Dir)
	if err != nil {
		return nil, err
	}
	if last == nil {
		return nil, k.setAside(files)
	}
	end, known := *last, last.Seq == 1
	for _, seq := range files {
		known = known || seq >= last.Seq
		if seq < last.Seq {
			continue
		}
		if seq == last.Seq {
			k.markCommitted(last)
			continue
		}
		for end.Seq+1 < seq {
			if err := k.lost(ctx, &end); err != nil {
				return nil, err
			}
		}
		if err := k.recoverFile(ctx, &end); err != nil {
			return nil, err
		}
	}
	if !known || len(files) > 0 && k.begunAfter(files[len(files)-1]) {
		// The newest segment had a file once, and what was begun after it has none.
		if err := k.lost(ctx, &end); err != nil {
			return nil, err
		}
	}
	return &end, nil
}

// setAside keeps the files of a chain that the ledger no longer knows, as after
// a forced recovery of the region, out of the way of the new one.
func (k *Keeper) setAside(files []uint64) error {
	if len(files) == 0 {
		return nil
	}
	old := filepath.Join(k.cfg.Dir, "before-"+k.cfg.Now().UTC().Format("20060102T150405.000000000Z"))
	k.cfg.Logger.Error("the ledger knows no segment of this node, and files of receipts are here: they are set aside", "files", len(files), "dir", old)
	if err := os.MkdirAll(old, 0o700); err != nil {
		return err
	}
	for _, seq := range files {
		if err := os.Rename(filepath.Join(k.cfg.Dir, fileName(seq)), filepath.Join(old, fileName(seq))); err != nil {
			return err
		}
	}
	return nil
}

// begunAfter reports that the file says there must be another one after it.
func (k *Keeper) begunAfter(seq uint64) bool {
	c, err := readFile(k.cfg.Dir, seq)
	return err == nil && c.begun
}

func (k *Keeper) markCommitted(last *state.Segment) {
	c, err := readFile(k.cfg.Dir, last.Seq)
	if err == nil && c.leaf == nil {
		err = appendTo(k.cfg.Dir, last.Seq, committedRecord(last.Leaf))
	}
	if err != nil {
		k.cfg.Logger.Warn("the file of the last segment of receipts cannot be read", "segment", last.Seq, "err", err)
	}
}

// recoverFile commits the next segment from its file.
func (k *Keeper) recoverFile(ctx context.Context, end *state.Segment) error {
	seq := end.Seq + 1
	c, err := readFile(k.cfg.Dir, seq)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return err // a person can mend that
		}
		k.cfg.Logger.Error("a file of receipts cannot be read; they are missing", "segment", seq, "err", err)
		return k.lost(ctx, end)
	}
	leaves, missing := c.leaves()
	now := k.cfg.Now()
	out := closing{count: uint64(len(leaves)), root: receipt.Root(leaves), from: now, to: now, missing: missing, recovered: true}
	if c.closed != nil && c.closed.recovered && c.closed.root == out.root {
		return k.settle(ctx, end, &closed{seq, *c.closed}) // recovered before, and not yet committed
	}
	if c.closed != nil {
		if c.closed.count > out.count {
			// More were promised than can be found.
			out.missing += c.closed.count - out.count
		}
		out.from, out.to, out.dropped = c.closed.from, c.closed.to, c.closed.dropped
	} else {
		out.from, out.to = span(leaves, now)
	}
	if err := k.rewrite(c, &out); err != nil {
		return err
	}
	return k.settle(ctx, end, &closed{seq, out})
}

// span is the time of leaves.
func span(leaves [][]byte, now time.Time) (from, to time.Time) {
	var s segment
	for _, data := range leaves {
		if l, err := receipt.Decode(data); err == nil {
			s.note(l.Start, l.End)
		}
	}
	if s.from.IsZero() {
		return now, now
	}
	return s.from, s.to
}

// rewrite ends the file where it can be read, and writes behind it what the
// commit says.
func (k *Keeper) rewrite(c *content, out *closing) error {
	path := filepath.Join(k.cfg.Dir, fileName(c.seq))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Truncate(c.good)
	if err == nil {
		_, err = f.WriteAt(closedRecord(out), c.good)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// lost commits a segment of which nothing can be found. How many receipts it
// had nobody knows: one at least was begun.
func (k *Keeper) lost(ctx context.Context, end *state.Segment) error {
	now := k.cfg.Now()
	k.cfg.Logger.Error("the receipts of a segment are lost; the ledger will say so", "segment", end.Seq+1)
	c := &closed{end.Seq + 1, closing{root: emptyRoot(), from: now, to: now, missing: 1, recovered: true}}
	if s, err := k.create(c.seq); err == nil { // so that the next start knows it
		if err := errors.Join(s.write(closedRecord(&c.closing)), s.file.Sync(), s.file.Close()); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return k.settle(ctx, end, c)
}

// settle commits a recovered segment and moves the end of the chain.
func (k *Keeper) settle(ctx context.Context, end *state.Segment, c *closed) error {
	if err := k.commit(ctx, c, end.Root); err != nil {
		return fmt.Errorf("segment %d: %w", c.seq, err)
	}
	end.Seq, end.Root = c.seq, c.root
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stats.Recovered += c.count
	k.stats.Missing += c.missing
	k.stats.Segments++
	return nil
}
