package witness

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	formatslog "github.com/transparency-dev/formats/log"
	formatsnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// served is a region's witness over HTTP, as node/api serves it, one request at
// a time.
func served(w *world, s *side) *httptest.Server {
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.now = w.now.Add(time.Second)
		body, err := io.ReadAll(io.LimitReader(r.Body, MaxRequest))
		if err != nil || r.URL.Path != "/witness/add-checkpoint" {
			http.NotFound(rw, r)
			return
		}
		a := s.service.Answer(r.Context(), "anonymous", body)
		rw.Header().Set("Content-Type", a.Type)
		rw.WriteHeader(a.Status)
		_, _ = rw.Write(a.Body)
	}))
	w.t.Cleanup(server.Close)
	return server
}

// Tessera has the log that it writes witnessed by this region, over HTTP: its
// feeder builds the requests and proofs, and publishes nothing that is not
// cosigned. Then it starts again on the same files, and goes on.
func TestTesseraIsWitnessedByThisRegion(t *testing.T) {
	w := newWorld(t, "ber-1")
	ber := w.regions["ber-1"]
	origin := state.LogOrigin("tes-1", testMesh, 0)
	key := must(ledger.NewSigner(origin, sha256.Sum256([]byte("tessera"))))
	_, theirs := must(NewKeys("tes-1", testMesh, nil)).Public()
	ber.apply(state.PutPeer{Region: placement.Region{ID: "tes-1", Mesh: testMesh, Facts: placement.RegionFacts{Country: "NL"}, Bundle: []byte("{}"), Fingerprint: "tes-1", LogKey: key.Verifier().String(), WitnessKey: theirs}})
	ber.apply(state.ApprovePeer{Region: "tes-1", Fingerprint: "tes-1"})
	server := served(w, ber)
	_, witnessKey := ber.keys.Public()
	group := tessera.NewWitnessGroup(1, must(tessera.NewWitness(witnessKey, must(url.Parse(server.URL+"/witness")))))
	dir := t.TempDir()
	var last []byte
	for run := range 2 {
		driver := must(posix.New(t.Context(), posix.Config{Path: dir}))
		opts := tessera.NewAppendOptions().WithCheckpointSigner(must(note.NewSigner(key.Secret()))).WithBatching(32, 10*time.Millisecond).
			WithCheckpointInterval(100*time.Millisecond).WithWitnesses(group, nil)
		appender, shutdown, reader, err := tessera.NewAppender(t.Context(), driver, opts)
		w.must(err)
		await := tessera.NewPublicationAwaiter(t.Context(), reader.ReadCheckpoint, 10*time.Millisecond)
		for i := range 3 {
			_, signed, err := await.Await(t.Context(), appender.Add(t.Context(), tessera.NewEntry(fmt.Appendf(nil, "entry %d of run %d", i, run))))
			w.must(err)
			last = signed
		}
		w.must(shutdown(t.Context()))
	}
	c, _, n, err := formatslog.ParseCheckpoint(last, origin, must(note.NewVerifier(key.Verifier().String())), must(formatsnote.NewVerifierForCosignatureV1(witnessKey)))
	w.must(err)
	if c.Size != 6 || len(n.Sigs) != 2 {
		t.Errorf("Tessera published %d leaves under %d signatures", c.Size, len(n.Sigs))
	}
	if seen := ber.View().Witnessed(origin); seen == nil || seen.Size != c.Size {
		t.Errorf("this region keeps %+v of it", seen)
	}
}

// The exchange to the byte, as https://c2sp.org/tlog-witness writes it: what is
// sent, what the answers look like on the wire, and with which media type.
func TestTheWitnessProtocolOnTheWire(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	server := served(w, ber)
	first := fra.sign()
	fra.grow(3)
	body := string(fra.request(first.Size)) // of a log of which the witness has seen nothing
	if want := fmt.Sprintf("old %d\n", first.Size); !strings.HasPrefix(body, want) {
		t.Fatalf("the request begins %q", body)
	}
	post := func(body string) (status int, kind, answer string) {
		t.Helper()
		res, err := http.Post(server.URL+"/witness/add-checkpoint", "text/plain", strings.NewReader(body))
		w.must(err)
		defer res.Body.Close()
		data := must(io.ReadAll(res.Body))
		return res.StatusCode, res.Header.Get("Content-Type"), string(data)
	}
	text := first.Note
	if status, kind, answer := post("old 7\n\n" + text); status != 409 && status != 400 || status == 409 && (kind != "text/x.tlog.size" || answer != "0\n") {
		t.Errorf("another size: %d %s %q", status, kind, answer)
	}
	status, _, answer := post("old 0\n\n" + text)
	line, ok := strings.CutSuffix(answer, "\n")
	if status != 200 || !ok || !strings.HasPrefix(line, "— ber-1."+testMesh+"/witness ") || strings.Contains(line, "\n") {
		t.Errorf("a good request: %d %q", status, answer)
	}
	if status, kind, answer := post("old 0\n\n" + text); status != 409 || kind != "text/x.tlog.size" || answer != fmt.Sprintf("%d\n", first.Size) {
		t.Errorf("from a size that it is beyond: %d %s %q", status, kind, answer)
	}
	for _, bad := range []struct {
		body string
		want int
	}{
		{"old 00\n\n" + text, 400},
		{"old 0\n" + text, 400},
		{"old 0\r\n\r\n" + text, 400},
		{"old 0\n\n", 400},
		{"old 0\nAAAA\n\n" + text, 400},
		{"old 0\n\n" + strings.Replace(text, "/ledger\n", "/ledger/9\n", 1), 403}, // a log begun anew has the same key
		{"old 0\n\n" + strings.Replace(text, "/ledger\n", "/ledgers\n", 1), 404},
	} {
		if status, _, answer := post(bad.body); status != bad.want || strings.Contains(answer, "— ") {
			t.Errorf("%q: %d %q, want %d", bad.body[:20], status, answer, bad.want)
		}
	}
}

