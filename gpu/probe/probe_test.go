package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/placement"
)

// childEnv makes this test program a child that behaves as it says.
const childEnv = "SOVMESH_TEST_PROBE"

func TestMain(m *testing.M) {
	how := os.Getenv(childEnv)
	if how == "" {
		os.Exit(m.Run())
	}
	switch how {
	case "garbage":
		fmt.Println(`{"hello":1}`)
		fmt.Println("\x00\x01 no JSON")
	case "endless":
		fmt.Print(strings.Repeat("x", 3*maxLine))
	case "rude":
		fmt.Println(`{"reading":{"devices":[]}}`)
	case "silent":
	case "liar":
		fmt.Println(`{"hello":1}`)
		fmt.Println(`{"reading":{"devices":[{"uuid":"a","model":"m","memory":0,"memory_bytes":-5,"health":"ok"},{"uuid":"b","model":"m","memory":0,"memory_bytes":1,"health":"ok"},{"uuid":"c","model":"m","memory":0,"memory_bytes":1,"health":"ok"},{"uuid":"c","model":"m","memory":0,"memory_bytes":1,"health":"ok"}]}}`)
	case "127":
		fmt.Fprintln(os.Stderr, "symbol lookup error: undefined symbol: nvmlDeviceGetSerial")
		os.Exit(127)
	case "newer":
		fmt.Println(`{"hello":2}`)
	}
	var one [1]byte
	_, _ = os.Stdin.Read(one[:]) // until the agent ends it
}

func supervise(t *testing.T, how string) *Supervisor {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Command, cfg.Env = []string{os.Args[0]}, []string{childEnv + "=" + how}
	cfg.Start = 5 * time.Second
	if how == "silent" {
		cfg.Start = 200 * time.Millisecond
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAChildThatMisbehavesIsAnError(t *testing.T) {
	for how, want := range map[string]string{
		"garbage": "a line that is no message",
		"endless": "a line of more than",
		"rude":    "a greeting that is missing",
		"silent":  "did not answer within 200ms",
		"127":     "lacks a function that was called, which ended the probe: symbol lookup error: undefined symbol: nvmlDeviceGetSerial",
		"newer":   "version 2 of the protocol",
	} {
		_, err := supervise(t, how).Read(t.Context())
		var f *Failure
		if !errors.As(err, &f) || !strings.Contains(err.Error(), want) || f.Hint() == "" {
			t.Errorf("%s: %v, want %q", how, err, want)
		}
	}
}

func TestDevicesThatLieAreDropped(t *testing.T) {
	r, err := supervise(t, "liar").Read(t.Context())
	if err != nil || len(r.Devices) != 1 || r.Devices[0].UUID != "b" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAProgramThatIsNotThere(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Command = []string{"/nowhere/at/all"}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be started") {
		t.Errorf("got %v", err)
	}
}

// scripted is a driver that plays a list of events and then fails; an event
// without a device is two seconds without one.
type scripted struct {
	events []gpu.Event
	reads  int
}

func (s *scripted) Read() (gpu.Reading, error) {
	s.reads++
	return gpu.Reading{Devices: []gpu.Observed{{Device: placement.Device{UUID: "a", Model: "m", Health: placement.DeviceOK}}}}, nil
}
func (s *scripted) Sample() []gpu.Sample { return []gpu.Sample{{UUID: "a", Utilization: new(7)}} }
func (s *scripted) Close()               {}
func (s *scripted) Wait(time.Duration) (*gpu.Event, error) {
	if len(s.events) == 0 {
		return nil, errors.New("the driver is gone")
	}
	e := s.events[0]
	s.events = s.events[1:]
	if e.UUID == "" {
		time.Sleep(2 * time.Second) // virtual
		return nil, nil
	}
	return &e, nil
}

// A program that faults in a loop is heard each time, and makes the child read
// all devices once a second at most.
func TestFaultsInALoopDoNotReadInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{}
		for range 3 {
			d.events = append(d.events, slices.Repeat([]gpu.Event{{UUID: "a", XID: 13}}, 1000)...)
			d.events = append(d.events, gpu.Event{})
		}
		var out bytes.Buffer
		_ = Serve(d, &out, Pace{Reading: time.Hour, Sample: time.Hour, Beat: time.Second}, false)
		if d.reads != 4 {
			t.Errorf("%d readings of three bursts, two seconds apart", d.reads)
		}
		if n := strings.Count(out.String(), `"event"`); n != 3000 {
			t.Errorf("%d of 3000 events were told", n)
		}
	})
}

func TestWhatIsServedIsUnderstood(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{events: []gpu.Event{{}, {UUID: "a", XID: 79}}}
		if err := Serve(d, &out, Pace{Reading: time.Hour, Sample: time.Hour, Beat: time.Second}, false); err == nil {
			t.Error("the child goes on without its driver")
		}
	})
	var said []string
	for l := range strings.Lines(out.String()) {
		m, err := parse([]byte(l))
		if err != nil {
			t.Fatalf("%s: %v", l, err)
		}
		switch {
		case m.Hello != 0:
			said = append(said, "hello")
		case m.Reading != nil:
			said = append(said, "reading")
		case m.Samples != nil:
			said = append(said, "samples")
		case m.Event != nil:
			said = append(said, fmt.Sprint("event ", m.Event.XID))
		case m.End != nil:
			said = append(said, m.End.Kind)
		}
	}
	if got := strings.Join(said, ","); got != "hello,reading,samples,event 79,reading,unusable" {
		t.Errorf("said %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"hello":1}`, `{"beat":true}`, `{"event":{"uuid":"GPU-1","xid":79,"at":"2026-01-01T00:00:00Z"}}`, `{"end":{"kind":"none","reason":"x"}}`,
		`{"samples":[{"uuid":"a","at":"2026-01-01T00:00:00Z","utilization_percent":101}]}`, `{"reading":{"devices":[{"uuid":"a","model":"m","memory":0,"memory_bytes":1,"health":"ok","facts":{"lost":true}}]}}`, `{} {}`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parse(line)
		if err != nil {
			return
		}
		for _, s := range m.Samples {
			if s.Utilization != nil && (*s.Utilization < 0 || *s.Utilization > 100) {
				t.Fatalf("a utilization of %d", *s.Utilization)
			}
		}
		if m.Reading != nil {
			kept, _ := gpu.Sift(m.Reading.Devices)
			tracker := gpu.NewTracker(gpu.Memory{})
			tracker.Read(gpu.Reading{Devices: kept}, time.Unix(1, 0))
			if err := gpu.Check(tracker.Devices()); err != nil {
				t.Fatalf("what was sifted is refused: %v", err)
			}
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(again); err != nil && len(again) <= maxLine {
			t.Fatalf("%s: %v", again, err)
		}
	})
}

func TestLinesThatAreRefused(t *testing.T) {
	for _, line := range []string{
		``, `null`, `{}`, `{"beat":true,"hello":1}`, `{"beat":true} {"beat":true}`, `{"beat":true,"more":1}`, `{"hello":2}`,
		`{"samples":[{"uuid":"a","at":"2026-01-01T00:00:00Z","utilization_percent":101}]}`, `{"samples":[{"uuid":"a","at":"2026-01-01T00:00:00Z","power_milliwatts":-1}]}`,
		`{"samples":[{"uuid":"","at":"2026-01-01T00:00:00Z"}]}`, `{"event":{"uuid":"` + strings.Repeat("x", 129) + `","xid":79,"at":"2026-01-01T00:00:00Z"}}`,
	} {
		if m, err := parse([]byte(line)); err == nil {
			t.Errorf("%.60s was taken as %+v", line, m)
		}
	}
}
