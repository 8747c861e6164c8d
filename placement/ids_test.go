package placement

import (
	"testing"
	"time"
)

func TestJobIDsSortByTimeAndCarryTheirHome(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	a, b := NewJobID("fra-1", at), NewJobID("fra-1", at.Add(time.Millisecond))
	if !(a < b) {
		t.Errorf("%s is not before %s, which was accepted later", a, b)
	}
	if a.Home() != "fra-1" || !a.Valid() {
		t.Errorf("%s: home %q, valid %v", a, a.Home(), a.Valid())
	}
	if id := a.Task(0, 2); id.Job() != a {
		t.Errorf("task %s is of job %s", id, id.Job())
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{"fra-1": true, "": false, "-a": false, "a-": false, "A": false, "a.b": false, "a/b": false} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%q) = %v", name, !want)
		}
	}
}
