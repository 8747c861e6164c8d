package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func TestPartsStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var events []string
		mk := func(name string) part {
			return part{name: name, run: func(ctx context.Context) error {
				<-ctx.Done()
				events = append(events, name) // one at a time: each is awaited before the next is told
				return nil
			}}
		}
		done := make(chan error, 1)
		go func() { done <- runInOrder(ctx, mk("endpoint"), mk("consensus"), mk("api")) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if want := []string{"api", "consensus", "endpoint"}; !slices.Equal(events, want) {
			t.Errorf("stopped in the order %v, want %v", events, want)
		}
	})
}

func TestAFailingPartEndsTheOthersAndIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := false
		err := runInOrder(t.Context(),
			part{name: "endpoint", run: func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil }},
			part{name: "consensus", run: func(context.Context) error { return errors.New("no room on the disk") }},
		)
		if err == nil || !strings.Contains(err.Error(), "consensus: no room on the disk") {
			t.Errorf("error %v does not name the part and its reason", err)
		}
		if !stopped {
			t.Error("the part below was left running")
		}
	})
}
