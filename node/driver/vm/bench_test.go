//go:build linux

package vm

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// BenchmarkMove moves a machine of 512 MiB to and fro between two nodes of this
// machine: one that does nothing, and one that has filled 256 of them and writes
// to 64 all the time. It reports how long its guest stood still, until it runs at
// the target, the decision of nobody in between; and of that, what each step took.
func BenchmarkMove(b *testing.B) {
	b.Run("idle", func(b *testing.B) { benchmarkMove(b, "count") })
	b.Run("writing", func(b *testing.B) { benchmarkMove(b, "write 256") })
}

func benchmarkMove(b *testing.B, does string) {
	n := twoNodes(b, smallGuest(b), nil)
	s := spec(40, does, func(s *runner.Spec) {
		s.Service, s.Resources.Memory = true, 512*placement.MiB
		s.Setup.Disks = []placement.Disk{{Name: "data", Size: 64 << 20}}
	})
	h := start(b, n.from, s)
	if does != "count" {
		awaits(b, n.from, h, "written\n")
	}
	awaits(b, n.from, h, "count 5\n")
	var observed time.Duration
	steps := newSteps(n)
	for b.Loop() {
		to := next(s)
		destroyed(b, n.to, to.Task)
		var still time.Duration
		sent, received := move(b, n, h, to, placement.MoveLive, newLine(b, "", 0), func(p runner.MoveProgress) { still = p.Still })
		if sent != nil || received != nil {
			b.Fatalf("send: %v\nreceive: %v", sent, received)
		}
		at := time.Now()
		h2 := runner.Handle{Task: to.Task}
		if err := n.to.Finish(b.Context(), h2, true); err != nil {
			b.Fatal(err)
		}
		observed += still + time.Since(at)
		if err := errors.Join(n.from.Finish(b.Context(), h, false), n.from.Destroy(b.Context(), h)); err != nil {
			b.Fatal(err)
		}
		s, h, n.from, n.to = to, h2, n.to, n.from
	}
	steps.report(b)
	b.ReportMetric(float64(observed.Milliseconds())/float64(b.N), "ms-still/op")
	awaits(b, n.from, h, fmt.Sprintf("count %d\n", counted(b, printed(b, n.from, h))+2))
}

// steps adds up what the steps of moves take.
type steps struct {
	mu    sync.Mutex
	last  time.Time                // guarded by mu
	names []string                 // guarded by mu; in the order in which they came first
	took  map[string]time.Duration // guarded by mu
}

func newSteps(n *nodes) *steps {
	s := &steps{took: make(map[string]time.Duration)}
	n.from.marks, n.to.marks = s.mark, s.mark
	return s
}

func (s *steps) mark(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if name != "stands" {
		if _, known := s.took[name]; !known {
			s.names = append(s.names, name)
		}
		s.took[name] += now.Sub(s.last)
	}
	s.last = now
}

func (s *steps) report(b *testing.B) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.names {
		b.ReportMetric(float64(s.took[name].Milliseconds())/float64(b.N), "ms-"+name+"/op")
	}
}
