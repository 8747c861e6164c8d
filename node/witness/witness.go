// Package witness keeps the region's log signed and witnessed, and is a witness
// to the logs of other regions.
//
// Three rules hold. Signing never delays or decides a placement: it happens
// outside of Apply, on the leader, and whatever goes wrong with it is told and
// tried again. Nothing is signed that does not extend what a witness has shown
// to be signed before; whoever restores an old backup finds out here. And as a
// witness, this region commits what it has seen through raft before it cosigns,
// so that no restart and no other voter can be made to forget.
//
// The protocol is https://c2sp.org/tlog-witness. node wires it: consensus for
// what is committed, the endpoint for peers, HTTP for outside witnesses; node/api
// serves [Service.Answer] and [Service.Seen].
package witness

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Log is the region's replicated state.
type Log interface {
	// Propose commits a command; the view contains it then. A refusal is an error
	// of type *state.Refused, or part of the result.
	Propose(ctx context.Context, cmd state.Command, actor string) (state.Result, error)
	View() *state.View
	Wait(ctx context.Context, after uint64) (*state.View, error)
	// ReadIndex is an index that every acknowledged write is at or below.
	ReadIndex(ctx context.Context) (uint64, error)
}

// Target is a witness of this region's log.
type Target struct {
	Key *ledger.Verifier
	// Region is a peer's, to be reached over mutual TLS; URL, of an outside
	// witness, is the prefix of its addresses. One of them is empty.
	Region placement.RegionID
	URL    string
}

// Name is the name of its key.
func (t Target) Name() string { return t.Key.Name() }

// Answer is an answer of the protocol: status, media type and body of HTTP.
type Answer struct {
	Status int
	Type   string
	Body   []byte
}

// Transport reaches witnesses. The path is relative to the witness's prefix. An
// answer of any status is no error.
type Transport interface {
	Post(ctx context.Context, t Target, path string, body []byte) (Answer, error)
	Get(ctx context.Context, t Target, path string) (Answer, error)
}

// Config is what a [Service] is built from.
type Config struct {
	// Actor is the name under which this node proposes.
	Actor string
	Log   Log
	// Keys are the region's, nil on a node that does not hold them.
	Keys func() *Keys
	// Tiles are this replica's ledger on disk, nil until it is open.
	Tiles func() ledger.TileReader
	// Room says why nothing should be signed for lack of room on the disk; nil
	// if there is enough. Signing ends long before placing has to.
	Room      func() error
	Transport Transport
	// Outside is an outside witness of this node's configuration, "VKEY URL": it
	// is put into the region's state if it is not there. Empty means none.
	Outside string
	Now     func() time.Time
	Logger  *slog.Logger

	// SignEvery is how often the log is signed while it grows.
	SignEvery time.Duration
	// RetryMin and RetryMax bound the pause after a witness that did not cosign.
	RetryMin, RetryMax time.Duration
	// AskWithin bounds one question to a witness, ProposeWithin one command.
	AskWithin, ProposeWithin time.Duration
	// LookEvery is how often witnesses are asked for what they have seen of this
	// log; LookWithin is how long a new leader waits for all their answers
	// before it signs without them.
	LookEvery, LookWithin time.Duration
}

// DefaultConfig has the timings.
func DefaultConfig() Config {
	return Config{
		SignEvery: time.Second, RetryMin: time.Second, RetryMax: time.Minute, AskWithin: 5 * time.Second,
		ProposeWithin: 10 * time.Second, LookEvery: time.Minute, LookWithin: 5 * time.Second,
	}
}

