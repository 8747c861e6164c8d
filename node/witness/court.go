package witness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// court keeps one asker for each witness while this node leads.
func (s *Service) court(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	type asker struct {
		target Target
		stop   context.CancelFunc
	}
	asking := map[string]asker{}
	for ctx.Err() == nil {
		now := map[string]Target{}
		all := targets(s.cfg.Log.View())
		s.keepHalts(all)
		for _, t := range all {
			now[t.Name()] = t
		}
		for name, a := range asking {
			if t, ok := now[name]; !ok || t.URL != a.target.URL || t.Region != a.target.Region || t.Key.String() != a.target.Key.String() {
				a.stop()
				delete(asking, name)
			}
		}
		for name, t := range now {
			if _, ok := asking[name]; !ok {
				own, stop := context.WithCancel(ctx)
				asking[name] = asker{t, stop}
				wg.Go(func() { s.follow(own, t) })
			}
		}
		pause(ctx, s.cfg.SignEvery)
	}
	for _, a := range asking {
		a.stop()
	}
}

// follow has every new checkpoint cosigned by one witness, the newest only: who
// was cut off for an hour catches up with one question.
func (s *Service) follow(ctx context.Context, t Target) {
	var seen uint64
	origin, wait := "", s.cfg.RetryMin
	for ctx.Err() == nil {
		c, ok := s.unseen(ctx, t.Name())
		if !ok {
			return
		}
		if v := s.cfg.Log.View(); v.LogOrigin() != origin {
			origin, seen = v.LogOrigin(), lastSeen(v, t.Name())
		}
		err := s.ask(ctx, t, c, &seen)
		s.noteTrouble(ctx, t.Name(), err)
		if err == nil {
			wait = s.cfg.RetryMin
			continue
		}
		pause(ctx, wait)
		wait = min(2*wait, s.cfg.RetryMax)
	}
}

// lastSeen is the size of the newest checkpoint that the witness cosigned, as
// far as the state remembers; 0 asks the witness.
func lastSeen(v *state.View, name string) uint64 {
	for _, c := range v.Checkpoints() {
		if slices.Contains(c.Witnesses, name) {
			return c.Size
		}
	}
	return 0
}

// unseen waits for a newest checkpoint without the witness's cosignature.
func (s *Service) unseen(ctx context.Context, name string) (state.Checkpoint, bool) {
	v := s.cfg.Log.View()
	for ctx.Err() == nil {
		if all := v.Checkpoints(); len(all) > 0 && !slices.Contains(all[0].Witnesses, name) {
			return all[0], true
		}
		next, err := s.cfg.Log.Wait(ctx, v.Index())
		if err != nil {
			pause(ctx, s.cfg.RetryMin)
			next = s.cfg.Log.View()
		}
		v = next
	}
	return state.Checkpoint{}, false
}

// ask has one checkpoint cosigned. A witness that says it is at another size is
// believed once; seen is what it said last.
func (s *Service) ask(ctx context.Context, t Target, c state.Checkpoint, seen *uint64) error {
	within, cancel := context.WithTimeout(ctx, s.cfg.AskWithin)
	defer cancel()
	note, err := ledger.ParseSignedCheckpoint([]byte(c.Note))
	if err != nil {
		return fmt.Errorf("the own checkpoint: %w", err)
	}
	for range 2 {
		if *seen > c.Size {
			return s.dispute(ctx, t, fmt.Sprintf("it says it has cosigned %d leaves of this log, and the newest checkpoint here has %d", *seen, c.Size))
		}
		answer, err := s.submit(within, t, note, *seen)
		if err != nil {
			return err
		}
		switch answer.Status {
		case http.StatusOK:
			return s.accept(ctx, t, c, note, answer.Body, seen)
		case http.StatusConflict:
			size, err := ledger.ParseSize(answer.Body)
			if answer.Type != ledger.SizeType || err != nil {
				return fmt.Errorf("witness %s refuses without saying what it has seen: %s", t.Name(), words(answer))
			}
			switch {
			case size == *seen:
				return fmt.Errorf("witness %s has seen %d leaves and refuses a proof from there", t.Name(), size)
			case size < *seen:
				s.noteSetBack(t.Name(), *seen, size)
			}
			*seen = size
		case http.StatusUnprocessableEntity:
			return s.dispute(ctx, t, "it says this log does not extend what it has cosigned: "+words(answer))
		default:
			return refused(t, c, answer)
		}
	}
	return fmt.Errorf("witness %s changes its mind about what it has seen", t.Name())
}

// refused is what a witness's no means for the operator of this region.
func refused(t Target, c state.Checkpoint, a Answer) error {
	origin, _, _ := strings.Cut(c.Note, "\n")
	says := words(a)
	switch a.Status {
	case http.StatusForbidden:
		return fmt.Errorf("witness %s knows %s under another key (403): %s; give its operator the key of sovmesh audit policy", t.Name(), origin, says)
	case http.StatusNotFound:
		return fmt.Errorf("witness %s does not know the log %s (404): %s; have its operator add it, with the key of sovmesh audit policy", t.Name(), origin, says)
	case http.StatusTooManyRequests:
		return fmt.Errorf("witness %s wants to be asked less often (429): %s", t.Name(), says)
	}
	if a.Status >= 300 && a.Status < 400 {
		return fmt.Errorf("witness %s answers %d, and nobody follows it elsewhere; configure the address that it has now", t.Name(), a.Status)
	}
	return fmt.Errorf("witness %s answers %d: %s", t.Name(), a.Status, says)
}

