package node

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
)

// A task that tries a service over and over is answered from memory for a second and
// logged once in a minute, and what is remembered is bounded.
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
	for port := range 3 * failuresMost {
		f.note(wanted{"b/0.1", "db", port}, no, now)
	}
	if len(f.all) > failuresMost {
		t.Errorf("%d failures are remembered", len(f.all))
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
