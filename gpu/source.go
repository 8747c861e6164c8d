package gpu

import (
	"context"
	"fmt"
	"sync"

	"github.com/sovmesh/sovmesh/placement"
)

// Source is where a node learns of its devices.
type Source interface {
	// Read takes one look. An error means that nothing can be said now.
	Read(ctx context.Context) (Reading, error)
	// Watch tells take of everything that is seen until ctx ends; what it cannot
	// see it says as [Update.Down]. It calls take from one goroutine at a time.
	Watch(ctx context.Context, take func(Update)) error
}

// Fixed is a source of devices that never change: simulated ones, or none.
type Fixed []placement.Device

// Read gives the devices.
func (f Fixed) Read(context.Context) (Reading, error) {
	r := Reading{Devices: make([]Observed, len(f))}
	for i, d := range f {
		r.Devices[i].Device = d
	}
	return r, nil
}

// Watch says once what there is.
func (f Fixed) Watch(ctx context.Context, take func(Update)) error {
	r, _ := f.Read(ctx) // has no error
	take(Update{Reading: &r})
	<-ctx.Done()
	return nil
}

// Join sees the devices of several sources as those of one machine. A source
// that fails to be read at the start hides the others: half a machine looks like
// a loss. One that falls silent later makes its own devices unknown, and no others.
func Join(sources ...Source) Source {
	if len(sources) == 1 {
		return sources[0]
	}
	return joined(sources)
}

type joined []Source

// Read looks at every source.
func (j joined) Read(ctx context.Context) (Reading, error) {
	all := make([]Reading, len(j))
	for i, s := range j {
		r, err := s.Read(ctx)
		if err != nil {
			return Reading{}, fmt.Errorf("source of devices %d: %w", i+1, err)
		}
		all[i] = r
	}
	return merge(all), nil
}

// Watch follows every source; a reading is told once each of them has spoken.
func (j joined) Watch(ctx context.Context, take func(Update)) error {
	var (
		mu   sync.Mutex
		last = make([]*Reading, len(j)) // guarded by mu, which also orders take
		down = make([]bool, len(j))     // guarded by mu
		wg   sync.WaitGroup
		errs = make([]error, len(j))
	)
	for i, s := range j {
		wg.Go(func() {
			errs[i] = s.Watch(ctx, func(u Update) {
				mu.Lock()
				defer mu.Unlock()
				if u.Reading == nil {
					if u.Down != "" {
						last[i], down[i], u.Source = nil, true, i+1
					}
					take(u)
					return
				}
				last[i], down[i] = u.Reading, false
				all := make([]Reading, len(j))
				for k, r := range last {
					if r == nil && !down[k] {
						return
					}
					if r != nil {
						all[k] = *r
					}
				}
				r := merge(all)
				r.Source = i + 1
				take(Update{Reading: &r})
			})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func merge(all []Reading) Reading {
	var out Reading
	for i, r := range all {
		if r.NoDriver {
			out.Absent = append(out.Absent, i+1)
		}
		if out.DriverVersion == "" {
			out.DriverVersion, out.CUDA = r.DriverVersion, r.CUDA
		}
		for _, d := range r.Devices {
			d.Source = i + 1
			out.Devices = append(out.Devices, d)
		}
		out.Missing = append(out.Missing, r.Missing...)
	}
	return out
}
