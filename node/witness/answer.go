package witness

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// MaxRequest bounds the body of a request to a witness, in bytes.
const MaxRequest = ledger.MaxAddCheckpoint

const plain = "text/plain; charset=utf-8"

func say(status int, text string) Answer { return Answer{status, plain, []byte(text + "\n")} }

// Answer is this region's part as a witness: it judges an add-checkpoint
// request about a log of an active peer, commits what it saw, and only then
// cosigns, with the ledger's time of that commit. from names who asks, for the
// rate that each may ask at.
func (s *Service) Answer(ctx context.Context, from string, body []byte) Answer {
	if !s.rates.allow(from, s.cfg.Now()) {
		return say(http.StatusTooManyRequests, "this witness was asked too often; ask again in a second")
	}
	keys := s.cfg.Keys()
	if keys == nil {
		return say(http.StatusServiceUnavailable, "this node does not hold the region's witness key: voters do")
	}
	request, err := ledger.ParseAddCheckpoint(body)
	if err != nil {
		return say(http.StatusBadRequest, err.Error())
	}
	v := s.cfg.Log.View()
	logs, last := known(v, request.Checkpoint.Unverified().Origin)
	if err := ledger.Judge(logs, last, request); err != nil {
		s.noteFork(last, request, err)
		return refusal(err)
	}
	return s.admit(ctx, keys, logs, last, request)
}

// noteFork says, once for each log and text, that a log's key has signed what
// contradicts what this region has cosigned of it. Of another root for the same
// size nobody can say that only the proof was wrong.
func (s *Service) noteFork(last ledger.Head, request *ledger.AddCheckpoint, err error) {
	var no *ledger.WitnessRefusal
	if !errors.As(err, &no) || no.Status != ledger.StatusUnprocessable {
		return
	}
	c := request.Checkpoint.Unverified()
	s.mu.Lock()
	again := s.forks[c.Origin] == no.Error()
	s.forks[c.Origin] = no.Error()
	s.mu.Unlock()
	switch {
	case again:
	case c.Size == last.Size:
		s.cfg.Logger.Error("FORK: a log has signed two histories; this region cosigns the first alone", "log", c.Origin, "size", c.Size, "err", err,
			"hint", "tell the region's operator and its other witnesses; both checkpoints, side by side, are the proof")
	default:
		s.cfg.Logger.Warn("does not cosign a log that is not shown to extend what was cosigned", "log", c.Origin, "size", c.Size, "err", err)
	}
}

// known is the key of a log that this region witnesses, and what it has seen.
func known(v *state.View, origin string) (keys []*ledger.Verifier, last ledger.Head) {
	if key, err := ledger.ParseVerifier(v.PeerLogKey(origin)); err == nil {
		keys = append(keys, key)
	}
	if w := v.Witnessed(origin); w != nil {
		last = ledger.Head{Size: w.Size, Root: w.Root}
	}
	return keys, last
}

// admit commits what was judged well and cosigns it.
func (s *Service) admit(ctx context.Context, keys *Keys, logs []*ledger.Verifier, last ledger.Head, request *ledger.AddCheckpoint) Answer {
	c := request.Checkpoint.Unverified()
	note, err := alone(request.Checkpoint, logs)
	if err != nil {
		return say(http.StatusBadRequest, err.Error())
	}
	proof := make([][]byte, len(request.Hashes))
	for i := range request.Hashes {
		proof[i] = request.Hashes[i][:]
	}
	res, err := s.commit(ctx, state.AdvanceOrigin{Origin: c.Origin, Old: request.OldSize, Note: string(note), Proof: proof})
	if err != nil {
		return refusal(err)
	}
	v, err := s.atLeast(ctx, res.Index)
	if err != nil {
		return refusal(err)
	}
	w := v.Witnessed(c.Origin)
	if w == nil {
		return say(http.StatusNotFound, "this witness does not know the log any more")
	}
	if w.Size != c.Size || w.Root != c.Root {
		// It went on in between. To cosign the smaller tree now would say that it
		// was seen after the larger one.
		return conflict(w.Size)
	}
	line, err := keys.witness.Cosign(c, v.Time())
	if err != nil {
		return say(http.StatusInternalServerError, err.Error())
	}
	return Answer{http.StatusOK, plain, ledger.EncodeSignatures([]ledger.Signature{line})}
}

