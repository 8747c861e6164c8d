package fetch

import (
	"context"
	"errors"
	"io"
	"testing"
)

// hungUp is an answer whose asker goes away, and that ends well all the same.
type hungUp func()

func (h hungUp) Read(p []byte) (int, error) {
	h()
	return copy(p, "da"), io.EOF
}

func TestAnEndAfterTheContextsIsNone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if got, err := io.ReadAll(Reading(ctx, hungUp(func() {}))); err != nil || string(got) != "da" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := io.ReadAll(Reading(ctx, hungUp(cancel))); !errors.Is(err, context.Canceled) {
		t.Errorf("the half of a file counts as a whole one: %v", err)
	}
	if _, err := io.ReadAll(Reading(ctx, hungUp(func() { t.Error("it is read after its end") }))); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
