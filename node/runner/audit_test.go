package runner_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// notebook keeps what a node notes.
type notebook struct {
	mu    sync.Mutex
	notes []placement.TaskNote
	err   error
}

func (n *notebook) Note(_ context.Context, notes []placement.TaskNote) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.notes = append(n.notes, notes...)
	}
	return n.err
}

func (n *notebook) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *notebook) said() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, x := range n.notes {
		out = append(out, strings.TrimSpace(string(x.What)+" "+x.Subject+" "+x.Text))
	}
	n.notes = nil
	return strings.Join(out, "; ")
}

func (b *bed) noting(mode placement.Drift) (*notebook, func(*runner.Want)) {
	book := &notebook{}
	b.change = func(c *runner.Config) { c.Noter = book }
	return book, func(w *runner.Want) { w.Job.Spec.Setup = &placement.Setup{Drift: mode} }
}

func guest(packages ...string) runner.Actual {
	a := runner.Actual{ImageDigest: "sha256:aa", Mounts: []string{"/data"}, Packages: map[string]string{}}
	for _, p := range packages {
		a.Packages[p] = "1.0"
	}
	return a
}

func TestAPackageThatNobodyDeclaredIsDrift(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting("")
		b.agent()
		id := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		b.world.See(id, guest("bash"))
		b.pass(6 * time.Minute)
		if got := book.said(); got != "" {
			b.Errorf("as declared, and yet: %s", got)
		}
		b.kill()
		b.world.See(id, guest("bash", "cowsay")) // installed by hand while no agent looked
		b.agent()
		b.pass(6 * time.Minute)
		if got := book.said(); got != "drift packages not declared: cowsay 1.0" {
			b.Errorf("noted: %s", got)
		}
		if _, _, found, err := b.r.Drift(b.Context(), id); err != nil || len(found) != 1 || found[0].Subject != "packages" {
			b.Errorf("asked, it finds %+v, %v", found, err)
		}
		b.pass(30 * time.Minute)
		if got := book.said(); got != "" {
			b.Errorf("the same is noted again: %s", got)
		}
		b.world.See(id, guest("bash"))
		b.pass(6 * time.Minute)
		if got := book.said(); got != "resolved packages" {
			b.Errorf("noted: %s", got)
		}
		b.runs(id)
	})
}

func TestDriftThatIsEnforcedStartsTheTaskAnew(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting(placement.DriftEnforce)
		b.agent()
		id := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		b.world.See(id, guest("bash"))
		b.pass(time.Minute)
		other := guest("bash")
		other.ImageDigest = "sha256:bb"
		b.world.See(id, other)
		b.pass(6 * time.Minute)
		if got := book.said(); got != "drift image declared sha256:aa, runs sha256:bb" {
			b.Errorf("noted: %s", got)
		}
		if s := b.status(id); s.Status != placement.TaskFailed || !strings.Contains(s.Reason, "image") {
			b.Errorf("it is %s: %s", s.Status, s.Reason)
		}
	})
}

func TestDriftThatIsOffIsNotNoted(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting(placement.DriftOff)
		b.agent()
		id := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		b.world.See(id, guest("bash"))
		b.pass(time.Minute)
		b.world.See(id, guest())
		b.pass(time.Hour)
		if got := book.said(); got != "" {
			b.Errorf("noted: %s", got)
		}
	})
}

func TestRefusedTrafficIsNotedOnceAndWhenItDoubles(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting("")
		b.agent()
		id := b.region.assign(0, mode, "run", "10m", "0")
		synctest.Wait()
		for _, step := range []struct {
			packets uint64
			want    string
		}{{3, "denied network 192.0.2.1:443/tcp"}, {3, ""}, {5, ""}, {6, "denied network 192.0.2.1:443/tcp"}} {
			b.world.Deny(id, runner.Denial{Destination: "192.0.2.1:443/tcp", Packets: step.packets, Last: time.Now()})
			b.pass(31 * time.Second)
			if got := book.said(); got != step.want {
				b.Errorf("at %d packets it notes %q, want %q", step.packets, got, step.want)
			}
		}
		// No leader for a while: it is noted later, not forgotten.
		book.fail(errors.New("no leader"))
		b.world.Deny(id, runner.Denial{Destination: "192.0.2.2:53/udp", Packets: 1})
		b.pass(time.Minute)
		book.fail(nil)
		b.pass(31 * time.Second)
		if got := book.said(); got != "denied network 192.0.2.2:53/udp" {
			b.Errorf("noted: %s", got)
		}
		// What was refused in the last moment counts too.
		b.world.Deny(id, runner.Denial{Destination: "192.0.2.3:25/tcp", Packets: 1})
		b.world.Finish(id, 0)
		synctest.Wait()
		if got := book.said(); got != "denied network 192.0.2.3:25/tcp" {
			b.Errorf("after its end it notes %q", got)
		}
	})
}

