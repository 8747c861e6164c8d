package witness

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// The statuses of https://c2sp.org/tlog-witness, with the bytes of its requests.
func TestAWitnessAnswersAsTheProtocolSays(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	first := fra.sign()
	a := ber.answers(200, fra, fra.request(0))
	note, err := ledger.ParseSignedCheckpoint([]byte(first.Note))
	w.must(err)
	line, err := ledger.AcceptCosignature(fra.target("ber-1").Key, note.Unverified(), a.Body)
	w.must(err)
	if at, _ := line.Stamp(); !at.Equal(ber.View().Time()) {
		t.Errorf("the cosignature is dated %s, the commit %s", at, ber.View().Time())
	}
	ber.answers(200, fra, fra.request(first.Size)) // said again

	fra.grow(3)
	second := fra.sign()
	a = ber.answers(409, fra, fra.request(first.Size-1))
	if size, err := ledger.ParseSize(a.Body); err != nil || size != first.Size {
		t.Errorf("it says it has seen %d, %v; it has seen %d", size, err, first.Size)
	}
	ber.answers(409, fra, fra.request(0))
	ber.answers(400, fra, []byte("old 1\n"))
	ber.answers(400, fra, nil)
	ber.answers(400, fra, ber.body(note, first.Size+1)) // a log shrinks
	wrong := fra.request(first.Size)
	i := slices.Index(wrong, '\n') + 2
	wrong[i] ^= 1 // another letter of the proof's first hash
	if a := ber.service.Answer(t.Context(), "region:x", wrong); a.Status != 422 && a.Status != 400 {
		t.Errorf("a wrong proof: %d", a.Status)
	}
	forged, err := ledger.NewSignedCheckpoint(ledger.Checkpoint{Origin: note.Unverified().Origin, Size: second.Size}, note.Signatures()...)
	w.must(err)
	ber.answers(403, fra, ber.bodyOf(forged, first.Size))
	w.regions["waw-1"] = w.found("waw-1", must(NewKeys("waw-1", testMesh, nil)))
	waw := w.regions["waw-1"]
	waw.sign()
	ber.answers(404, waw, waw.request(0))
	ber.answers(200, fra, fra.request(first.Size))
	if got := ber.View().Witnessed(note.Unverified().Origin).Size; got != second.Size {
		t.Errorf("it keeps size %d, it cosigned %d", got, second.Size)
	}
	seen := ber.service.Seen("x", ledger.MonitorPath(note.Unverified().Origin))
	if c, err := ledger.ParseSignedCheckpoint(seen.Body); seen.Status != 200 || err != nil || c.Unverified().Size != second.Size || len(c.Signatures()) != 2 {
		t.Errorf("what it has seen: %d %s", seen.Status, seen.Body)
	}
	if seen := ber.service.Seen("x", ledger.MonitorPath("nobody")); seen.Status != 404 {
		t.Errorf("a log that nobody knows: %d", seen.Status)
	}
}

