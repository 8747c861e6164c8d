package witness

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// What is wrong with a witness's answer is said in words of its own, and the
// operator finds them in status; none of it is committed.
func TestEachWrongAnswerHasItsOwnWords(t *testing.T) {
	w := newWorld(t, "fra-1", "ber-1")
	fra, ber := w.regions["fra-1"], w.regions["ber-1"]
	fra.sign()
	w.must(fra.ask("ber-1"))
	cosigned := func(size uint64, at time.Time) []byte {
		t.Helper()
		head := fra.View().Checkpoints()[0]
		note, err := ledger.ParseSignedCheckpoint([]byte(head.Note))
		w.must(err)
		c := note.Unverified()
		c.Size = size
		line, err := ber.keys.witness.Cosign(c, at)
		w.must(err)
		return ledger.EncodeSignatures([]ledger.Signature{line})
	}
	size := func() uint64 { return fra.View().Checkpoints()[0].Size }
	ok := func(body []byte) (Answer, error) { return Answer{200, plain, body}, nil }
	said := map[string]string{}
	for _, test := range []struct {
		name string
		lie  func() (Answer, error)
		want string
	}{
		{"twice", func() (Answer, error) {
			line := cosigned(size(), w.now)
			return ok(append(line, line...))
		}, "it signed twice"},
		{"for a larger size", func() (Answer, error) { return ok(cosigned(size()+1, w.now)) }, "is not over this checkpoint"},
		{"for a smaller size", func() (Answer, error) { return ok(cosigned(size()-1, w.now)) }, "is not over this checkpoint"},
		{"a clock that ran back", func() (Answer, error) { return ok(cosigned(size(), w.now.Add(-time.Hour))) }, "one of the two clocks is wrong"},
		{"a clock that is ahead", func() (Answer, error) { return ok(cosigned(size(), w.now.Add(time.Hour))) }, "one of the two clocks is wrong"},
		{"nothing", func() (Answer, error) { return ok(nil) }, "the answer of witness ber-1." + testMesh + "/witness"},
		{"another size, and no page that shows it", func() (Answer, error) { return conflict(1 << 30), nil }, "leaves of this log, and the newest checkpoint here has"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fra.lies = nil
			w.now = w.now.Add(time.Minute)
			fra.grow(2)
			before := fra.sign()
			fra.lies = func(_ Target, path string, _ []byte, _ Answer) (Answer, error) {
				if path != "add-checkpoint" {
					return say(404, "no page"), nil
				}
				return test.lie()
			}
			err := fra.ask("ber-1")
			fra.service.noteTrouble(t.Context(), "ber-1."+testMesh+"/witness", err)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("it says %v, want %q", err, test.want)
			}
			if got := fra.service.Status().Witnesses[0]; got.Problem != err.Error() || got.Size == before.Size {
				t.Errorf("status says %+v", got)
			}
			said[test.want] = test.name
			fra.service.clear("ber-1." + testMesh + "/witness")
		})
	}
	fra.lies = nil
	fra.service.cfg.AskWithin = time.Millisecond
	fra.service.cfg.Transport = late{}
	if err := fra.ask("ber-1"); err == nil || !strings.Contains(err.Error(), "did not answer within 1ms") {
		t.Errorf("late: %v", err)
	}
	if len(said) != 5 {
		t.Errorf("words: %v", fmt.Sprint(said))
	}
}
