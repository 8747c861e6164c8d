package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// aLog is one of the region's logs: the present one, or one that it had before a
// recovery.
type aLog struct {
	origin string
	files  exportFiles
	// remembered are its newest checkpoints, of the present log alone.
	remembered []state.Checkpoint
	// next is the log that was begun in its place; nil for the present one.
	next *aLog
}

// logUpTo is the log that a time lies in: the newest that had begun by then. No
// time means now.
func (s *Server) logUpTo(v *state.View, to time.Time) (*aLog, error) {
	files, err := s.ledgerFiles()
	if err != nil {
		return nil, err
	}
	log := &aLog{origin: v.LogOrigin(), remembered: v.Checkpoints()}
	if log.files, err = forExport(files); err != nil {
		return nil, err
	}
	for n := v.Restarts; n > 0 && !to.IsZero(); n-- {
		begun, err := log.begun()
		if err != nil {
			return nil, err
		}
		if !to.Before(begun) {
			break
		}
		if log, err = s.before(log, n-1, begun); err != nil {
			return nil, err
		}
	}
	return log, nil
}

func forExport(files LedgerFiles) (exportFiles, error) {
	if whole, ok := files.(exportFiles); ok {
		return whole, nil
	}
	return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node's ledger files cannot be exported", "ask a voter: sovmesh node list").retry(time.Second)
}

// begun is the time of a log's first leaf.
func (l *aLog) begun() (time.Time, error) {
	entry, err := l.files.Entry(0)
	if err != nil {
		return time.Time{}, ledgerProblem(err)
	}
	leaf, err := ledger.Decode(entry)
	if err != nil {
		return time.Time{}, fmt.Errorf("the first leaf of %s: %w", l.origin, err)
	}
	return leaf.Time, nil
}

// before is the log that another one was begun in the place of. Only nodes that
// were there before the recovery have it.
func (s *Server) before(next *aLog, restarts int, until time.Time) (*aLog, error) {
	log := &aLog{origin: state.LogOrigin(s.cfg.Region, s.cfg.Mesh, restarts), next: next}
	err := errors.New("it keeps none")
	var files LedgerFiles
	if s.cfg.OldLedger != nil {
		files, err = s.cfg.OldLedger(restarts)
	}
	if err == nil {
		log.files, err = forExport(files)
	}
	if err == nil {
		if _, err = log.files.Entry(0); err == nil {
			return log, nil
		}
	}
	s.cfg.Log.Info("an old log is not here", "region", s.cfg.Region, "log", log.origin, "err", err)
	return nil, newProblem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("the log %s, which was the region's until %s, is not on this node", log.origin, until.UTC().Format(time.RFC3339)),
		"ask the node that the region was recovered from: it alone has what was before; or give a later --to")
}

// successor proves the first leaf of the log that was begun in another's place,
// under the checkpoint of it that most witnesses cosigned.
func (s *Server) successor(ctx context.Context, known []*ledger.Verifier, next *aLog) ([]byte, error) {
	signed, err := signedStates(known, next.remembered, next.files.Archive())
	if err != nil {
		return nil, err
	}
	var best *evidence.Signed
	for i := range signed {
		if best == nil || signed[i].Witnesses >= best.Witnesses {
			best = &signed[i]
		}
	}
	if best == nil {
		return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, "no checkpoint of "+next.origin+" has been signed yet, and it has to show the end of the log before", "ask again in a moment").retry(time.Second)
	}
	note, err := ledger.ParseSignedCheckpoint(best.Note)
	if err != nil {
		return nil, err
	}
	entry, err := next.files.Entry(0)
	if err != nil {
		return nil, ledgerProblem(err)
	}
	hashes, err := ledger.ProveInclusion(ctx, next.files, note.Unverified().Head(), 0)
	if err != nil {
		return nil, ledgerProblem(err)
	}
	proof := &ledger.Proof{Extra: entry, Hashes: hashes, Checkpoint: note}
	return proof.Encode()
}