func TestDestinationsBeyondTheMostAreToldOfTogether(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting("")
		b.agent()
		id := b.region.assign(0, mode, "run", "48h", "0")
		synctest.Wait()
		deny := func(destinations int, packets uint64) {
			var all []runner.Denial
			for i := range destinations {
				all = append(all, runner.Denial{Destination: fmt.Sprintf("192.0.%d.%d:443/tcp", i/250, i%250), Packets: packets, Last: time.Now()})
			}
			b.world.Deny(id, all...)
		}
		deny(700, 3)
		b.pass(2 * time.Hour)
		said := book.said()
		if each, others := strings.Count(said, ":443/tcp"), strings.Count(said, "denied network *"); each < 512 || each > 520 || others != 1 {
			t.Errorf("it notes %d destinations, and %d times others", each, others)
		}
		for range 3 { // others, always new ones
			deny(800, 3)
			b.pass(time.Hour)
		}
		if got := book.said(); got != "" {
			t.Errorf("it notes again: %d notes, %.200s", strings.Count(got, ";")+1, got)
		}
		deny(1100, 3)
		b.pass(time.Hour)
		if got := book.said(); got != "denied network *" {
			t.Errorf("others have doubled, and it notes %.200q", got)
		}
	})
}

// deaf is a driver whose guests answer nobody.
type deaf struct {
	*fake.Driver
	asked *atomic.Int32
}

func (d deaf) Inspect(ctx context.Context, _ runner.Handle) (runner.Actual, error) {
	d.asked.Add(1)
	<-ctx.Done()
	return runner.Actual{}, ctx.Err()
}

func TestAGuestThatHangsHoldsUpNoWordOfRefusedTraffic(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting("")
		d := deaf{b.world.Driver(), new(atomic.Int32)}
		b.change = func(c *runner.Config) { c.Noter, c.Drivers = book, map[string]runner.Driver{"fake": d} }
		b.agent()
		var ids []placement.TaskID
		for n := range 4 {
			ids = append(ids, b.region.assign(n, mode, "run", "48h", "0"))
		}
		synctest.Wait()
		b.pass(35 * time.Second) // the first of them is being looked at
		b.world.Deny(ids[3], runner.Denial{Destination: "192.0.2.1:443/tcp", Packets: 1, Last: time.Now()})
		b.pass(31 * time.Second)
		if got := book.said(); got != "denied network 192.0.2.1:443/tcp" {
			b.Errorf("it notes %q", got)
		}
		for _, id := range ids[1:] {
			b.world.Finish(id, 0)
		}
		synctest.Wait()
		b.pass(10 * time.Minute)
		d.asked.Store(0)
		b.pass(time.Hour)
		if n := d.asked.Load(); n == 0 || n > 30 {
			b.Errorf("it was asked %d times in an hour", n)
		}
	})
}

func TestCompareKnowsWhatNobodyTold(t *testing.T) {
	want := runner.Actual{CPU: 500, Memory: placement.GiB, Devices: []string{"GPU-1"}, Packages: map[string]string{"a": "1"}}
	if got := runner.Compare(&want, &runner.Actual{}); len(got) != 0 {
		t.Errorf("of a task that tells nothing: %+v", got)
	}
	got := runner.Compare(&want, &runner.Actual{CPU: 500, Memory: 2 * placement.GiB, Devices: []string{}, Packages: map[string]string{"a": "2"}})
	var subjects []string
	for _, f := range got {
		subjects = append(subjects, f.Subject)
	}
	if strings.Join(subjects, " ") != "devices memory packages" {
		t.Errorf("found: %+v", got)
	}
	long := runner.Actual{Packages: map[string]string{strings.Repeat("x", 4096): "1"}}
	for _, f := range runner.Compare(&runner.Actual{Packages: map[string]string{}}, &long) {
		if len(f.Text) > placement.MaxNoteText {
			t.Errorf("a text of %d bytes", len(f.Text))
		}
	}
}
