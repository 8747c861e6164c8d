package api

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFramesCarryWhatTheyAreGiven(t *testing.T) {
	var wire bytes.Buffer
	flushed := 0
	w := &frameWriter{w: &wire, flush: func() { flushed++ }}
	long := strings.Repeat("x", 2*maxFrame+7)
	if err := w.json(frameHead, ReachHead{Command: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if n, err := io.WriteString(w.as(frameIn), long); err != nil || n != len(long) {
		t.Fatal(n, err)
	}
	if err := w.write(frameInEnd, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.json(frameHead, ReachHead{Command: []string{long}}); err == nil {
		t.Error("a head beyond its bound was written")
	}
	r := &frameReader{r: &wire}
	var kinds []frameKind
	var in strings.Builder
	for {
		kind, payload, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, kind)
		if kind == frameIn {
			in.Write(payload)
		}
	}
	if in.String() != long || len(kinds) != 5 || kinds[0] != frameHead || kinds[4] != frameInEnd || flushed != 3 {
		t.Errorf("read %d bytes in %v, flushed %d times", in.Len(), kinds, flushed)
	}
}

func TestFramesOfNoProtocolAreRefused(t *testing.T) {
	for name, wire := range map[string]string{
		"no kind": "\x00\x00\x00\x00", "a kind to come": "\x08\x00\x00\x00", "too long": "\x02\x01\x00\x01" + strings.Repeat("x", maxFrame+1),
		"cut in its head": "\x02\x00", "cut in its payload": "\x02\x00\x00\x05abc", "HTTP": "GET / HTTP/1.1\r\n",
	} {
		if _, _, err := (&frameReader{r: strings.NewReader(wire)}).next(); err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzFrames holds the reader to this: no panic, never more than its bound, and
// what it accepts is written again as the same bytes.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x02{}\x02\x00\x00\x03abc\x03\x00\x00\x00"))
	f.Add([]byte("\x02\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &frameReader{r: bytes.NewReader(data)}
		var again bytes.Buffer
		for {
			kind, payload, err := r.next()
			if err != nil {
				break
			}
			if len(payload) > maxFrame {
				t.Fatalf("a payload of %d bytes", len(payload))
			}
			if err := writeFrame(&again, kind, payload); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(data, again.Bytes()) {
			t.Fatalf("%x was read as %x", data, again.Bytes())
		}
	})
}

// FuzzSnapshotArchive holds the unpacker to this: whatever comes, nothing is
// written outside of its directory, and nothing that is there is written over.
func FuzzSnapshotArchive(f *testing.F) {
	f.Add([]byte("manifest.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = unpackSnapshot(bytes.NewReader(data), t.TempDir())
	})
}
