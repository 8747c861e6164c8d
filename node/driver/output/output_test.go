package output_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/output"
)

// TestOutputIsTheSameThroughRotation reads what is written, from random places,
// while it is written and by writers that come after one another.
func TestOutputIsTheSameThroughRotation(t *testing.T) {
	dir := t.TempDir()
	w := &output.Writer{Dir: dir, FileSize: 1000, Files: 5}
	var all []byte
	random := rand.New(rand.NewPCG(1, 2))
	over := make(chan struct{})
	followed := make(chan []byte, 1)
	read := func(from int64, follow bool) []byte {
		r := output.Open(t.Context(), dir, from, follow, func() bool {
			select {
			case <-over:
				return true
			default:
				return false
			}
		})
		defer r.Close()
		data, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		return data
	}
	go func() { followed <- read(0, true) }()
	for i := range 400 {
		if i%70 == 69 { // the program that writes is another one now
			_ = w.Close()
			w = &output.Writer{Dir: dir, FileSize: 1000, Files: 5}
			if err := w.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		part := make([]byte, random.IntN(300))
		for i := range part {
			part[i] = byte('a' + random.IntN(26))
		}
		all = append(all, part...)
		if n, err := w.Write(part); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
		kept := read(0, false)
		if len(kept) > 5000 || !bytes.HasSuffix(all, kept) || (len(all) > 5000 && len(kept) < 4000) {
			t.Fatalf("%d bytes are kept of %d; the end: %v", len(kept), len(all), bytes.HasSuffix(all, kept))
		}
		if from := len(all) - random.IntN(len(kept)+1); !bytes.Equal(read(int64(from), false), all[from:]) {
			t.Fatalf("from byte %d: wrong bytes", from)
		}
	}
	close(over)
	if got := <-followed; !bytes.HasSuffix(all, got[max(0, len(got)-4000):]) {
		t.Error("a follower that fell behind ends with other bytes")
	}
}

// TestAFollowerHearsSoon: the first line of what just began is waited for, and what
// is printed line by line does not cost a look each.
func TestAFollowerHearsSoon(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := &output.Writer{Dir: dir, FileSize: 1 << 20, Files: 2}
		defer w.Close()
		over := make(chan struct{})
		r := output.Open(t.Context(), dir, 0, true, func() bool {
			select {
			case <-over:
				return true
			default:
				return false
			}
		})
		defer r.Close()
		first := make(chan time.Duration)
		looks := make(chan int)
		go func() {
			n, buf := 0, make([]byte, 1<<10)
			for {
				_, err := r.Read(buf)
				if err != nil {
					looks <- n
					return
				}
				if n++; n == 1 {
					first <- time.Since(began)
				}
			}
		}()
		time.Sleep(8 * time.Millisecond)
		_, _ = w.Write([]byte("line\n"))
		if took := <-first; took > 12*time.Millisecond {
			t.Errorf("a line printed after 8ms is heard after %v", took)
		}
		for range 1000 { // a second
			_, _ = w.Write([]byte("line\n"))
			time.Sleep(time.Millisecond)
		}
		close(over)
		if n := <-looks; n > 250 {
			t.Errorf("%d reads of what was printed within a second", n)
		}
	})
}
