package inference_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/driver/inference"
	"github.com/sovmesh/sovmesh/node/driver/inference/canary"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// reaching is the driver of a machine whose tasks all serve the same.
type reaching struct {
	*fake.Driver
	l *loopback
}

func (r reaching) Dial(ctx context.Context, h runner.Handle, _ int) (net.Conn, error) {
	if o, err := r.Recover(ctx, h); err != nil || o.State != runner.StateRunning {
		return nil, errors.New("connection refused")
	}
	return r.l.dial(ctx, "127.0.0.1:8000")
}

func newServers(t *testing.T, l *loopback, w *fake.World) *inference.Servers {
	t.Helper()
	return inference.NewServers(newDriver(t, l), map[string]runner.Driver{"fake": reaching{w.Driver(), l}})
}

func brings(s *runner.Spec, command ...string) {
	s.Models = []string{"m1"}
	s.Setup = &placement.Setup{Server: &placement.Server{Kind: placement.KindFake, Command: command, Port: 8000, Start: placement.Duration(time.Minute)}}
}

func TestConformanceOfAServerThatIsBrought(t *testing.T) {
	l := newLoopback()
	worlds := make(map[*testing.T]*fake.World) // one machine per test
	const serves = "a server serves until it is told to end: "
	drivertest.Run(t, drivertest.Harness{
		New: func(t *testing.T) runner.Driver {
			if worlds[t] == nil {
				worlds[t] = fake.NewWorld()
			}
			return newServers(t, l, worlds[t])
		},
		Sleep:    func(s *runner.Spec) { brings(s, "sleep") },
		Stubborn: func(s *runner.Spec) { brings(s, "stubborn") },
		Missing:  func(s *runner.Spec) { brings(s, "missing") },
		Without: map[string]string{
			"exit code is known":           serves + "one that ends at once was never ready",
			"output is kept":               serves + "one that ends at once was never ready",
			"output is followed":           serves + "one that ends at once was never ready",
			"output is bounded":            serves + "one that ends at once was never ready",
			"want of memory is told apart": serves + "the driver of its own kind tells how one ended",
			"nothing is started twice":     serves + "one that ends at once was never ready",
			"an exit while away is known":  serves + "one that ends at once was never ready",
			"everything is listed":         "the driver of the server's own kind lists it",
		},
	})
}

func TestAServerIsReadyBeforeItsTaskRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newLoopback(), fake.NewWorld()
		l.set("127.0.0.1:8000", nil) // it loads
		s := newServers(t, l, w)
		spec := runner.Spec{Task: "a.b/0.1", Job: "a.b", Keep: keep}
		brings(&spec, "sleep")
		began, told := time.Now(), 0
		spec.Begun = func() {
			if time.Since(began) > time.Second || len(w.Running()) != 1 {
				t.Errorf("its start is said to be over after %s, with %v running", time.Since(began), w.Running())
			}
			told++
		}
		defer func() {
			if told != 1 {
				t.Errorf("it gives its place among the starts back %d times", told)
			}
		}()
		go func() {
			time.Sleep(20 * time.Second)
			l.set("127.0.0.1:8000", canary.New(canary.Config{Models: []string{"m1"}}))
		}()
		h, err := s.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 20*time.Second || took > 26*time.Second {
			t.Errorf("it is said to run after %s; it was ready after 20s", took)
		}
		if _, err := s.Dial(t.Context(), h, 8001); err == nil {
			t.Error("a port that it does not serve is reached")
		}
		if err := s.Destroy(t.Context(), h); err != nil || len(w.Running()) != 0 {
			t.Errorf("destroyed: %v, %v", err, w.Running())
		}
	})
}

func TestAServerThatIsNeverReadyIsNotLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for reason, prepare := range map[string]func(*loopback, *runner.Spec){
			"not ready in time":          func(l *loopback, s *runner.Spec) { l.set("127.0.0.1:8000", nil); brings(s, "sleep") },
			"ended before it was ready":  func(l *loopback, s *runner.Spec) { l.set("127.0.0.1:8000", nil); brings(s, "run", "10s", "3") },
			`does not have the model "x`: func(_ *loopback, s *runner.Spec) { brings(s, "sleep"); s.Models = []string{"x"} },
		} {
			l, w := newLoopback(), fake.NewWorld()
			s := newServers(t, l, w)
			spec := runner.Spec{Task: "a.b/0.1", Job: "a.b", Keep: keep}
			prepare(l, &spec)
			_, err := s.Start(t.Context(), spec)
			var start *runner.StartError
			if !errors.As(err, &start) || !strings.Contains(err.Error(), reason) || start.Hint() == "" {
				t.Errorf("%s: %v", reason, err)
			}
			if left := w.Running(); len(left) != 0 {
				t.Errorf("%s: left running: %v", reason, left)
			}
		}
	})
}

func TestAServerThatFallsSilentHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newLoopback(), fake.NewWorld()
		s := newServers(t, l, w)
		spec := runner.Spec{Task: "a.b/0.1", Job: "a.b", Keep: keep}
		brings(&spec, "sleep")
		h, err := s.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // beyond the time it had to become ready
		l.set("127.0.0.1:8000", nil)
		exit, err := s.Wait(t.Context(), h)
		if err != nil || exit.Stopped || exit.Code == 0 || !strings.Contains(exit.Reason, "does not answer") {
			t.Errorf("it ends with %+v, %v", exit, err)
		}
		if len(w.Running()) != 0 {
			t.Error("it goes on")
		}
	})
}

// A drain lets the streams that are open finish, takes no new ones, and does not
// wait beyond the grace.
func TestAServerEndsWhenItsStreamsHave(t *testing.T) {
	for _, hold := range []time.Duration{10 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			l, w := newLoopback(), fake.NewWorld()
			s := newServers(t, l, w)
			spec := runner.Spec{Task: "a.b/0.1", Job: "a.b", Keep: keep}
			brings(&spec, "sleep")
			h, err := s.Start(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := s.Dial(t.Context(), h, 8000)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			go func() {
				time.Sleep(hold)
				_ = stream.Close()
				_, _ = io.Copy(io.Discard, stream)
			}()
			stopped := make(chan error, 1)
			go func() { stopped <- s.Stop(t.Context(), h, time.Minute) }()
			synctest.Wait()
			if _, err := s.Dial(t.Context(), h, 8000); err == nil {
				t.Error("a server that is about to end takes a new stream")
			}
			if len(w.Running()) != 1 {
				t.Error("it was ended under an open stream")
			}
			if err := <-stopped; err != nil {
				t.Error(err)
			}
			if took, want := time.Since(began), min(hold, time.Minute); took < want || took > want+time.Second {
				t.Errorf("it was ended after %s, want %s", took, want)
			}
			_ = stream.Close()
			time.Sleep(hold)
		})
	}
}
