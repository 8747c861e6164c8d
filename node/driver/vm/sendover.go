//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
)

// word is what the other side says after its answer: one thing, or that it hung up.
type word struct {
	step step
	err  error
}

func (w word) failed() error {
	switch {
	case w.err != nil:
		return w.err
	case w.step.Step == stepFailed:
		return fmt.Errorf("the other node could not take it in: %.2000s", w.step.Reason)
	}
	return fmt.Errorf("the other node says %q", w.step.Step)
}

// hear waits for the other side's word from now on.
func (s *sender) hear() {
	s.words = make(chan word, 1)
	s.pipes.wg.Go(func() {
		var w word
		w.err = s.wire.read(&w.step)
		s.words <- w
	})
}

// heard fails when the other side gives up.
func (s *sender) heard() error {
	select {
	case w := <-s.words:
		return w.failed()
	default:
		return nil
	}
}

// handOver lets QEMU send the last of it, and ends when the other side has
// written down that it has all. The guest stands.
func (s *sender) handOver(ctx context.Context) error {
	if err := s.meanwhile.disks(ctx); err != nil {
		return err
	}
	s.d.mark("disks")
	if err := ask(ctx, s.m, "migrate-continue", map[string]string{"state": "pre-switchover"}, nil); err != nil {
		return err
	}
	for p := patienceFor(lastPatience); ; {
		mig, err := s.migration(ctx)
		if err != nil {
			return err
		}
		if mig.Status == "completed" {
			break
		}
		if p.over() {
			return errors.New("QEMU does not end the migration")
		}
		if s.await(ctx, switchEvery); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	s.d.mark("devices")
	open, err := s.meanwhile.rest(ctx)
	if err == nil {
		err = s.logs.send(ctx)
	}
	if err != nil {
		return err
	}
	s.d.mark("output")
	// From here on nothing is asked of this QEMU until the ledger has spoken. It
	// stands by its own word, and may have been taken over by its guest.
	if err := s.d.Freeze(ctx, s.h.Task); err != nil {
		return err
	}
	s.d.mark("frozen")
	s.sent = true // from the first byte of the word on, the other side may have it
	if err := s.say(ctx, step{Step: stepSent, Log: s.logs.at, Sessions: open}); err != nil {
		return err
	}
	return s.last(ctx)
}

// last waits for the other side's last word.
func (s *sender) last(ctx context.Context) error {
	t := time.NewTimer(lastPatience)
	defer t.Stop()
	select {
	case w := <-s.words:
		if w.err == nil && w.step.Step == stepReceived {
			s.d.mark("received")
			s.told(runner.MoveProgress{Phase: "switch", Still: time.Since(s.since)})
			return nil
		}
		s.sent = w.err != nil || w.step.Step != stepFailed // else it says that it has given it up
		return w.failed()
	case <-t.C:
		return fmt.Errorf("the other node says nothing for %v", lastPatience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sender) say(ctx context.Context, what step) error {
	defer cutAfter(ctx, s.wire.conn.SetWriteDeadline, lastPatience)()
	return s.wire.write(what)
}
