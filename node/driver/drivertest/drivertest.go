// Package drivertest is the one suite that every driver passes.
//
// It checks what the runner relies on: the handle is kept before anything runs,
// an end is never missed, nothing is started twice, a driver that is built anew
// finds everything, and Destroy leaves nothing. A driver that cannot do a thing
// says so in [Harness.Without], with the reason, and the test is skipped by name.
package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Harness is one driver under test.
type Harness struct {
	// New builds a driver on the machine that earlier ones of the same test had:
	// the second call is the agent that comes back.
	New func(t *testing.T) runner.Driver
	// What these make a task do, in the driver's own words.
	Exit     func(spec *runner.Spec, code int)    // end at once
	Print    func(spec *runner.Spec, text string) // write the text and a line feed, end with 0
	Sleep    func(spec *runner.Spec)              // run for long, end when asked to
	Stubborn func(spec *runner.Spec)              // write "ready" and a line feed, end only when killed
	Flood    func(spec *runner.Spec, bytes int)   // write so many bytes, the last line being "end", then end with 0
	Missing  func(spec *runner.Spec)              // something that cannot be started
	Hungry   func(spec *runner.Spec)              // take more memory than the task has
	// KeptOutput is the most that is kept of a task's output, in bytes.
	KeptOutput int64
	// Patience bounds every wait of the suite; zero is half a minute.
	Patience time.Duration
	// Without names tests that do not apply, and why.
	Without map[string]string
}

// patience is that of a harness which says nothing of it.
const patience = 30 * time.Second

type suite struct {
	*testing.T
	Harness
	ctx  context.Context
	d    runner.Driver
	kept []runner.Handle
}

// Run tests a driver.
func Run(t *testing.T, h Harness) {
	if h.Patience == 0 {
		h.Patience = patience
	}
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"exit code is known", exitCode},
		{"output is kept", output},
		{"output is followed", follow},
		{"output is bounded", outputCap},
		{"stop asks", stopAsks},
		{"stop kills after grace", stopKills},
		{"want of memory is told apart", outOfMemory},
		{"what is not found fails clearly", missing},
		{"the handle is kept before the start", keepFirst},
		{"a handle that cannot be kept starts nothing", keepFails},
		{"nothing is started twice", twice},
		{"an agent that comes back finds its task", comesBack},
		{"an exit while away is known", exitWhileAway},
		{"a stop while away is told from a failure", stopThenAway},
		{"what never ran is absent and can be started", absent},
		{"everything is listed", listed},
		{"waiting can be given up", waitCancelled},
		{"a lease ends a task without an agent", leaseEnds},
		{"a renewed lease does not", leaseRenewed},
		{"destroy leaves nothing", destroy},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			if why, ok := h.Without[test.name]; ok {
				t.Skipf("does not apply to this driver: %s", why)
			}
			ctx, cancel := context.WithTimeout(t.Context(), h.Patience)
			defer cancel()
			s := &suite{T: t, Harness: h, ctx: ctx, d: h.New(t)}
			defer s.cleanUp()
			test.run(s)
		})
	}
}

// cleanUp leaves the machine as it was, also after a failed test.
func (s *suite) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
	defer cancel()
	d := s.New(s.T)
	for _, h := range s.kept {
		if err := d.Destroy(ctx, h); err != nil {
			s.Errorf("destroy %s: %v", h.Task, err)
		}
	}
}

func (s *suite) spec(n int, what func(*runner.Spec)) runner.Spec {
	job := placement.JobID("fra-1.01jd0000000000000000000000")
	spec := runner.Spec{
		Task: job.Task(n, 1), Job: job, Name: "drivertest", Env: map[string]string{}, Grace: 5 * time.Second,
		Resources: placement.Resources{CPU: 100, Memory: 256 * placement.MiB},
	}
	spec.Keep = func(h runner.Handle) error {
		s.kept = append(s.kept, h)
		return nil
	}
	what(&spec)
	return spec
}

func (s *suite) start(n int, what func(*runner.Spec)) runner.Handle {
	s.Helper()
	h, err := s.d.Start(s.ctx, s.spec(n, what))
	if err != nil {
		s.Fatalf("start: %v", err)
	}
	return h
}

func (s *suite) wait(h runner.Handle) runner.Exit {
	s.Helper()
	exit, err := s.d.Wait(s.ctx, h)
	if err != nil {
		s.Fatalf("wait: %v", err)
	}
	return exit
}

