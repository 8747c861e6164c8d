package gpu

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

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
		tell(a, Update{Reading: one("a")}) // b is unknown, not gone
		tell(b, Update{Reading: one("b")})
		synctest.Wait()
		cancel()
		<-over
		if len(counts) != 2 || counts[0] != 2 || counts[1] != 2 || downs != 1 {
			t.Errorf("readings of %v devices, down %d times", counts, downs)
		}
	})
	if _, err := Join(&teller{first: *one("a")}, &teller{err: errors.New("no")}).Read(t.Context()); err == nil {
		t.Error("half a machine was read")
	}
}