// noteSetBack counts a witness that has forgotten what it cosigned. What it
// cosigned stays valid and is kept, and it is shown the way from where it is
// now; but for this while it could have cosigned a fork.
func (s *Service) noteSetBack(name string, had, has uint64) {
	s.mu.Lock()
	s.setBack[name]++
	s.mu.Unlock()
	s.cfg.Logger.Warn("a witness has forgotten what it cosigned: it was set back, or is not what it was", "witness", name, "cosigned", had, "remembers", has,
		"hint", "ask its operator; until it has cosigned again, it would not notice a fork above what it remembers")
}

// submit sends a checkpoint with the proof that it extends what was seen.
func (s *Service) submit(ctx context.Context, t Target, note *ledger.SignedCheckpoint, seen uint64) (Answer, error) {
	request := ledger.AddCheckpoint{OldSize: seen, Checkpoint: note}
	if newer := note.Unverified().Head(); seen > 0 && seen < newer.Size {
		tiles := s.cfg.Tiles()
		if tiles == nil {
			return Answer{}, errors.New("this replica's ledger is not open yet")
		}
		edge, err := ledger.ReadEdge(ctx, tiles, seen)
		if err != nil {
			return Answer{}, fmt.Errorf("prove the log to witness %s: %w", t.Name(), err)
		}
		if request.Hashes, err = ledger.ProveConsistency(ctx, tiles, ledger.Head{Size: seen, Root: edge.Root()}, newer); err != nil {
			return Answer{}, fmt.Errorf("prove the log to witness %s: %w", t.Name(), err)
		}
	}
	body, err := request.Encode()
	if err != nil {
		return Answer{}, err
	}
	answer, err := s.cfg.Transport.Post(ctx, t, "add-checkpoint", body)
	if errors.Is(err, context.DeadlineExceeded) {
		return answer, fmt.Errorf("witness %s did not answer within %s, and later answers do not count: %w", t.Name(), s.cfg.AskWithin, err)
	}
	if err != nil {
		return answer, fmt.Errorf("ask witness %s: %w", t.Name(), err)
	}
	return answer, nil
}

// clockOff is how far the time of a cosignature may be from this node's clock.
const clockOff = 2 * time.Minute

// accept checks a cosignature and commits it.
func (s *Service) accept(ctx context.Context, t Target, c state.Checkpoint, note *ledger.SignedCheckpoint, body []byte, seen *uint64) error {
	line, err := ledger.AcceptCosignature(t.Key, note.Unverified(), body)
	if err != nil {
		return err
	}
	if at, ok := line.Stamp(); ok && at.Sub(s.cfg.Now()).Abs() > clockOff {
		return fmt.Errorf("the cosignature of witness %s is dated %s, and it is %s; one of the two clocks is wrong", t.Name(), at.UTC().Format(time.RFC3339), s.cfg.Now().UTC().Format(time.RFC3339))
	}
	*seen = c.Size
	s.clear(t.Name())
	text := strings.TrimSuffix(string(ledger.EncodeSignatures([]ledger.Signature{line})), "\n")
	err = s.propose(ctx, state.CosignLog{Size: c.Size, Lines: []string{text}})
	var refused *state.Refused
	if errors.As(err, &refused) && refused.Code == "checkpoint.gone" {
		return nil // it answered so late that newer checkpoints took the place
	}
	return gone(ctx, err)
}

// dispute looks what a witness that contradicts has seen. Signing ends unless it
// turns out that the log does extend it: then the witness is wrong, and only it
// is without a say.
func (s *Service) dispute(ctx context.Context, t Target, why string) error {
	got, err := s.check(ctx, t)
	switch {
	case ctx.Err() != nil:
		return nil
	case got == unknown || got == nothing:
		s.halt(t.Name(), why)
		return errors.Join(fmt.Errorf("witness %s: %s", t.Name(), why), err)
	case got == extends:
		return fmt.Errorf("witness %s is wrong: %s; what it shows is part of the log", t.Name(), why)
	}
	return fmt.Errorf("witness %s: %s", t.Name(), why)
}

// noteTrouble tells, once, that a witness does not cosign, and why.
func (s *Service) noteTrouble(ctx context.Context, name string, err error) {
	if ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	was := s.said[name]
	s.said[name] = text
	s.mu.Unlock()
	switch {
	case err != nil && was == "":
		s.cfg.Logger.Warn("a witness does not cosign the log for now", "witness", name, "err", err)
	case err != nil:
		s.cfg.Logger.Debug("a witness still does not cosign", "witness", name, "err", err)
	case was != "":
		s.cfg.Logger.Info("the witness cosigns the log again", "witness", name)
	}
}

// words is what an answer says to people, in one short line.
func words(a Answer) string {
	text := strings.ToValidUTF8(strings.Join(strings.FieldsFunc(string(a.Body[:min(len(a.Body), 400)]), func(r rune) bool { return r < ' ' || r == 0x7f }), " "), "")
	if text == "" {
		return "it says nothing more"
	}
	return text
}
