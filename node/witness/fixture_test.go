package witness

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

const testMesh = "mesh.test"

var testDay = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is regions that witness each other, without a network: raft is the state
// machine itself, and a second passes with every command.
type world struct {
	t       testing.TB
	now     time.Time
	regions map[placement.RegionID]*side
}

// side is one region: state, ledger, keys and service.
type side struct {
	w       *world
	id      placement.RegionID
	keys    *Keys
	state   *state.State
	files   *store.Store
	index   uint64
	service *Service
	room    error
	stuck   error // what Propose gives, if set
	// lies replaces the answers of other regions to this one, if set.
	lies func(t Target, path string, body []byte, truth Answer) (Answer, error)
}

func newWorld(t testing.TB, ids ...placement.RegionID) *world {
	w := &world{t: t, now: testDay, regions: map[placement.RegionID]*side{}}
	for _, id := range ids {
		keys, err := NewKeys(id, testMesh, nil)
		w.must(err)
		w.regions[id] = w.found(id, keys)
	}
	for _, a := range w.regions {
		for _, b := range w.regions {
			if a != b {
				a.befriend(b)
			}
		}
	}
	return w
}

// found begins a region's ledger under the keys given.
func (w *world) found(id placement.RegionID, keys *Keys) *side {
	s := &side{w: w, id: id, keys: keys, state: state.New()}
	var err error
	s.files, err = store.Open(store.Memory())
	w.must(err)
	logKey, witnessKey := keys.Public()
	pack := residency.Embedded()
	s.apply(state.InitRegion{
		Region:  placement.Region{ID: id, Mesh: testMesh, Self: true, State: placement.PeerActive, Facts: placement.RegionFacts{Country: "FR"}, Bundle: []byte("{}"), Fingerprint: string(id), LogKey: logKey, WitnessKey: witnessKey},
		LawPack: pack.Tables(), Node: placement.Node{ID: "n1", Region: id, Role: placement.RoleVoter},
	})
	cfg := DefaultConfig()
	cfg.Actor, cfg.Log, cfg.Transport = "node:n1", s, s
	cfg.Keys = func() *Keys { return s.keys }
	cfg.Tiles = func() ledger.TileReader { return s.files }
	cfg.Room = func() error { return s.room }
	cfg.Now, cfg.Logger = func() time.Time { return w.now }, slog.New(slog.DiscardHandler)
	s.service, err = New(cfg)
	w.must(err)
	return s
}