// Every no of a witness has a message of its own that names what to do.
func TestEachRefusalHasItsMessage(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra := w.regions["fra-1"]
	fra.sign()
	said := map[string]int{}
	for status, want := range map[int]string{
		302: "address that it has now", 400: "answers 400", 403: "another key", 404: "does not know the log fra-1." + testMesh + "/ledger ",
		422: "does not extend", 429: "less often", 503: "answers 503",
	} {
		fra.lies = func(_ Target, path string, _ []byte, truth Answer) (Answer, error) {
			if path == "add-checkpoint" {
				return say(status, "no"), nil
			}
			return truth, nil
		}
		err := fra.ask("ber-1")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %q", status, err, want)
			continue
		}
		if was, twice := said[err.Error()]; twice {
			t.Errorf("%d says what %d says: %v", status, was, err)
		}
		said[err.Error()] = status
		fra.service.clear(fra.target("ber-1").Name())
	}
}

// A witness that was itself set back: it is shown the way from what it knows
// now, cosigns again, what it cosigned before stays, and it is counted.
func TestAWitnessThatWasSetBack(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	fra.sign()
	w.must(fra.ask("ber-1"))
	backup := ber.state.Freeze().Witnessed(fra.View().LogOrigin()).Size
	fra.grow(4)
	middle := fra.sign()
	w.must(fra.ask("ber-1"))
	fra.grow(4)
	last := fra.sign()

	// The witness's region is restored to what it was: same keys, same peers, and
	// the first checkpoint as the last that it saw.
	again := w.found("ber-1", ber.keys)
	again.befriend(fra)
	w.regions["ber-1"] = again
	old := fra.View().Checkpoints()[len(fra.View().Checkpoints())-1]
	again.answers(200, fra, again.body(must(ledger.ParseSignedCheckpoint([]byte(old.Note))), 0))
	if again.View().Witnessed(fra.View().LogOrigin()).Size != backup {
		t.Fatal("the witness was not set back")
	}
	w.now = w.now.Add(time.Minute)
	w.must(fra.ask("ber-1"))
	name := fra.target("ber-1").Name()
	for _, c := range fra.View().Checkpoints() {
		if (c.Size == middle.Size || c.Size == last.Size) && (len(c.Witnesses) != 1 || c.Witnesses[0] != name) {
			t.Errorf("%d leaves are cosigned by %v", c.Size, c.Witnesses)
		}
	}
	s := fra.service.Status()
	if s.Problem != "" || len(s.Witnesses) != 1 || s.Witnesses[0].SetBack != 1 || s.Witnesses[0].Size != last.Size {
		t.Errorf("status: %+v", s)
	}
	fra.grow(1)
	fra.sign()
	w.must(fra.ask("ber-1"))
	if s := fra.service.Status(); s.Witnesses[0].SetBack != 1 {
		t.Errorf("counted %d times", s.Witnesses[0].SetBack)
	}
}

// An answer that comes too late is none: the deadline is this region's.
func TestALateAnswerIsNone(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra := w.regions["fra-1"]
	fra.sign()
	fra.service.cfg.AskWithin = 20 * time.Millisecond
	fra.service.cfg.Transport = late{}
	if err := fra.ask("ber-1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if c := fra.View().Checkpoints()[0]; len(c.Witnesses) != 0 || fra.service.halted() {
		t.Errorf("cosigned by %v", c.Witnesses)
	}
}

// late answers when nobody waits any more.
type late struct{}

func (late) Post(ctx context.Context, _ Target, _ string, _ []byte) (Answer, error) {
	<-ctx.Done()
	return Answer{}, context.Cause(ctx)
}

func (late) Get(ctx context.Context, _ Target, _ string) (Answer, error) {
	<-ctx.Done()
	return Answer{}, context.Cause(ctx)
}
