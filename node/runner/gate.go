package runner

import (
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// RefusedPrefix begins the reason of a task that its node refused: nothing of
// it ran, so another node may be tried.
const RefusedPrefix = "refused by its node: "

// ClockGate refuses an assignment stamped more than max from this node's
// clock, in either direction: one of the two clocks is wrong, and laws, leases
// and certificates are judged by the clock.
func ClockGate(max time.Duration) Gate {
	return func(t placement.Task, _ placement.Job) error {
		off := time.Until(t.AssignedAt)
		if off.Abs() <= max {
			return nil
		}
		direction := "ahead of"
		if off < 0 {
			direction = "behind"
		}
		return fmt.Errorf("its assignment is stamped %s %s this node's clock (at most %s is taken); compare the clocks of this node and of its leader",
			off.Abs().Round(time.Second), direction, max)
	}
}

// Gates asks each gate in turn and refuses with the first reason.
func Gates(gates ...Gate) Gate {
	return func(t placement.Task, j placement.Job) error {
		for _, g := range gates {
			if err := g(t, j); err != nil {
				return err
			}
		}
		return nil
	}
}
