package runner_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// keeping is a driver whose tasks have one disk that outlives them.
type keeping struct {
	*fake.Driver
	disk *disk
}

type disk struct {
	mu   sync.Mutex
	kept *runner.Actual // guarded by mu
}

func (k keeping) Remembered(runner.Handle) (runner.Actual, bool) {
	k.disk.mu.Lock()
	defer k.disk.mu.Unlock()
	if k.disk.kept == nil {
		return runner.Actual{}, false
	}
	return *k.disk.kept, true
}

func (k keeping) Remember(_ runner.Handle, a runner.Actual) error {
	k.disk.mu.Lock()
	defer k.disk.mu.Unlock()
	k.disk.kept = &a
	return nil
}

func TestAGuestIsTakenAsItIsOnceItHasSettled(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting("")
		b.agent()
		id := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		booting := guest("bash")
		booting.Unsettled = true
		b.world.See(id, booting)
		b.pass(5 * time.Minute) // however long that takes
		b.world.See(id, guest("bash", "nginx"))
		b.pass(31 * time.Second) // it is being set up: this is not what it comes to
		b.world.See(id, guest("bash", "nginx", "redis"))
		b.pass(31 * time.Second)
		b.pass(6 * time.Minute)
		if got := book.said(); got != "" {
			b.Errorf("what its own boot installed is noted: %s", got)
		}
		b.world.See(id, guest("bash", "nginx", "redis", "cowsay"))
		b.pass(6 * time.Minute)
		if got := book.said(); got != "drift packages not declared: cowsay 1.0" {
			b.Errorf("noted: %s", got)
		}
	})
}

func TestTwoLooksAtOnceSettleNothing(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting("")
		b.agent()
		id := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		b.world.See(id, guest("bash"))
		for range 3 { // somebody asks, and asks again
			if _, _, _, err := b.r.Drift(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
		b.world.See(id, guest("bash", "nginx"))
		b.pass(10 * time.Minute)
		if got := book.said(); got != "" {
			b.Errorf("noted: %s", got)
		}
	})
}

func TestWhatWasNotedIsNotNotedByTheNextAgent(t *testing.T) {
	run(t, func(b *bed) {
		book, mode := b.noting("")
		b.agent()
		id := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		b.world.See(id, guest("bash"))
		b.pass(3 * time.Minute)
		b.world.See(id, guest("bash", "cowsay"))
		b.world.Deny(id, runner.Denial{Destination: "192.0.2.1:443/tcp", Packets: 3, Last: time.Now()})
		b.pass(6 * time.Minute)
		if got := book.said(); strings.Count(got, ";") != 1 {
			b.Fatalf("noted: %s", got)
		}
		b.kill()
		b.agent()
		b.pass(20 * time.Minute)
		if got := book.said(); got != "" {
			b.Errorf("the agent that comes back notes once more: %s", got)
		}
		b.world.See(id, guest("bash"))
		b.pass(6 * time.Minute)
		if got := book.said(); got != "resolved packages" {
			b.Errorf("it does not know what was noted before it: %s", got)
		}
	})
}

func TestAKeptDiskIsHeldAgainstWhatItWas(t *testing.T) {
	run(t, func(b *bed) {
		book, _ := b.noting("")
		noting := b.change
		kept := &disk{}
		b.change = func(c *runner.Config) {
			noting(c)
			c.Drivers = map[string]runner.Driver{"fake": keeping{b.world.Driver(), kept}}
		}
		mode := func(w *runner.Want) { w.Job.Spec.Setup = &placement.Setup{Drift: placement.DriftEnforce} }
		b.agent()
		first := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		b.world.See(first, guest("bash"))
		b.pass(3 * time.Minute)
		b.world.See(first, guest("bash", "cowsay"))
		b.pass(6 * time.Minute)
		if got := book.said(); got != "drift packages not declared: cowsay 1.0" {
			b.Errorf("noted: %s", got)
		}
		b.runs(first) // to start it anew would bring the same disk back
		b.world.Finish(first, 1)
		synctest.Wait()
		second := b.region.assign(1, mode, "sleep")
		synctest.Wait()
		b.world.See(second, guest("bash", "cowsay"))
		b.pass(6 * time.Minute)
		if got := book.said(); got != "drift packages not declared: cowsay 1.0" {
			b.Errorf("of the next task on the same disk is noted: %q", got)
		}
	})
}

// TestAGuestCannotFillItsRecord tells of so many packages that a record with them
// could not be read again.
func TestAGuestCannotFillItsRecord(t *testing.T) {
	dir := t.TempDir()
	run(t, func(b *bed) {
		store, err := runner.OpenDir(dir)
		if err != nil {
			b.Fatal(err)
		}
		b.store = store
		book, mode := b.noting("")
		b.agent()
		id := b.region.assign(0, mode, "sleep")
		synctest.Wait()
		much := runner.Actual{Packages: map[string]string{}}
		for i := range 20_000 {
			much.Packages[strings.Repeat("x", 900)+string(rune('a'+i%26))+time.Duration(i).String()] = "1"
		}
		b.world.See(id, much)
		b.pass(10 * time.Minute)
		b.kill()
		b.agent() // which reads the records
		b.pass(time.Minute)
		b.runs(id)
		if got := book.said(); got != "" {
			b.Errorf("noted: %s", got)
		}
	})
}
