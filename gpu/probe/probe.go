// Package probe keeps a GPU driver's library in a child process.
//
// A library that lacks a function ends the process that calls it, and a driver
// can hang inside a call for good. Neither may take the agent of a node down:
// so the library is opened in a child ([Serve]), which says what it sees on its
// standard output, one JSON object a line, and the agent listens ([Supervisor]).
// A child that is silent, crashes or talks nonsense is ended and begun again,
// with growing pauses; meanwhile its devices are unknown, not gone.
//
// Both ends of the protocol are here. The agent trusts the child no more than a
// peer: what it reads is bounded, strict, and judged before it counts.
package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
)

// protocol is the version that a child must speak.
const protocol = 1

// maxLine bounds a line, in bytes: the devices of the largest node need a
// quarter of it.
const maxLine = 1 << 20

// The kinds of an end that the child itself announces.
const (
	endNone     = "none"     // there is no library, or this build cannot load it
	endUnusable = "unusable" // there is one, and it cannot be used
)

// message is one line of the child. Exactly one of its fields is set.
type message struct {
	Hello   int          `json:"hello,omitempty"` // the protocol's version, first of all
	Reading *gpu.Reading `json:"reading,omitempty"`
	Samples []gpu.Sample `json:"samples,omitempty"`
	Event   *gpu.Event   `json:"event,omitempty"`
	Beat    bool         `json:"beat,omitempty"` // nothing new, and alive
	End     *end         `json:"end,omitempty"`
}

type end struct {
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
}

// parse reads one line of a child. It refuses unknown fields, whatever follows,
// a line that says nothing or two things, and values that no device has.
func parse(line []byte) (message, error) {
	var m message
	if len(line) > maxLine {
		return m, fmt.Errorf("a line of %d bytes", len(line))
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("a line that is no message: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("a line with something after its message")
	}
	said := 0
	for _, is := range []bool{m.Hello != 0, m.Reading != nil, m.Samples != nil, m.Event != nil, m.Beat, m.End != nil} {
		if is {
			said++
		}
	}
	if said != 1 {
		return m, fmt.Errorf("a line that says %d things", said)
	}
	return m, m.check()
}

// check bounds what the devices themselves are not judged by.
func (m *message) check() error {
	switch {
	case m.Hello != 0 && m.Hello != protocol:
		return fmt.Errorf("version %d of the protocol, where %d was expected", m.Hello, protocol)
	case len(m.Samples) > 2*gpu.MaxDevices:
		return fmt.Errorf("%d samples at once", len(m.Samples))
	case m.Event != nil && len(m.Event.UUID) > 128:
		return errors.New("an event of a device with an endless name")
	case m.Reading != nil && (len(m.Reading.DriverVersion) > 64 || len(m.Reading.CUDA) > 64 || len(m.Reading.Missing) > 64):
		return errors.New("a reading with endless texts")
	}
	for i := range m.Samples {
		s := &m.Samples[i]
		if s.UUID == "" || len(s.UUID) > 128 || beyond(s.Utilization, 100) || beyond(s.MemoryBusy, 100) || beyond(s.Temperature, 1000) ||
			beyond(s.Power, 1e8) || beyond(s.PowerLimit, 1e8) || beyond(s.Energy, 1<<62) || beyond(s.MemoryUsed, 1<<56) || beyond(s.MemoryTotal, 1<<56) ||
			beyond(s.ClockSM, 1e5) || beyond(s.ClockMemory, 1e5) || beyond(s.ECCErrors, 1<<62) || beyond(s.PCIeReplays, 1<<62) || beyond(s.LinkErrors, 1<<62) {
			return fmt.Errorf("a sample of %q that no device gives", s.UUID)
		}
	}
	return nil
}

// beyond reports a value below zero or above most; nil is not known.
func beyond[T ~int | ~int64](v *T, most int64) bool { return v != nil && (*v < 0 || int64(*v) > most) }

// Driver is what a child reads. Calls may hang.
type Driver interface {
	Read() (gpu.Reading, error)
	Sample() []gpu.Sample
	// Wait waits for an event, or returns nil when the time is over.
	Wait(limit time.Duration) (*gpu.Event, error)
	Close()
}

// Pace is how often a child does what.
type Pace struct {
	Reading time.Duration // a look at all devices
	Sample  time.Duration // what they do
	Beat    time.Duration // the longest silence
}

// DefaultPace suits a production node: a reading takes a driver some
// milliseconds a device.
func DefaultPace() Pace {
	return Pace{Reading: 10 * time.Second, Sample: 2 * time.Second, Beat: time.Second}
}

// Serve is the child: it writes what the driver says to out until that fails.
// All calls into the driver are made one after the other, so that one that
// hangs makes the child silent. If once is set it ends after the first reading.
func Serve(driver Driver, out io.Writer, pace Pace, once bool) error {
	w := json.NewEncoder(out)
	if err := w.Encode(message{Hello: protocol}); err != nil {
		return err
	}
	var lastReading, nextReading, nextSample time.Time
	for {
		now := time.Now()
		if !now.Before(nextReading) {
			lastReading = now
			r, err := driver.Read()
			if err != nil {
				return End(out, false, err)
			}
			for i := range r.Devices {
				r.Devices[i].MemoryBytes, r.Devices[i].Memory = int64(r.Devices[i].Memory), 0
			}
			if err := w.Encode(message{Reading: &r}); err != nil || once {
				return err
			}
			nextReading = now.Add(pace.Reading)
		}
		if !now.Before(nextSample) {
			nextSample = now.Add(pace.Sample)
			if s := driver.Sample(); len(s) > 0 {
				if err := w.Encode(message{Samples: s}); err != nil {
					return err
				}
			}
		}
		event, err := driver.Wait(min(pace.Beat, max(time.Until(nextReading), 10*time.Millisecond)))
		m := message{Beat: true}
		switch {
		case err != nil:
			return End(out, false, err)
		case event != nil:
			m = message{Event: event}
			// What it did to the device is news too; a program that faults in a loop
			// is no reason to read all devices each time.
			nextReading = earlier(nextReading, lastReading.Add(afterFault))
		}
		if err := w.Encode(m); err != nil {
			return err
		}
	}
}

// afterFault is how soon after a reading a fault makes another one.
const afterFault = time.Second

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// End is the last word of a child that cannot go on: there is nothing to read
// on this machine (none), or what there is cannot be used.
func End(out io.Writer, none bool, why error) error {
	kind := endUnusable
	if none {
		kind = endNone
	}
	if err := json.NewEncoder(out).Encode(message{End: &end{kind, why.Error()}}); err != nil {
		return err
	}
	return why
}