// alone is the checkpoint with the signatures of the log and of nobody else:
// what others wrote on it is not kept.
func alone(c *ledger.SignedCheckpoint, logs []*ledger.Verifier) ([]byte, error) {
	var own []ledger.Signature
	for _, line := range c.Signatures() {
		for _, key := range logs {
			if line.Name == key.Name() && line.ID == key.ID() {
				own = append(own, line)
			}
		}
	}
	note, err := ledger.NewSignedCheckpoint(c.Unverified(), own...)
	if err != nil {
		return nil, err
	}
	return note.Encode(), nil
}

func conflict(size uint64) Answer {
	return Answer{http.StatusConflict, ledger.SizeType, ledger.EncodeSize(size)}
}

// refusal is a no in the protocol's words, whoever said it: this node's own
// judgement, or that of the state, which had seen more.
func refusal(err error) Answer {
	var no *ledger.WitnessRefusal
	if errors.As(err, &no) {
		if no.Status == ledger.StatusConflict {
			return conflict(no.Size)
		}
		return say(no.Status, no.Error())
	}
	var refused *state.Refused
	if !errors.As(err, &refused) {
		return say(http.StatusServiceUnavailable, "this witness cannot write down now what it has seen; ask again in a second")
	}
	status := http.StatusBadRequest
	switch refused.Code {
	case "witness.size":
		if size, err := strconv.ParseUint(refused.Advice, 10, 64); err == nil {
			return conflict(size)
		}
	case "witness.origin":
		status = http.StatusNotFound
	case "witness.signature":
		status = http.StatusForbidden
	case "witness.fork", "witness.proof":
		status = http.StatusUnprocessableEntity
	case "witness.too-many":
		status = http.StatusServiceUnavailable
	}
	return say(status, refused.Error())
}

// Seen is the newest checkpoint that this region has cosigned of a log, by the
// path below the monitoring prefix: <sha256 hex of the origin>/checkpoint.
func (s *Service) Seen(from, path string) Answer {
	if !s.rates.allow(from, s.cfg.Now()) {
		return say(http.StatusTooManyRequests, "this witness was asked too often; ask again in a second")
	}
	keys, v := s.cfg.Keys(), s.cfg.Log.View()
	if keys == nil {
		return say(http.StatusServiceUnavailable, "this node does not hold the region's witness key: voters do")
	}
	for _, w := range v.WitnessedLogs() {
		if ledger.MonitorPath(w.Origin) != path {
			continue
		}
		note, err := ledger.ParseSignedCheckpoint([]byte(w.Note))
		if err == nil {
			// The view and its time are of one moment: then, this was the largest.
			var line ledger.Signature
			if line, err = keys.witness.Cosign(note.Unverified(), v.Time()); err == nil {
				note, err = note.With(line)
			}
		}
		if err != nil {
			return say(http.StatusInternalServerError, err.Error())
		}
		return Answer{http.StatusOK, plain, note.Encode()}
	}
	return say(http.StatusNotFound, "this witness has seen no such log")
}

// The rate at which one asker may ask, and how many at once.
const (
	askRate  = 10 // a second
	askBurst = 40
	askersAt = 1024
)

// rates is a bucket for each asker. Its zero value is ready.
type rates struct {
	mu      sync.Mutex
	buckets map[string]bucket // guarded by mu
}

type bucket struct {
	left float64
	at   time.Time
}

func (r *rates) allow(from string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.buckets[from]
	if !ok {
		if r.buckets == nil || len(r.buckets) >= askersAt {
			r.buckets = map[string]bucket{}
		}
		b = bucket{left: askBurst, at: now}
	}
	b.left = min(askBurst, b.left+max(0, now.Sub(b.at).Seconds())*askRate)
	b.at = now
	allowed := b.left >= 1
	if allowed {
		b.left--
	}
	r.buckets[from] = b
	return allowed
}