// bodyOf is a request without a proof.
func (s *side) bodyOf(note *ledger.SignedCheckpoint, old uint64) []byte {
	s.w.t.Helper()
	body, err := (&ledger.AddCheckpoint{OldSize: old, Checkpoint: note}).Encode()
	s.w.must(err)
	return body
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Nothing is cosigned that could not be committed first.
func TestAWitnessWritesDownBeforeItAnswers(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	fra.sign()
	ber.stuck = errors.New("no quorum")
	if a := ber.answers(503, fra, fra.request(0)); strings.Contains(string(a.Body), "— ") {
		t.Errorf("it cosigned what it did not keep: %s", a.Body)
	}
	ber.stuck = nil
	ber.keys = nil // a standby
	ber.answers(503, fra, fra.request(0))
}

// A log that goes on from an old backup is refused by the witness, and the
// region that did it signs no more.
func TestAForkIsRefusedAndStopsSigning(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	fra.sign()
	w.must(fra.ask("ber-1"))
	fra.grow(5)
	fra.sign()
	w.must(fra.ask("ber-1"))
	old := fra.View().Checkpoints()[0].Size

	// The same region, founded from a backup: same keys, another history.
	again := w.found("fra-1", fra.keys)
	again.befriend(ber)
	w.regions["fra-1"] = again
	again.grow(1)
	again.sign()
	if err := again.ask("ber-1"); err == nil || !strings.Contains(err.Error(), "cosigned") {
		t.Fatalf("a witness that has seen more: %v", err)
	}
	if why := again.service.Status().Problem; !strings.Contains(why, "set back") || strings.Contains(why, "\n") {
		t.Errorf("status says %q", why)
	}
	signed := again.View().Checkpoints()[0].Size
	again.grow(int(old) + 3) // beyond what was witnessed
	w.must(again.service.sign(t.Context()))
	if got := again.View().Checkpoints()[0].Size; got != signed {
		t.Errorf("it signed %d leaves of another history", got)
	}
	again.service.look(t.Context())
	if got, _ := again.service.check(t.Context(), again.target("ber-1")); got != contrary {
		t.Errorf("larger than what was witnessed, and other: verdict %d", got)
	}
	// Even if it signed: the witness does not cosign.
	again.service.clear(again.target("ber-1").Name())
	again.sign()
	w.now = w.now.Add(time.Minute)
	if err := again.ask("ber-1"); err == nil {
		t.Error("the witness cosigned a fork")
	}
	if got := ber.View().Witnessed("fra-1." + testMesh + "/ledger").Size; got != old {
		t.Errorf("the witness went from %d to %d", old, got)
	}
	// An operator who drops the witness takes its word away.
	again.apply(state.LeavePeer{Region: "ber-1"})
	again.service.look(t.Context())
	if again.service.halted() {
		t.Error("it is halted by nobody")
	}
}

// Witnesses that answer late, twice, of another size, in another's name, or not
// at all: none of it is committed, and none stops the region from signing but
// one that contradicts without showing why.
func TestWitnessesThatAnswerWrongly(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1", "waw-1")
	fra := w.regions["fra-1"]
	fra.sign()
	w.must(fra.ask("waw-1"))
	var last []byte
	for _, test := range []struct {
		name string
		lie  func(path string, truth Answer) (Answer, error)
		want string // in the error
		halt bool
	}{
		{"nothing comes", func(string, Answer) (Answer, error) { return Answer{}, errors.New("no route") }, "no route", false},
		{"twice", func(_ string, a Answer) (Answer, error) { a.Body = append(a.Body, a.Body...); return a, nil }, "twice", false},
		{"for the size before", func(_ string, a Answer) (Answer, error) {
			was := last
			last = a.Body
			if was == nil {
				return Answer{}, errors.New("not yet")
			}
			a.Body = was
			return a, nil
		}, "", false},
		{"no line", func(_ string, a Answer) (Answer, error) { a.Body = nil; return a, nil }, "ber-1", false},
		{"a conflict without a size", func(string, Answer) (Answer, error) { return say(409, "no"), nil }, "without saying", false},
		{"a conflict that is none", func(string, Answer) (Answer, error) { return conflict(0), nil }, "", false},
		{"500", func(string, Answer) (Answer, error) { return say(500, "down"), nil }, "500", false},
		{"a size that nobody signed, and the truth on its page", func(path string, a Answer) (Answer, error) {
			if path == "add-checkpoint" {
				return conflict(1 << 40), nil
			}
			return a, nil
		}, "is wrong", false},
		{"422, and no page", func(path string, a Answer) (Answer, error) {
			if path == "add-checkpoint" {
				return say(422, "this is a fork"), nil
			}
			return say(404, "no page"), nil
		}, "this is a fork", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.now = w.now.Add(time.Minute)
			fra.lies = nil
			w.must(fra.ask("ber-1")) // it is where we are
			fra.grow(2)
			before := fra.sign()
			fra.lies = func(_ Target, path string, _ []byte, truth Answer) (Answer, error) { return test.lie(path, truth) }
			err := fra.ask("ber-1")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if c := fra.View().Checkpoints()[0]; c.Size != before.Size || slices.Contains(c.Witnesses, "ber-1."+testMesh+"/witness") {
				t.Errorf("the checkpoint of %d leaves is cosigned by %v", c.Size, c.Witnesses)
			}
			if got := fra.service.halted(); got != test.halt {
				t.Errorf("halted: %v", got)
			}
			fra.lies = nil
		})
	}
	w.now = w.now.Add(time.Minute)
	if err := fra.ask("ber-1"); err != nil || fra.service.halted() {
		t.Errorf("a witness that comes to its senses: %v", err)
	}
}