func (s *suite) state(h runner.Handle, want runner.State) runner.Observed {
	s.Helper()
	o, err := s.d.Recover(s.ctx, h)
	if err != nil || o.State != want {
		s.Fatalf("recover gives %q, %v; want %q", o.State, err, want)
	}
	return o
}

func (s *suite) read(h runner.Handle, from int64, follow bool) string {
	s.Helper()
	r, err := s.d.Logs(s.ctx, h, from, follow)
	if err != nil {
		s.Fatalf("logs: %v", err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		s.Fatalf("read the output: %v", err)
	}
	return string(data)
}

// stubborn starts such a task and waits until it no longer hears.
func (s *suite) stubborn(n int, also func(*runner.Spec)) runner.Handle {
	s.Helper()
	h := s.start(n, func(spec *runner.Spec) {
		s.Stubborn(spec)
		if also != nil {
			also(spec)
		}
	})
	r, err := s.d.Logs(s.ctx, h, 0, true)
	if err != nil {
		s.Fatal(err)
	}
	defer r.Close()
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "ready\n" {
		s.Fatalf("the stubborn task writes %q, %v", line, err)
	}
	return h
}

func exitCode(s *suite) {
	for i, code := range []int{0, 3, 200} {
		h := s.start(i, func(spec *runner.Spec) { s.Exit(spec, code) })
		exit := s.wait(h)
		if exit.Code != code || exit.Signal != "" || exit.Stopped || exit.OOM || exit.At.IsZero() {
			s.Errorf("exit %d is seen as %+v", code, exit)
		}
		if o := s.state(h, runner.StateExited); o.Exit.Code != code || o.StartedAt.IsZero() {
			s.Errorf("recover says %+v", o)
		}
	}
}

func output(s *suite) {
	h := s.start(0, func(spec *runner.Spec) { s.Print(spec, "bonjour") })
	s.wait(h)
	if got := s.read(h, 0, false); got != "bonjour\n" {
		s.Errorf("output is %q", got)
	}
	if got := s.read(h, 3, false); got != "jour\n" {
		s.Errorf("output from byte 3 is %q", got)
	}
	if got := s.read(h, 100, false); got != "" {
		s.Errorf("output beyond its end is %q", got)
	}
}

func follow(s *suite) {
	h := s.start(0, func(spec *runner.Spec) { s.Print(spec, "bonjour") })
	if got := s.read(h, 0, true); got != "bonjour\n" {
		s.Errorf("followed to its end, output is %q", got)
	}
	h = s.stubborn(1, nil)
	r, err := s.d.Logs(s.ctx, h, 6, true)
	if err != nil {
		s.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 1))
		read <- err
	}()
	_ = r.Close()
	if err := <-read; err == nil {
		s.Error("a reader that was closed read something")
	}
}

func outputCap(s *suite) {
	h := s.start(0, func(spec *runner.Spec) { s.Flood(spec, int(3*s.KeptOutput)) })
	if exit := s.wait(h); exit.Code != 0 {
		s.Fatalf("a task that writes much ends with %+v", exit)
	}
	got := s.read(h, 0, false)
	if int64(len(got)) > s.KeptOutput || !bytes.HasSuffix([]byte(got), []byte("end\n")) {
		s.Errorf("%d bytes are kept, ending in %q; want at most %d, and the end", len(got), got[max(0, len(got)-10):], s.KeptOutput)
	}
}

func stopAsks(s *suite) {
	h := s.start(0, s.Sleep)
	s.state(h, runner.StateRunning)
	if err := s.d.Stop(s.ctx, h, s.Patience); err != nil {
		s.Fatal(err)
	}
	o := s.state(h, runner.StateExited)
	if !o.Exit.Stopped || o.Exit.Killed {
		s.Errorf("asked to end, it is seen as %+v", o.Exit)
	}
	if err := s.d.Stop(s.ctx, h, 0); err != nil {
		s.Errorf("stopped again: %v", err)
	}
}

func stopKills(s *suite) {
	h := s.stubborn(0, nil)
	if err := s.d.Stop(s.ctx, h, 50*time.Millisecond); err != nil {
		s.Fatal(err)
	}
	if o := s.state(h, runner.StateExited); !o.Exit.Stopped || !o.Exit.Killed || o.Exit.Code == 0 {
		s.Errorf("killed, it is seen as %+v", o.Exit)
	}
}

