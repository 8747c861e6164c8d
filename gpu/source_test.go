package gpu

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// teller is a source that says what it is told.
type teller struct {
	first Reading
	err   error
	said  chan Update
}

func (s *teller) Read(context.Context) (Reading, error) { return s.first, s.err }

func (s *teller) Watch(ctx context.Context, take func(Update)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-s.said:
			take(u)
		}
	}
}

func one(uuid string) *Reading {
	return &Reading{Devices: []Observed{{Device: placement.Device{UUID: uuid, Model: "m", Health: placement.DeviceOK}}}}
}

func TestJoinedSourcesAreOneMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &teller{first: *one("a"), said: make(chan Update)}, &teller{first: *one("b"), said: make(chan Update)}
		both := Join(a, b)
		if r, err := both.Read(t.Context()); err != nil || len(r.Devices) != 2 {
			t.Errorf("%+v, %v", r, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var counts []int
		var downs int
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = both.Watch(ctx, func(u Update) {
				if u.Reading != nil {
					counts = append(counts, len(u.Reading.Devices))
				}
				if u.Down != "" {
					downs++
				}
			})
		}()
		tell := func(to *teller, u Update) {
			to.said <- u
			synctest.Wait()
		}
		tell(a, Update{Reading: one("a")}) // half a machine is no reading
		tell(b, Update{Reading: one("b")})
		tell(b, Update{Down: "hangs"})
		tell(a, Update{Reading: one("a")}) // b is unknown, not gone, and no reason not to look at a
		tell(b, Update{Reading: one("b")})
		synctest.Wait()
		cancel()
		<-over
		if !slices.Equal(counts, []int{2, 1, 2}) || downs != 1 {
			t.Errorf("readings of %v devices, down %d times", counts, downs)
		}
	})
	if _, err := Join(&teller{first: *one("a")}, &teller{err: errors.New("no")}).Read(t.Context()); err == nil {
		t.Error("half a machine was read")
	}
}

// One reading without a device may be chance, however often another source
// speaks; a driver that is being replaced says nothing of its devices. Neither
// ends a task.
func TestOnlyItsOwnSourceLosesADevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &teller{said: make(chan Update)}, &teller{said: make(chan Update)}
		tracker := NewTracker(Memory{})
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = Join(a, b).Watch(ctx, func(u Update) {
				if u.Reading != nil {
					tracker.Read(*u.Reading, time.Now())
				}
			})
		}()
		tell := func(to *teller, r *Reading) {
			to.said <- Update{Reading: r}
			synctest.Wait()
		}
		tell(a, one("a"))
		tell(b, one("b"))
		tell(b, &Reading{})
		for range 3 {
			tell(a, one("a"))
		}
		if broken := tracker.Broken(); len(broken) != 0 {
			t.Errorf("broken %v after one reading without it", broken)
		}
		for range 3 {
			tell(b, &Reading{NoDriver: true})
			tell(a, one("a"))
		}
		if broken := tracker.Broken(); len(broken) != 0 {
			t.Errorf("broken %v while its driver is away", broken)
		}
		if d := tracker.Devices(); len(d) != 2 || d[0].Health != placement.DeviceOK || d[1].Health != placement.DeviceLost {
			t.Errorf("%+v, want b lost until its driver is back", d)
		}
		tell(b, &Reading{})
		tell(b, &Reading{})
		if broken := tracker.Broken(); len(broken) != 1 {
			t.Errorf("broken %v after its own driver did not list it twice", broken)
		}
		cancel()
		<-over
	})
}

// A driver that falls silent makes its own devices unknown: what another one says
// of its devices goes on to count, also while the first is silent.
func TestASilentSourceMarksItsOwnDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &teller{said: make(chan Update)}, &teller{said: make(chan Update)}
		tracker := NewTracker(Memory{})
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = Join(a, b).Watch(ctx, func(u Update) {
				switch {
				case u.Reading != nil:
					tracker.Read(*u.Reading, time.Now())
				case u.Down != "":
					tracker.Down(u.Down, u.Source, time.Now())
				}
			})
		}()
		tell := func(to *teller, u Update) {
			to.said <- u
			synctest.Wait()
		}
		want := func(what, want string) {
			t.Helper()
			got := ""
			for _, d := range tracker.Devices() {
				got += d.UUID + " " + string(d.Health) + " "
			}
			if got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		tell(a, Update{Reading: one("a")})
		tell(b, Update{Reading: one("b")})
		tell(a, Update{Down: "hangs"})
		want("a is silent", "a lost b ok ")
		for range 3 {
			tell(b, Update{Reading: one("b")})
		}
		want("b speaks on", "a lost b ok ")
		sick := one("b")
		sick.Devices[0].Facts.RemapFailed = true
		tell(b, Update{Reading: sick})
		want("b has a fault meanwhile", "a lost b cordoned ")
		tell(a, Update{Reading: one("a")})
		want("a is back", "a ok b cordoned ")
		cancel()
		<-over
	})
}
