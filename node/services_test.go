package node

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// A task that tries a service over and over is answered from memory for a second and
// logged once in a minute, whatever ports it tries, and what is remembered is bounded.
func TestFailuresToReachAServiceAreRemembered(t *testing.T) {
	var f failures
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w, no := wanted{"a/0.1", "db", 80}, errors.New("no")
	if f.recent(w, now) != nil || !f.note(w, no, now) {
		t.Error("the first failure is no news")
	}
	if f.recent(w, now.Add(failureHolds-1)) != no || f.recent(wanted{"a/0.1", "db", 81}, now) != nil {
		t.Error("a failure is not the answer for a moment, or is that of another port")
	}
	again := now.Add(failureHolds)
	if f.recent(w, again) != nil || f.note(w, no, again) || f.recent(w, again) != no {
		t.Error("the second failure is not asked for, is logged, or is not remembered")
	}
	if !f.note(w, no, now.Add(failureTold)) {
		t.Error("a failure is not logged again after a minute")
	}
	if f.note(wanted{"a/0.1", "db", 82}, no, now.Add(failureTold)) || !f.note(wanted{"a/0.1", "web", 82}, no, now.Add(failureTold)) {
		t.Error("another port of the service is logged, or another service is not")
	}
}

// One that tries all ports asks as often as the rate lets it, fills no log, and pushes
// out nothing of another's.
func TestATaskThatTriesPortsIsHeldToARate(t *testing.T) {
	var f failures
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	no, other := errors.New("no"), wanted{"other/0.1", "db", 80}
	now := start
	f.note(other, no, now)
	asked, told := 0, 0
	for i := range 60_000 { // a thousand a second
		now = start.Add(time.Duration(i) * time.Millisecond)
		w := wanted{"scan/0.1", "db", 1 + i%65_000}
		if f.recent(w, now) == nil {
			asked++
			if f.note(w, no, now) {
				told++
			}
		}
	}
	if most := failuresAtOnce + int(time.Minute/failureEvery); asked > most || asked < most/2 || told != 1 {
		t.Errorf("%d questions and %d lines in a minute, want %d and 1", asked, told, most)
	}
	if f.note(other, no, now) {
		t.Error("what was said of another task was pushed out")
	}
	if n := len(f.of["scan/0.1"].ports); n > failingPorts {
		t.Errorf("%d ports of a task are remembered", n)
	}
	if f.recent(wanted{"scan/0.1", "db", 80}, now.Add(failureDebt)) != nil {
		t.Error("it is not heard again")
	}
	for i := range 2 * failingTasks {
		f.note(wanted{placement.TaskID(fmt.Sprint(i)), "db", 80}, no, now.Add(time.Duration(i)))
	}
	if len(f.of) > failingTasks {
		t.Errorf("failures of %d tasks are remembered", len(f.of))
	}
}

func TestWhichAnswersAnotherNodeMayBetter(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{errors.New("it does not answer"), true},
		{&api.Problem{Status: http.StatusForbidden, Code: "residency.allow"}, true},
		{&api.Problem{Status: http.StatusTooManyRequests, Code: "streams.full"}, true},
		{&api.Problem{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable}, true},
		{&api.Problem{Status: http.StatusForbidden, Code: api.CodeServiceList}, false},
		{&api.Problem{Status: http.StatusForbidden, Code: api.CodeServicePort}, false},
		{&api.Problem{Status: http.StatusForbidden, Code: api.CodeRole}, false},
		{&api.Problem{Status: http.StatusConflict, Code: api.CodeNotRunning}, false},
	} {
		if got := anotherMay(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