// outOfMemory holds a task to its memory: it ends, with that as its reason, and one
// beside it does not notice.
func outOfMemory(s *suite) {
	beside := s.stubborn(1, nil)
	h := s.start(0, s.Hungry)
	if exit := s.wait(h); !exit.OOM || exit.Stopped || exit.Code == 0 {
		s.Errorf("beyond its memory it is seen as %+v", exit)
	}
	s.state(beside, runner.StateRunning)
	if err := s.d.Stop(s.ctx, beside, 0); err != nil {
		s.Fatal(err)
	}
	if o := s.state(beside, runner.StateExited); o.Exit.OOM || !o.Exit.Killed {
		s.Errorf("killed by order it is seen as %+v", o.Exit)
	}
}

func missing(s *suite) {
	_, err := s.d.Start(s.ctx, s.spec(0, s.Missing))
	var start *runner.StartError
	if !errors.As(err, &start) || start.Reason == "" || start.Hint() == "" {
		s.Fatalf("it fails with %v (%T); want a StartError with reason and hint", err, err)
	}
	if o, err := s.d.Recover(s.ctx, s.kept[0]); err != nil || (o.State != runner.StateAbsent && o.State != runner.StateExited) {
		s.Errorf("afterwards recover gives %q, %v", o.State, err)
	}
}

func keepFirst(s *suite) {
	spec := s.spec(0, s.Sleep)
	keep, calls := spec.Keep, 0
	spec.Keep = func(h runner.Handle) error {
		calls++
		list, err := s.d.List(s.ctx)
		if err != nil {
			s.Error(err)
		}
		for _, o := range list {
			if o.Handle.Task == spec.Task && o.State != runner.StateAbsent {
				s.Errorf("it is %s before its handle was kept", o.State)
			}
		}
		return keep(h)
	}
	h, err := s.d.Start(s.ctx, spec)
	if err != nil || calls != 1 {
		s.Fatalf("start: %v; Keep was called %d times", err, calls)
	}
	s.kept = append(s.kept, h)
	s.state(s.kept[0], runner.StateRunning)
}

func keepFails(s *suite) {
	spec := s.spec(0, s.Sleep)
	full := errors.New("no space left on device")
	spec.Keep = func(runner.Handle) error { return full }
	if _, err := s.d.Start(s.ctx, spec); !errors.Is(err, full) {
		s.Fatalf("start gives %v", err)
	}
	list, err := s.d.List(s.ctx)
	for _, o := range list {
		if o.State != runner.StateAbsent {
			s.Errorf("%s is %s", o.Handle.Task, o.State)
		}
	}
	if err != nil {
		s.Error(err)
	}
}

func twice(s *suite) {
	for n, what := range []func(*runner.Spec){s.Sleep, func(spec *runner.Spec) { s.Exit(spec, 4) }} {
		h := s.start(n, what)
		if n == 1 {
			s.wait(h)
		}
		_, err := s.New(s.T).Start(s.ctx, s.spec(n, what))
		var exists *runner.ExistsError
		if !errors.As(err, &exists) || exists.Handle.Task != h.Task {
			s.Fatalf("started again: %v; want an ExistsError", err)
		}
	}
}

func comesBack(s *suite) {
	h := s.start(0, s.Sleep)
	before := s.state(h, runner.StateRunning)
	s.d = s.New(s.T)
	after := s.state(h, runner.StateRunning)
	if !after.StartedAt.Equal(before.StartedAt) || fmt.Sprint(after.Facts) != fmt.Sprint(before.Facts) {
		s.Errorf("before: %+v, after: %+v", before, after)
	}
	if err := s.d.Stop(s.ctx, h, s.Patience); err != nil {
		s.Fatal(err)
	}
	if exit := s.wait(h); !exit.Stopped {
		s.Errorf("stopped by the agent that came back, it is seen as %+v", exit)
	}
}

func exitWhileAway(s *suite) {
	h := s.start(0, func(spec *runner.Spec) { s.Exit(spec, 7) })
	s.wait(h)
	s.d = s.New(s.T)
	if o := s.state(h, runner.StateExited); o.Exit.Code != 7 {
		s.Errorf("recovered as %+v", o.Exit)
	}
	if exit := s.wait(h); exit.Code != 7 {
		s.Errorf("waited for, it is %+v", exit)
	}
}

