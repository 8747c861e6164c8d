package node

import (
	"errors"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// wanted is what a task asked for.
type wanted struct {
	task    placement.TaskID
	service string
	port    int
}

// How long a failure is the answer to who asks again at once, how often one of a
// service's is logged, and of how many tasks, and of how many ports and services of
// one, they are remembered.
const (
	failureHolds = time.Second
	failureTold  = time.Minute
	failingTasks = 1024
	failingPorts = 64
)

// A task that fails over and over, whatever it asks for, is heard that often: once
// failuresAtOnce have come at once the next waits for its turn, one each failureEvery,
// and those that were on their way together cost failureDebt at most.
const (
	failuresAtOnce = 16
	failureEvery   = time.Second / 8
	failureDebt    = 10 * time.Second
)

var errTooOften = errors.New("the task has asked too often for what cannot be reached; it is heard again in a moment")

// failures remembers what was not reached: a task that tries over and over asks the
// region's nodes once in a while, and fills no log, and what is remembered of others
// is not its to push out. The zero value is ready.
type failures struct {
	mu sync.Mutex
	of map[placement.TaskID]*failing // guarded by mu, with what it points to
}

// failing is one task's.
type failing struct {
	last  time.Time // when the newest came
	turn  time.Time // when one more would cost nothing: after now it owes that much
	ports map[wanted]failure
	told  map[string]time.Time // by service
}

type failure struct {
	err error
	at  time.Time
}

// recent is why it was not reached a moment ago, or that the task has to wait; nil if
// it is worth a question.
func (f *failures) recent(w wanted, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.of[w.task]
	if t == nil {
		return nil
	}
	if known, ok := t.ports[w]; ok && now.Sub(known.at) < failureHolds {
		return known.err
	}
	if t.turn.Sub(now) > (failuresAtOnce-1)*failureEvery {
		return errTooOften
	}
	return nil
}

// note remembers a failure and reports whether it is worth a line in the log.
func (f *failures) note(w wanted, err error, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = make(map[placement.TaskID]*failing)
	}
	t := f.of[w.task]
	if t == nil {
		dropOldest(f.of, failingTasks, func(t *failing) time.Time { return t.last })
		t = &failing{turn: now, ports: make(map[wanted]failure), told: make(map[string]time.Time)}
		f.of[w.task] = t
	}
	t.last = now
	if t.turn.Before(now) {
		t.turn = now
	}
	if t.turn = t.turn.Add(failureEvery); t.turn.Sub(now) > failureDebt {
		t.turn = now.Add(failureDebt)
	}
	if _, ok := t.ports[w]; !ok {
		dropOldest(t.ports, failingPorts, func(one failure) time.Time { return one.at })
	}
	t.ports[w] = failure{err, now}
	last, ok := t.told[w.service]
	if ok && now.Sub(last) < failureTold {
		return false
	}
	if !ok {
		dropOldest(t.told, failingPorts, func(at time.Time) time.Time { return at })
	}
	t.told[w.service] = now
	return true
}

// dropOldest makes room for one more.
func dropOldest[K comparable, V any](all map[K]V, most int, at func(V) time.Time) {
	if len(all) < most {
		return
	}
	var oldest K
	first := true
	for k, v := range all {
		if first || at(v).Before(at(all[oldest])) {
			oldest, first = k, false
		}
	}
	delete(all, oldest)
}
