package receipts

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
)

func TestAThousandRequestsGiveAThousandReceipts(t *testing.T) {
	log := &aLog{}
	cfg := config(t.TempDir(), log)
	cfg.Max = 64
	k, stop := start(t, cfg)
	var mu sync.Mutex
	var ids []string
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Go(func() {
			for i := range 100 {
				e := receipt.BestEffort
				if i%10 == 0 {
					e = receipt.Required
				}
				id, err := tryAnswer(k, w*100+i, e)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	until(t, "all are in the ledger", func() bool { n, _, _, _ := log.sums(); return n == 1000 })
	stop()
	whole(t, log.segments())
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 1000 {
		t.Fatalf("%d ids of 1000 requests", n)
	}
	if _, dropped, missing, recovered := log.sums(); dropped+missing != 0 || recovered != 0 {
		t.Errorf("%d dropped, %d missing, %d recovered in a quiet run", dropped, missing, recovered)
	}
	for _, id := range ids[:50] {
		f, err := k.Find(id)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, f, log.segments())
	}
}

func TestAReceiptThatIsAlteredFails(t *testing.T) {
	log := &aLog{}
	k, stop := start(t, config(t.TempDir(), log))
	ids := []string{}
	for i := range 7 {
		ids = append(ids, answer(t, k, i, receipt.Required))
	}
	until(t, "committed", func() bool { n, _, _, _ := log.sums(); return n == 7 })
	stop()
	f, err := k.Find(ids[3])
	if err != nil {
		t.Fatal(err)
	}
	verify(t, f, log.segments())
	for i := range f.Leaf {
		bad := slices.Clone(f.Leaf)
		bad[i] ^= 1
		if receipt.VerifyInclusion(bad, f.Index, f.Count, f.Path, f.Root) == nil {
			t.Fatalf("a receipt passes with byte %d changed", i)
		}
	}
	if receipt.VerifyInclusion(f.Leaf, f.Index+1, f.Count, f.Path, f.Root) == nil {
		t.Error("a receipt passes at another index")
	}
	l, err := receipt.Decode(f.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	if l.Request != receipt.Commit(f.Key, receipt.OfRequest, []byte(`{"model":"llama-3","n":3}`)) || l.Response != receipt.Commit(f.Key, receipt.OfResponse, []byte("answer 3")) {
		t.Error("the key does not open the commitments")
	}
	if f.Owner != "acme" || l.Entry == "n1" || l.Exec == "n2" || l.Entry == "" || l.Exec == "" {
		t.Errorf("owner %q, nodes %q and %q: nodes are to be opaque, the owner known", f.Owner, l.Entry, l.Exec)
	}
}

func TestAStreamIsPromisedBeforeItsBodyAndContinuedLater(t *testing.T) {
	log := &aLog{}
	k, stop := start(t, config(t.TempDir(), log))
	ctx := context.Background()
	s := k.Begin(request(1, receipt.Required))
	id, err := s.Promise(ctx)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the promise is in the ledger", func() bool { f, err := k.Find(id); return err == nil && f.State == receipt.Committed })
	f, _ := k.Find(id)
	if l, _ := receipt.Decode(f.Leaf); l.Outcome != receipt.Open {
		t.Errorf("a stream that is not over is %s", l.Outcome)
	}
	_, _ = io.WriteString(s, "data: [DONE]\n\n")
	if again, err := s.Finish(ctx, End{At: time.Now(), Outcome: receipt.Answered, Status: 200}); err != nil || again != id {
		t.Fatalf("the id became %s: %v", again, err)
	}
	if f, err = k.Find(id); err != nil || f.Next == "" {
		t.Fatalf("the promise names no continuation: %v", err)
	}
	next := f.Next
	until(t, "the end is in the ledger", func() bool { f, err := k.Find(next); return err == nil && f.State == receipt.Committed })
	stop()
	f, _ = k.Find(next)
	l, err := receipt.Decode(f.Leaf)
	if err != nil || l.Continues != id || l.Outcome != receipt.Answered || l.Response != receipt.Commit(f.Key, receipt.OfResponse, []byte("data: [DONE]\n\n")) {
		t.Fatalf("the end is %+v: %v", l, err)
	}
	verify(t, f, log.segments())
	whole(t, log.segments())
}

func TestWithoutALedgerRequiredEvidenceHoldsBackAndBestEffortIsCounted(t *testing.T) {
	log := &aLog{}
	cfg := config(t.TempDir(), log)
	cfg.Backlog = 2
	k, _ := start(t, cfg)
	answer(t, k, 0, receipt.Required)
	log.fail(errors.New("no leader"))
	until(t, "back-pressure", func() bool {
		_, err := tryAnswer(k, 1, receipt.Required)
		var busy *Busy
		if err != nil && (!errors.As(err, &busy) || busy.RetryAfter <= 0) {
			t.Fatalf("the error is %v", err)
		}
		return err != nil
	})
	for i := range 5 {
		if _, err := tryAnswer(k, i, receipt.BestEffort); !errors.Is(err, ErrDropped) {
			t.Fatalf("best effort was not dropped: %v", err)
		}
	}
	log.fail(nil)
	until(t, "the drops are in the ledger", func() bool { _, d, _, _ := log.sums(); return d == 5 })
	whole(t, log.segments())
}

// What is too old, or too much, is erased, the oldest first: its receipts are said
// to be erased, never missing. What is not committed yet stays whatever its age,
// and the newest file, by which the next start knows that nothing was lost.
func TestTheOldestReceiptsAreErased(t *testing.T) {
	for name, bound := range map[string]func(*Config){
		"by age": func(c *Config) {
			c.KeepFor, c.Now = time.Hour, func() time.Time { return time.Now().Add(2 * time.Hour) }
		},
		"by bytes": func(c *Config) { c.KeepBytes = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			log, dir := &aLog{}, t.TempDir()
			cfg := config(dir, log)
			bound(&cfg)
			k, stop := start(t, cfg)
			var ids []string
			for i := range 4 {
				ids = append(ids, answer(t, k, i, receipt.Required))
				until(t, "it is committed", func() bool { n, _, _, _ := log.sums(); return n == uint64(i+1) })
				until(t, "and that is noted", func() bool { f, err := k.Find(ids[i]); return err == nil && f.State == receipt.Committed })
			}
			log.fail(errors.New("no leader"))
			for i := range 3 {
				ids = append(ids, answer(t, k, 4+i, receipt.Required))
				until(t, "its segment is closed", func() bool { return k.Stats().Waiting == i+1 })
			}
			k.sweep()
			states := func() (out []receipt.State) {
				for _, id := range ids {
					f, err := k.Find(id)
					if err != nil {
						t.Fatalf("%s: %v", id, err)
					}
					out = append(out, f.State)
				}
				return out
			}
			got := states()
			if got[0] != receipt.Erased || got[1] != receipt.Erased || slices.Contains(got, receipt.Missing) ||
				!slices.Equal(got[4:], []receipt.State{receipt.Promised, receipt.Promised, receipt.Promised}) {
				t.Fatalf("after a sweep the receipts are %v", got)
			}
			if _, err := k.Segment(2, nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an erased segment for a pack: %v", err)
			}
			log.fail(nil)
			until(t, "the rest is committed", func() bool { n, _, _, _ := log.sums(); return n == 7 })
			until(t, "and that is noted", func() bool { return k.Stats().Waiting == 0 })
			k.sweep()
			if got = states(); got[4] != receipt.Erased || got[6] != receipt.Committed {
				t.Errorf("once all are committed the receipts are %v", got)
			}
			stop()
			k.sweep() // with no open segment the newest file still stays
			n := len(log.segments())
			again, _ := start(t, config(dir, log))
			until(t, "the chain goes on", func() bool { return again.Chain() != "" })
			if _, _, missing, _ := log.sums(); missing != 0 || len(log.segments()) != n {
				t.Errorf("a start after a sweep finds %d missing, in %d segments of %d", missing, len(log.segments()), n)
			}
		})
	}
}

func TestConfigSaysAllThatIsWrong(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Fatal("an empty configuration was taken")
	}
}

func BenchmarkReceipt(b *testing.B) {
	k, _ := start(b, func() Config { c := config(b.TempDir(), &aLog{}); c.Every = time.Second; return c }())
	answer(b, k, 0, receipt.BestEffort)
	body := []byte(`{"model":"llama-3","messages":[{"role":"user","content":"Hello"}]}`)
	b.ReportAllocs()
	before := processorTime(b)
	for b.Loop() {
		r := Begin{Owner: "acme", RequestID: "req_0123456789abcdef01234567", Model: "llama-3", Tag: "EEA", Entry: "n1", Start: time.Now(), Body: body}
		s := k.Begin(r)
		_, _ = s.Write(body)
		if _, err := s.Finish(context.Background(), End{Exec: "n2", Region: "eu", At: time.Now(), Outcome: receipt.Answered, Status: 200}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// processorTime is what the process has used of all processors: on a machine
// that does something else too, wall time says less.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRequired is how long answers wait for the disk, 64 at a time.
func BenchmarkRequired(b *testing.B) {
	cfg := config(b.TempDir(), &aLog{})
	cfg.Every = time.Second
	k, _ := start(b, cfg)
	answer(b, k, 0, receipt.Required)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := tryAnswer(k, i, receipt.Required); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
