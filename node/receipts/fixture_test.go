package receipts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// aLog keeps the rules of a chain as the state does, and what was committed.
type aLog struct {
	mu   sync.Mutex
	all  []state.CommitSegment // guarded by mu
	down error                 // guarded by mu
	to   io.Writer             // each command as a line of JSON, for another process
}

func (l *aLog) Segment(context.Context) (*state.Segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return nil, l.down
	}
	if len(l.all) == 0 {
		return nil, nil
	}
	last := l.all[len(l.all)-1]
	return &state.Segment{Node: "n1", Chain: "h:00c0ffee", Seq: last.Seq, Root: last.Root, Leaf: last.Seq + 100}, nil
}

func (l *aLog) Commit(_ context.Context, c state.CommitSegment) (state.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return state.Result{}, l.down
	}
	var last state.CommitSegment
	if len(l.all) > 0 {
		last = l.all[len(l.all)-1]
	}
	if c.Seq != last.Seq+1 || c.Prev != last.Root {
		return state.Result{Refused: &state.Refused{Code: "segment.chain", Message: fmt.Sprintf("segment %d does not follow %d", c.Seq, last.Seq)}}, nil
	}
	l.all = append(l.all, c)
	if l.to != nil {
		line, err := json.Marshal(c)
		if err != nil {
			return state.Result{}, err
		}
		if _, err := l.to.Write(append(line, '\n')); err != nil {
			return state.Result{}, err
		}
	}
	return state.Result{Leaf: c.Seq + 100}, nil
}

func (l *aLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = err
}

func (l *aLog) segments() []state.CommitSegment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]state.CommitSegment(nil), l.all...)
}

func (l *aLog) sums() (count, dropped, missing uint64, recovered int) {
	for _, s := range l.segments() {
		count, dropped, missing = count+s.Count, dropped+s.Dropped, missing+s.Missing
		if s.Recovered {
			recovered++
		}
	}
	return count, dropped, missing, recovered
}

func config(dir string, log Log) Config {
	cfg := DefaultConfig()
	cfg.Region, cfg.Node, cfg.Dir, cfg.Log = "eu", "n1", dir, log
	cfg.Every = 20 * time.Millisecond
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	return cfg
}

// start runs a keeper until stop.
func start(t testing.TB, cfg Config) (k *Keeper, stop func()) {
	t.Helper()
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return k, stop
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		<-tick.C
	}
}

func request(i int, e receipt.Evidence) Begin {
	return Begin{
		Owner: "acme", RequestID: fmt.Sprintf("req_%024d", i), Model: "llama-3", Tag: "EEA", LawPack: strings.Repeat("a", 64),
		Policy: ledger.Hash{1}, Entry: "n1", Start: time.Now(), Evidence: e, Body: []byte(fmt.Sprintf(`{"model":"llama-3","n":%d}`, i)),
	}
}

// answer takes a request through, without a promise before its end.
func answer(t testing.TB, k *Keeper, i int, e receipt.Evidence) string {
	t.Helper()
	id, err := tryAnswer(k, i, e)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func tryAnswer(k *Keeper, i int, e receipt.Evidence) (string, error) {
	s := k.Begin(request(i, e))
	if _, err := io.WriteString(s, fmt.Sprintf("answer %d", i)); err != nil {
		return "", err
	}
	return s.Finish(context.Background(), End{Exec: "n2", Region: "eu", At: time.Now(), Outcome: receipt.Answered, Status: 200})
}

// verify holds a committed receipt against what the ledger has.
func verify(t testing.TB, f *Found, segments []state.CommitSegment) {
	t.Helper()
	if f.State != receipt.Committed {
		t.Fatalf("%s is %s, expected it in the ledger", f.ID, f.State)
	}
	for _, s := range segments {
		if s.Seq == f.Seq {
			if err := receipt.VerifyInclusion(f.Leaf, f.Index, s.Count, f.Path, s.Root); err != nil {
				t.Fatalf("%s: %v", f.ID, err)
			}
			return
		}
	}
	t.Fatalf("%s: the ledger has no segment %d", f.ID, f.Seq)
}

// whole checks that segments are numbered without a gap and each names the one
// before it.
func whole(t testing.TB, segments []state.CommitSegment) {
	t.Helper()
	var prev ledger.Hash
	for i, s := range segments {
		if s.Seq != uint64(i+1) || s.Prev != prev {
			t.Fatalf("segment %d stands at %d, behind another root than it names", s.Seq, i+1)
		}
		prev = s.Root
	}
}

// openLog reads what another process committed.
func openLog(t testing.TB, path string) *aLog {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l := &aLog{}
	for line := range strings.Lines(string(data)) {
		var c state.CommitSegment
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		l.all = append(l.all, c)
	}
	return l
}