func (s *side) befriend(o *side) {
	logKey, witnessKey := o.keys.Public()
	s.apply(state.PutPeer{Region: placement.Region{ID: o.id, Mesh: testMesh, Facts: placement.RegionFacts{Country: "DE"}, Bundle: []byte("{}"), Fingerprint: string(o.id), LogKey: logKey, WitnessKey: witnessKey}})
	s.apply(state.ApprovePeer{Region: o.id, Fingerprint: string(o.id)})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// apply commits a command and fails the test if it is refused.
func (s *side) apply(cmd state.Command) state.Result {
	s.w.t.Helper()
	res, err := s.Propose(context.Background(), cmd, "node:n1")
	s.w.must(err)
	s.w.must(res.Err())
	return res
}

// grow adds leaves to the log.
func (s *side) grow(n int) {
	for range n {
		s.apply(state.SetTenant{Tenant: state.Tenant{ID: "a"}})
	}
}

func (s *side) Propose(_ context.Context, cmd state.Command, actor string) (state.Result, error) {
	if s.stuck != nil {
		return state.Result{}, s.stuck
	}
	s.w.now = s.w.now.Add(time.Second)
	head := state.Head{Version: 1, Time: s.w.now, Actor: actor}
	_, _ = rand.Read(head.Salt[:])
	raw, err := state.Encode(head, cmd)
	if err != nil {
		return state.Result{}, err
	}
	s.index++
	res := s.state.Apply(s.index, raw)
	if res.Entry != nil {
		if err := s.files.Append(res.Leaf, []store.Record{{Entry: res.Entry}}); err != nil {
			return res, err
		}
	}
	return res, nil
}

func (s *side) View() *state.View { return s.state.Freeze() }

func (s *side) Wait(ctx context.Context, after uint64) (*state.View, error) {
	if s.index > after {
		return s.View(), nil
	}
	return nil, errors.New("nothing comes")
}

func (s *side) ReadIndex(context.Context) (uint64, error) { return s.index, nil }

func (s *side) Post(ctx context.Context, t Target, path string, body []byte) (Answer, error) {
	return s.reach(t, path, body, func(o *side) Answer { return o.service.Answer(ctx, "region:"+string(s.id), body) })
}

func (s *side) Get(_ context.Context, t Target, path string) (Answer, error) {
	return s.reach(t, path, nil, func(o *side) Answer { return o.service.Seen("region:"+string(s.id), path) })
}

func (s *side) reach(t Target, path string, body []byte, ask func(*side) Answer) (Answer, error) {
	var truth Answer
	if o := s.w.regions[t.Region]; o != nil {
		truth = ask(o)
	}
	if s.lies != nil {
		return s.lies(t, path, body, truth)
	}
	if truth.Status == 0 {
		return truth, io.ErrUnexpectedEOF
	}
	return truth, nil
}

// sign signs the log if it has grown, and gives the newest checkpoint.
func (s *side) sign() state.Checkpoint {
	s.w.t.Helper()
	s.w.must(s.service.sign(context.Background()))
	all := s.View().Checkpoints()
	if len(all) == 0 {
		s.w.t.Fatal("nothing was signed")
	}
	return all[0]
}

// target is another region as a witness of this one.
func (s *side) target(id placement.RegionID) Target {
	s.w.t.Helper()
	for _, t := range targets(s.View()) {
		if t.Region == id {
			return t
		}
	}
	s.w.t.Fatalf("%s is no witness of %s", id, s.id)
	return Target{}
}

// ask has the newest checkpoint cosigned by another region.
func (s *side) ask(id placement.RegionID) error {
	t := s.target(id)
	c := s.View().Checkpoints()[0]
	seen := lastSeen(s.View(), t.Name())
	return s.service.ask(context.Background(), t, c, &seen)
}

// request is an add-checkpoint body of this region's newest checkpoint.
func (s *side) request(old uint64) []byte {
	s.w.t.Helper()
	note, err := ledger.ParseSignedCheckpoint([]byte(s.View().Checkpoints()[0].Note))
	s.w.must(err)
	return s.body(note, old)
}

func (s *side) body(note *ledger.SignedCheckpoint, old uint64) []byte {
	s.w.t.Helper()
	r := ledger.AddCheckpoint{OldSize: old, Checkpoint: note}
	if newer := note.Unverified().Head(); old > 0 && old < newer.Size {
		edge, err := ledger.ReadEdge(context.Background(), s.files, old)
		s.w.must(err)
		r.Hashes, err = ledger.ProveConsistency(context.Background(), s.files, ledger.Head{Size: old, Root: edge.Root()}, newer)
		s.w.must(err)
	}
	body, err := r.Encode()
	s.w.must(err)
	return body
}

func (s *side) answers(want int, from *side, body []byte) Answer {
	s.w.t.Helper()
	s.w.now = s.w.now.Add(10 * time.Second) // nobody asks too often
	a := s.service.Answer(context.Background(), "region:"+string(from.id), body)
	if a.Status != want {
		s.w.t.Fatalf("%s answers %d %s, want %d", s.id, a.Status, strings.TrimSpace(string(a.Body)), want)
	}
	if (a.Status == http.StatusConflict) != (a.Type == ledger.SizeType) {
		s.w.t.Errorf("status %d has the type %s", a.Status, a.Type)
	}
	return a
}

func store0() (*store.Store, error) { return store.Open(store.Memory()) }
