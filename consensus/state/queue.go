package state

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

const (
	// snapshotJobs bounds how many waiting jobs one placement decision looks at.
	snapshotJobs = 4096
	// snapshotAged is how many of those may be there for their age alone.
	snapshotAged = 64
)

// queueKey sorts by priority, highest first, then by tenant, then by order of
// submission.
func queueKey(priority int, tenant placement.TenantID, seq uint64) string {
	key := make([]byte, 0, 10+len(tenant))
	key = append(key, byte(255-min(max(priority, 0), 255)))
	key = append(append(key, tenant...), 0)
	return string(binary.BigEndian.AppendUint64(key, seq))
}

// ageKey sorts by since when a job waits, then by order of submission. A job that
// ran and waits again is old by its submission, and hides nobody who waits longer.
func ageKey(r *jobRecord) string {
	since := r.QueuedAt
	if since.IsZero() {
		since = r.SubmittedAt
	}
	at := uint64(math.MaxUint64) // who has no time is never aged
	if !since.IsZero() {
		at = uint64(since.UnixNano())
	}
	return string(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, at), r.Seq))
}

// waiting are the jobs that a decision looks at: the oldest that have waited too
// long, then the highest priority first, and within one priority as many of each
// tenant's as of any other's. Who submits 100,000 jobs hides nobody's one.
func (v *View) waiting(now time.Time) []*jobRecord {
	w := waiting{v: v, seen: map[placement.JobID]bool{}}
	v.byAge.ascend("", func(_ string, id placement.JobID) bool {
		r, ok := v.jobs.get(string(id))
		if !ok || !r.Aged(now) {
			return false // whoever follows waits for less long
		}
		w.add(r)
		return len(w.out) < snapshotAged
	})
	for level := ""; len(w.out) < snapshotJobs; {
		first, _, ok := next(v.queue, level)
		if !ok {
			break
		}
		w.level(first[:1])
		level = first[:1] + "\xff" // no tenant's name begins so
	}
	return w.out
}

// waiting is such a list in the making.
type waiting struct {
	v    *View
	out  []*jobRecord
	seen map[placement.JobID]bool
}

func (w *waiting) add(r *jobRecord) {
	if !w.seen[r.ID] {
		w.seen[r.ID] = true
		w.out = append(w.out, r)
	}
}

// line is one tenant's jobs of one priority: where to go on, and its end.
type line struct {
	from, prefix string
	over         bool
}

// level takes jobs of one priority, in rounds: a few of every tenant, then twice
// as many of those that have more.
func (w *waiting) level(priority string) {
	var lines []*line
	for from := priority; len(lines) < snapshotJobs; {
		key, _, ok := next(w.v.queue, from)
		if !ok || key[:1] != priority {
			break
		}
		prefix := key[:len(key)-8] // with the 0 behind the tenant
		lines = append(lines, &line{from: prefix, prefix: prefix})
		from = prefix[:len(prefix)-1] + "\x01"
	}
	share := max(1, (snapshotJobs-len(w.out))/max(1, len(lines)))
	for more := true; more && len(w.out) < snapshotJobs; share *= 2 {
		more = false
		for _, l := range lines {
			if !l.over {
				w.take(l, share)
				more = more || !l.over
			}
		}
	}
}

// take adds the next few jobs of a line.
func (w *waiting) take(l *line, share int) {
	taken := 0
	l.over = true
	w.v.queue.ascend(l.from, func(key string, id placement.JobID) bool {
		if len(key) < len(l.prefix) || key[:len(l.prefix)] != l.prefix {
			return false
		}
		if taken == share || len(w.out) >= snapshotJobs {
			l.from, l.over = key, false
			return false
		}
		taken++
		if r, ok := w.v.jobs.get(string(id)); ok {
			w.add(r)
		}
		return true
	})
}

// next is the first row of a table from a key on.
func next[V any](t table[V], from string) (key string, value V, ok bool) {
	t.ascend(from, func(k string, v V) bool {
		key, value, ok = k, v, true
		return false
	})
	return key, value, ok
}
