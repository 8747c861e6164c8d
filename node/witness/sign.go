package witness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// sign brings one signed checkpoint into the state if the log has grown since
// the last. Apply accepts it only if it says what every replica found itself.
func (s *Service) sign(ctx context.Context) error {
	v := s.cfg.Log.View()
	keys := s.cfg.Keys()
	if v.LogKey() == "" || keys == nil {
		return nil // the region was founded without keys, or they were not handed over yet
	}
	if all := v.Checkpoints(); v.LedgerSize() == 0 || len(all) > 0 && all[0].Size == v.LedgerSize() {
		return nil
	}
	if s.halted() {
		return nil // told when it began
	}
	if s.cfg.Room != nil {
		if err := s.cfg.Room(); err != nil {
			return err
		}
	}
	signer, err := keys.signer(v)
	if err != nil {
		return err
	}
	res, err := s.commit(ctx, state.MarkLog{})
	if err != nil {
		return gone(ctx, fmt.Errorf("mark the log: %w", err))
	}
	size, err := strconv.ParseUint(res.ID, 10, 64)
	if err != nil {
		return fmt.Errorf("mark the log: the answer %q is no size", res.ID)
	}
	if v = s.cfg.Log.View(); v.LogOrigin() != signer.Verifier().Name() {
		return nil // begun anew in between
	}
	marks := v.LogMarks()
	i := slices.IndexFunc(marks, func(m state.Mark) bool { return m.Size == size })
	if i < 0 || s.halted() {
		return nil // this replica lags, or a witness spoke: the next round
	}
	note, err := signed(signer, ledger.Checkpoint{Origin: v.LogOrigin(), Size: size, Root: marks[i].Root})
	if err != nil {
		return err
	}
	if _, err := s.commit(ctx, state.SignLog{Size: size, Note: string(note)}); err != nil {
		return gone(ctx, fmt.Errorf("commit the signed checkpoint: %w", err))
	}
	return nil
}

func signed(k *ledger.Signer, c ledger.Checkpoint) ([]byte, error) {
	line, err := k.Sign(c)
	if err != nil {
		return nil, err
	}
	note, err := ledger.NewSignedCheckpoint(c, line)
	if err != nil {
		return nil, err
	}
	return note.Encode(), nil
}

// gone drops what is only the end of this node's leadership.
func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// noteHitch tells, once, what keeps the log from being signed, and its end.
func (s *Service) noteHitch(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	was := s.hitch
	s.hitch = text
	s.mu.Unlock()
	switch {
	case text == was:
	case text != "":
		s.cfg.Logger.Error("the log is not signed for now; placement goes on", "err", errors.New(text))
	default:
		s.cfg.Logger.Info("the log is signed again")
	}
}