// A full disk stops signing, says so, and nothing else; then it goes on.
func TestAFullDiskStopsSigningAlone(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra := w.regions["fra-1"]
	c := fra.sign()
	fra.grow(2)
	fra.room = errors.New("the disk has 3 MiB left")
	err := fra.service.sign(t.Context())
	fra.service.noteHitch(err)
	if err == nil || !strings.Contains(fra.service.Status().Problem, "3 MiB") {
		t.Errorf("%v; status: %+v", err, fra.service.Status())
	}
	fra.grow(1) // placing goes on
	if got := fra.View().Checkpoints()[0].Size; got != c.Size {
		t.Errorf("it signed %d leaves", got)
	}
	fra.room = nil
	if got := fra.sign(); got.Size != fra.View().LedgerSize() {
		t.Errorf("with room again: %d of %d leaves", got.Size, fra.View().LedgerSize())
	}
	fra.service.noteHitch(nil)
	if p := fra.service.Status().Problem; p != "" {
		t.Errorf("status still says %q", p)
	}
}

// The leader signs under its own key only: a file of another region's is no key.
func TestAnotherKeySignsNothing(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra := w.regions["fra-1"]
	fra.keys = must(NewKeys("fra-1", testMesh, nil))
	if err := fra.service.sign(t.Context()); err == nil || len(fra.View().Checkpoints()) != 0 {
		t.Errorf("it signed with a key that nobody knows: %v", err)
	}
}

// After a recovery the log is another one, under the same key.
func TestANewLogIsSignedAndWitnessedUnderItsOwnOrigin(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	old := fra.sign()
	w.must(fra.ask("ber-1"))
	fra.files = must(store0())
	fra.apply(state.RestartLog{Previous: old.Note})
	fra.grow(1)
	c := fra.sign()
	if !strings.HasPrefix(c.Note, "fra-1."+testMesh+"/ledger/2\n") {
		t.Fatalf("the new log signs %q", c.Note)
	}
	w.must(fra.ask("ber-1"))
	if got := ber.View().Witnessed("fra-1." + testMesh + "/ledger/2"); got == nil || got.Size != c.Size {
		t.Errorf("the witness knows %+v of the new log", got)
	}
	if got := ber.View().Witnessed("fra-1." + testMesh + "/ledger"); got == nil || got.Size != old.Size {
		t.Errorf("and %+v of the old one", got)
	}
}

func TestWhoAsksTooOftenWaits(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	ber := w.regions["ber-1"]
	statuses := map[int]int{}
	for range askBurst + 5 {
		statuses[ber.service.Answer(t.Context(), "anonymous", []byte("x")).Status]++
	}
	if statuses[429] != 5 || statuses[400] != askBurst {
		t.Errorf("answers: %v", statuses)
	}
	if a := ber.service.Answer(t.Context(), "region:fra-1", []byte("x")); a.Status != 400 {
		t.Errorf("another asker is answered %d", a.Status)
	}
	w.now = w.now.Add(time.Second)
	if a := ber.service.Answer(t.Context(), "anonymous", []byte("x")); a.Status != 400 {
		t.Errorf("a second later: %d", a.Status)
	}
}

func TestKeysAreReadAsWritten(t *testing.T) {
	keys := must(NewKeys("fra-1", testMesh, nil))
	again, err := ParseKeys(keys.Marshal())
	if err != nil || string(again.Marshal()) != string(keys.Marshal()) || !again.Of("fra-1", testMesh) || again.Of("ber-1", testMesh) {
		t.Fatalf("%v", err)
	}
	data := string(keys.Marshal())
	for _, bad := range []string{"", data[1:], data + "\n", data + data, strings.Replace(data, "\n", "", 1), strings.ToUpper(data)} {
		if _, err := ParseKeys([]byte(bad)); err == nil {
			t.Errorf("accepted %d bytes", len(bad))
		} else if len(bad) > 40 && strings.Contains(err.Error(), data[60:90]) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	w := newWorld(f, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	fra.sign()
	f.Add(fra.request(0))
	w.must(fra.ask("ber-1"))
	fra.grow(4)
	fra.sign()
	good := fra.request(lastSeen(fra.View(), fra.target("ber-1").Name()))
	f.Add(good)
	f.Add([]byte("old 0\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		w.now = w.now.Add(time.Second)
		a := ber.service.Answer(context.Background(), "x", body)
		switch a.Status {
		case http.StatusOK:
			if _, err := ledger.ParseSignatures(a.Body); err != nil {
				t.Errorf("200 with %q: %v", a.Body, err)
			}
		case 400, 403, 404, 422:
		case 409:
			if _, err := ledger.ParseSize(a.Body); err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}