// Validate reports what is missing.
func (c Config) Validate() error {
	var errs []error
	if c.Log == nil || c.Keys == nil || c.Tiles == nil || c.Transport == nil || c.Now == nil || c.Logger == nil {
		errs = append(errs, errors.New("witness: Log, Keys, Tiles, Transport, Now and the logger must be given"))
	}
	if c.SignEvery <= 0 || c.RetryMin <= 0 || c.RetryMax < c.RetryMin || c.AskWithin <= 0 || c.ProposeWithin <= 0 || c.LookEvery <= 0 || c.LookWithin <= 0 {
		errs = append(errs, errors.New("witness: the intervals must be positive: begin with DefaultConfig"))
	}
	if c.Outside != "" {
		_, _, err := ParseOutside(c.Outside)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ParseOutside reads "VKEY URL": an outside witness as operators write it.
func ParseOutside(text string) (key *ledger.Verifier, url string, err error) {
	words := strings.Fields(text)
	if len(words) != 2 {
		return nil, "", errors.New("an outside witness is written as its verifier key, a space, and the address that add-checkpoint is below")
	}
	if key, err = ledger.ParseVerifier(words[0]); err != nil {
		return nil, "", err
	}
	if key.Algorithm() == ledger.Ed25519 {
		return nil, "", errors.New("the key of " + key.Name() + " is that of a log; a witness cosigns, with a key of type 0x04 or 0x06")
	}
	if !strings.HasPrefix(words[1], "https://") && !strings.HasPrefix(words[1], "http://") {
		return nil, "", errors.New("the address of witness " + key.Name() + " begins with https://")
	}
	return key, strings.TrimSuffix(words[1], "/"), nil
}

// Service signs, asks and answers. It is safe for concurrent use.
type Service struct {
	cfg   Config
	rates rates

	mu sync.Mutex
	// halts are the witnesses that have shown, or say, that this log was signed
	// otherwise, and what they say; guarded by mu, as is all below.
	halts map[string]string
	// said is the last trouble with each witness, empty for none.
	said map[string]string
	// setBack is how often each witness had forgotten what it cosigned.
	setBack map[string]int
	// forks are the last words about each log that this region would not cosign;
	// of logs that it knows alone.
	forks map[string]string
	// hitch is what keeps this node from signing apart from halts.
	hitch string
}

// New builds a service and starts nothing.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, halts: map[string]string{}, said: map[string]string{}, setBack: map[string]int{}, forks: map[string]string{}}, nil
}

// Run puts the configured outside witness into the state, and asks the witnesses
// now and then what they have seen of this log, on every voter. It ends with ctx.
func (s *Service) Run(ctx context.Context) error {
	if s.cfg.Outside != "" {
		s.putOutside(ctx)
	}
	for ctx.Err() == nil {
		s.look(ctx)
		wait := s.cfg.LookEvery
		if s.halted() {
			wait = min(wait, 10*s.cfg.RetryMin)
		}
		pause(ctx, wait)
	}
	return nil
}

// putOutside proposes the configured witness until it is there. One that an
// operator drops later stays dropped until this node starts again.
func (s *Service) putOutside(ctx context.Context) {
	key, url, err := ParseOutside(s.cfg.Outside)
	for err == nil && ctx.Err() == nil {
		v := s.cfg.Log.View()
		for _, w := range v.Witnesses() {
			if w.Key == key.String() && w.URL == url {
				return
			}
		}
		if v.Self() != nil {
			perr := s.propose(ctx, state.PutWitness{Key: key.String(), URL: url})
			if refused := new(state.Refused); errors.As(perr, &refused) {
				s.cfg.Logger.Error("the outside witness of this node's configuration was refused", "witness", key.Name(), "err", perr)
				return
			}
		}
		pause(ctx, s.cfg.RetryMin)
	}
}

// Lead signs the log and has it witnessed, for as long as this node leads.
func (s *Service) Lead(ctx context.Context) {
	s.look(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { s.court(ctx) })
	for ctx.Err() == nil {
		s.noteHitch(s.sign(ctx))
		pause(ctx, s.cfg.SignEvery)
	}
	s.noteHitch(nil)
}

// propose commits a command within the bound.
func (s *Service) propose(ctx context.Context, cmd state.Command) error {
	_, err := s.commit(ctx, cmd)
	return err
}

func (s *Service) commit(ctx context.Context, cmd state.Command) (state.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ProposeWithin)
	defer cancel()
	res, err := s.cfg.Log.Propose(ctx, cmd, s.cfg.Actor)
	if err == nil {
		err = res.Err()
	}
	return res, err
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
