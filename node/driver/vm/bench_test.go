//go:build linux

package vm

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/qemu/qmp"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// BenchmarkMove moves a machine of 512 MiB, which has filled 256 of them and
// writes to 64, to and fro between two nodes of this machine. It reports how long
// its guest stood still: as QEMU says, and from there until it runs at the
// target, the decision of nobody in between.
func BenchmarkMove(b *testing.B) {
	n := twoNodes(b, smallGuest(b), nil)
	s := spec(40, "write 256", func(s *runner.Spec) {
		s.Service, s.Resources.Memory = true, 512*placement.MiB
		s.Setup.Disks = []placement.Disk{{Name: "data", Size: 64 << 20}}
	})
	h := start(b, n.from, s)
	awaits(b, n.from, h, "written\n")
	awaits(b, n.from, h, "count 5\n")
	var byQEMU, observed time.Duration
	for b.Loop() {
		to := next(s)
		destroyed(b, n.to, to.Task)
		var still time.Duration
		sent, received := move(b, n, h, to, placement.MoveLive, newLine(b, "", 0), func(p runner.MoveProgress) { still = p.Still })
		if sent != nil || received != nil {
			b.Fatalf("send: %v\nreceive: %v", sent, received)
		}
		var mig migration
		if err := n.from.control(b.Context(), h.Task, func(m *qmp.Client) error { return ask(b.Context(), m, "query-migrate", nil, &mig) }); err != nil {
			b.Fatal(err)
		}
		at := time.Now()
		h2 := runner.Handle{Task: to.Task}
		if err := n.to.Finish(b.Context(), h2, true); err != nil {
			b.Fatal(err)
		}
		byQEMU += time.Duration(mig.Downtime) * time.Millisecond
		observed += still + time.Since(at)
		if err := errors.Join(n.from.Finish(b.Context(), h, false), n.from.Destroy(b.Context(), h)); err != nil {
			b.Fatal(err)
		}
		s, h, n.from, n.to = to, h2, n.to, n.from
	}
	b.ReportMetric(float64(byQEMU.Milliseconds())/float64(b.N), "ms-still-qemu/op")
	b.ReportMetric(float64(observed.Milliseconds())/float64(b.N), "ms-still/op")
	awaits(b, n.from, h, fmt.Sprintf("count %d\n", counted(b, printed(b, n.from, h))+2))
}