func stopThenAway(s *suite) {
	h := s.start(0, s.Sleep)
	if err := s.d.Stop(s.ctx, h, s.Patience); err != nil {
		s.Fatal(err)
	}
	s.d = s.New(s.T)
	if o := s.state(h, runner.StateExited); !o.Exit.Stopped {
		s.Errorf("recovered as %+v", o.Exit)
	}
}

func absent(s *suite) {
	gone, cancel := context.WithCancel(s.ctx)
	spec := s.spec(0, s.Sleep)
	keep := spec.Keep
	spec.Keep = func(h runner.Handle) error {
		defer cancel() // the agent ends here
		return keep(h)
	}
	_, err := s.d.Start(gone, spec)
	h := s.kept[0]
	s.d = s.New(s.T)
	o, recoverErr := s.d.Recover(s.ctx, h)
	if recoverErr != nil {
		s.Fatal(recoverErr)
	}
	switch o.State {
	case runner.StateAbsent:
		_, err := s.d.Start(s.ctx, s.spec(0, s.Sleep))
		var exists *runner.ExistsError
		if err != nil && !errors.As(err, &exists) { // the first start may still have won, once
			s.Fatalf("start of what never ran: %v", err)
		}
		s.state(h, runner.StateRunning)
	case runner.StateRunning: // it was already under way, and is known
	default:
		s.Errorf("start cut off with %v, recover gives %q", err, o.State)
	}
}

func listed(s *suite) {
	running := s.start(0, s.Sleep)
	over := s.start(1, func(spec *runner.Spec) { s.Exit(spec, 0) })
	s.wait(over)
	list, err := s.New(s.T).List(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	found := make(map[placement.TaskID]runner.State)
	for _, o := range list {
		found[o.Handle.Task] = o.State
	}
	if found[running.Task] != runner.StateRunning || found[over.Task] != runner.StateExited || len(found) != 2 {
		s.Errorf("listed: %v", found)
	}
}

func waitCancelled(s *suite) {
	h := s.start(0, s.Sleep)
	ctx, cancel := context.WithCancel(s.ctx)
	result := make(chan error, 1)
	go func() {
		_, err := s.d.Wait(ctx, h)
		result <- err
	}()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		s.Errorf("given up, Wait returns %v", err)
	}
	s.state(h, runner.StateRunning)
}

func leaseEnds(s *suite) {
	if _, ok := s.d.(runner.Leaser); !ok {
		s.Skip("does not apply to this driver: it is no Leaser")
	}
	h := s.stubborn(0, func(spec *runner.Spec) { spec.LeaseUntil = time.Now().Add(s.Patience) })
	if err := s.d.(runner.Leaser).Lease(s.ctx, h, time.Now().Add(50*time.Millisecond)); err != nil {
		s.Fatal(err)
	}
	if exit := s.wait(h); !exit.Stopped || !strings.Contains(exit.Reason, "lease") {
		s.Errorf("ended by its lease, it is seen as %+v", exit)
	}
}

func leaseRenewed(s *suite) {
	l, ok := s.d.(runner.Leaser)
	if !ok {
		s.Skip("does not apply to this driver: it is no Leaser")
	}
	h := s.start(0, func(spec *runner.Spec) { s.Sleep(spec); spec.LeaseUntil = time.Now().Add(s.Patience) })
	first := time.Now().Add(time.Second) // after the start: some drivers take longer for that
	for _, until := range []time.Time{first, first.Add(s.Patience)} {
		if err := l.Lease(s.ctx, h, until); err != nil {
			s.Fatal(err)
		}
	}
	ctx, cancel := context.WithDeadline(s.ctx, first.Add(300*time.Millisecond))
	defer cancel()
	if exit, err := s.d.Wait(ctx, h); err == nil {
		s.Errorf("its lease was renewed, and yet: %+v", exit)
	}
	s.state(h, runner.StateRunning)
}

func destroy(s *suite) {
	running, over := s.start(0, s.Sleep), s.start(1, s.Sleep)
	if err := s.d.Stop(s.ctx, over, s.Patience); err != nil {
		s.Fatal(err)
	}
	s.wait(over)
	for _, h := range []runner.Handle{running, over, over} {
		if err := s.d.Destroy(s.ctx, h); err != nil {
			s.Fatalf("destroy: %v", err)
		}
	}
	list, err := s.d.List(s.ctx)
	if err != nil || len(list) != 0 {
		s.Errorf("left: %+v, %v", list, err)
	}
	s.kept = nil
}
