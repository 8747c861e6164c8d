package runner_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// renewing writes down what tasks' lists are made to mean.
type renewing struct {
	*fake.Driver
	mu   sync.Mutex
	last map[placement.TaskID][]netip.AddrPort
}

func (d *renewing) mean(s runner.Spec) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.last, s.Task)
	for _, entry := range s.Setup.Network.Allow {
		if _, err := netip.ParseAddrPort(entry); err == nil {
			continue
		}
		all, err := s.Resolve(entry)
		if err != nil {
			return err
		}
		d.last[s.Task] = append(d.last[s.Task], all...)
	}
	return nil
}

func (d *renewing) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	if s.Setup.Network != nil {
		if err := d.mean(s); err != nil {
			return runner.Handle{}, &runner.StartError{Task: s.Task, Reason: err.Error()}
		}
	}
	return d.Driver.Start(ctx, s)
}

func (d *renewing) Renew(_ context.Context, _ runner.Handle, s runner.Spec) error { return d.mean(s) }

func (d *renewing) means(id placement.TaskID) []netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last[id]
}

// A list with a name in it follows what the name stands for, also across a restart
// of the agent; of a name that stands for nothing any more nothing stays open.
func TestANameInAListIsFollowed(t *testing.T) {
	run(t, func(b *bed) {
		var mu sync.Mutex
		now, fault := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}, error(nil)
		stands := func(all []netip.AddrPort, err error) {
			mu.Lock()
			defer mu.Unlock()
			now, fault = all, err
		}
		d := &renewing{Driver: b.world.Driver(), last: map[placement.TaskID][]netip.AddrPort{}}
		b.change = func(c *runner.Config) {
			c.Drivers = map[string]runner.Driver{"fake": d}
			c.Resolve = func(name string) ([]netip.AddrPort, error) {
				mu.Lock()
				defer mu.Unlock()
				if name != "region:ber-1" {
					return nil, errors.New("what is " + name)
				}
				return now, fault
			}
		}
		b.agent()
		allow := func(entries ...string) func(*runner.Want) {
			return func(w *runner.Want) {
				w.Job.Spec.Setup = &placement.Setup{Network: &placement.Network{Allow: entries}}
			}
		}
		named := b.region.assign(0, allow("192.0.2.9:80", "region:ber-1"), "run", "10m", "0")
		fixed := b.region.assign(1, allow("192.0.2.9:80"), "run", "10m", "0")
		synctest.Wait()
		means := func(want string) {
			b.Helper()
			got := ""
			for _, at := range d.means(named) {
				got += at.String() + " "
			}
			if got != want {
				b.Errorf("the name stands for %q, want %q", got, want)
			}
		}
		means("192.0.2.1:443 ")
		stands([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:443"), netip.MustParseAddrPort("192.0.2.3:443")}, nil)
		b.pass(31 * time.Second)
		means("192.0.2.2:443 192.0.2.3:443 ")
		b.kill()
		stands([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.4:443")}, nil)
		b.agent()
		b.pass(31 * time.Second)
		means("192.0.2.4:443 ")
		stands(nil, errors.New("region ber-1 is not known here"))
		b.pass(31 * time.Second)
		means("")
		if got := d.means(fixed); got != nil {
			b.Errorf("a list without names means %v", got)
		}
		unknown := b.region.assign(2, allow("service:nothing"), "run", "10m", "0")
		synctest.Wait()
		if s := b.status(unknown); s.Status != placement.TaskFailed || s.Reason != "what is service:nothing" {
			b.Errorf("with a name that stands for nothing: %+v", s)
		}
	})
}
