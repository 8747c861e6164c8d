package fake_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
)

func TestConformance(t *testing.T) {
	worlds := make(map[*testing.T]*fake.World) // one machine per test
	drivertest.Run(t, drivertest.Harness{
		New: func(t *testing.T) runner.Driver {
			if worlds[t] == nil {
				worlds[t] = fake.NewWorld()
			}
			return worlds[t].Driver()
		},
		Exit:       func(s *runner.Spec, code int) { s.Command = []string{"exit", fmt.Sprint(code)} },
		Print:      func(s *runner.Spec, text string) { s.Command = []string{"print", text} },
		Sleep:      func(s *runner.Spec) { s.Command = []string{"sleep"} },
		Stubborn:   func(s *runner.Spec) { s.Command = []string{"stubborn"} },
		Flood:      func(s *runner.Spec, n int) { s.Command = []string{"flood", fmt.Sprint(n)} },
		Missing:    func(s *runner.Spec) { s.Command = []string{"no-such-program"} },
		Hungry:     func(s *runner.Spec) { s.Command = []string{"oom", "1ms"} },
		KeptOutput: fake.MaxOutput,
	})
}

func TestEndsExactlyInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := fake.NewWorld()
		d := world.Driver()
		began := time.Now()
		h, err := d.Start(t.Context(), runner.Spec{Task: "a.b/0.1", Command: []string{"run", "5m", "9"}, Keep: func(runner.Handle) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		exit, err := d.Wait(t.Context(), h)
		if err != nil || exit.Code != 9 || time.Since(began) != 5*time.Minute || !exit.At.Equal(time.Now()) {
			t.Errorf("after %s: %+v, %v", time.Since(began), exit, err)
		}
		if running := world.Running(); len(running) != 0 {
			t.Errorf("still running: %v", running)
		}
	})
}
