package wire

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
)

func TestFramesComeAsTheyWent(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	big := strings.Repeat("x", 3*MaxPayload)
	for _, err := range []error{
		w.Send(Stdout, 7, []byte("out")), w.SendCredit(8, 1234), w.Send(Resize, 9, AppendSize(80, 25)),
		w.SendJSON(Exited, 0, Exit{Code: 3}), w.SendCommand(1, Command{Argv: []string{big}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&buf)
	next := func(want Type, run uint32) Frame {
		t.Helper()
		f, err := r.Next()
		if err != nil || f.Type != want || f.Run != run {
			t.Fatalf("it reads %+v, %v", f, err)
		}
		return f
	}
	if f := next(Stdout, 7); string(f.Payload) != "out" {
		t.Errorf("%q", f.Payload)
	}
	if n, err := next(Credit, 8).Number(); n != 1234 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if c, rows, err := next(Resize, 9).Size(); c != 80 || rows != 25 || err != nil {
		t.Errorf("%d, %d, %v", c, rows, err)
	}
	var e Exit
	if err := next(Exited, 0).Decode(&e); err != nil || e.Code != 3 {
		t.Errorf("%+v, %v", e, err)
	}
	total := 0
	for {
		f, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == Begin {
			break
		}
		total += len(f.Payload)
	}
	if total < len(big) {
		t.Errorf("a command of %d bytes came as %d", len(big), total)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestFramesAreBounded(t *testing.T) {
	for name, data := range map[string]string{
		"no type":      "\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"unknown type": "\xff\x00\x00\x00\x00\x00\x00\x00\x00",
		"too large":    "\x01\x00\x00\x00\x00\x00\x01\x00\x01",
		"cut off":      "\x01\x00\x00\x00\x00\x00\x00\x00\x05abc",
	} {
		if _, err := NewReader(strings.NewReader(data)).Next(); err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := NewWriter(io.Discard)
	if w.Send(Stdout, 0, make([]byte, MaxPayload+1)) == nil {
		t.Error("a payload that is too large is sent")
	}
	if w.SendCommand(0, Command{Argv: []string{strings.Repeat("x", MaxJSON)}}) == nil {
		t.Error("a command that is too large is sent")
	}
}

func TestCreditHoldsASenderBack(t *testing.T) {
	g := NewGate()
	if n := g.Take(2 * Window); n != Window {
		t.Fatalf("it takes %d", n)
	}
	var sent sync.WaitGroup
	got := 0
	sent.Go(func() { got = g.Take(100) })
	g.Add(10)
	sent.Wait()
	if got != 10 {
		t.Errorf("it takes %d of 10", got)
	}
	g.Add(1 << 60) // a number of the other side's
	if n := g.Take(2 * Window); n != Window {
		t.Errorf("it has %d, more than a window", n)
	}
	g.Close()
	if g.Take(1) != 0 {
		t.Error("a closed gate lets through")
	}
}

func TestQueueTakesAWindow(t *testing.T) {
	q := NewQueue()
	if !q.Put(make([]byte, Window)) || q.Put([]byte{1}) {
		t.Error("it takes more or less than a window")
	}
	p := make([]byte, Window)
	if n := q.Get(p); n != Window {
		t.Errorf("it gives %d", n)
	}
	q.End()
	if q.Get(p) != 0 {
		t.Error("there is something after the end")
	}
}

// FuzzReader reads anything as frames, and what can be read as what it may say.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x0c\x00\x00\x00\x00\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for r := NewReader(bytes.NewReader(data)); ; {
			frame, err := r.Next()
			if err != nil {
				return
			}
			if len(frame.Payload) > MaxPayload {
				t.Fatal("a frame out of its bounds")
			}
			_, _ = frame.Number()
			_, _, _ = frame.Size()
			_ = frame.Decode(&Greeting{})
			_ = frame.Decode(&Exit{})
		}
	})
}
