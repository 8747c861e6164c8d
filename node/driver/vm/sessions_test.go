//go:build linux

package vm

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/boundary/boundarytest"
	"github.com/sovmesh/sovmesh/node/driver/handover"
	"github.com/sovmesh/sovmesh/placement"
)

// says writes to a session and expects the guest's echo.
func says(t *testing.T, c net.Conn, word string) {
	t.Helper()
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatalf("say %q: %v", word, err)
	}
	hears(t, c, word)
}

func hears(t *testing.T, c net.Conn, word string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(word))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != word {
		t.Fatalf("heard %q, %v; want %q", got[:n], err, word)
	}
}

// TestASessionOutlivesTheMove: a connection into the guest goes on where the guest
// does, twice, and where the move is given up it goes on where it was.
func TestASessionOutlivesTheMove(t *testing.T) {
	w := boundarytest.New(t)
	n := &nodes{images: smallGuest(t), dirs: [2]string{t.TempDir(), t.TempDir()}}
	for i, d := range []**Driver{&n.from, &n.to} {
		*d = n.again(t, i, func(c *Config) { c.Hold.Network = w.Boundary(t, filepath.Join(n.dirs[i], "networks")) })
	}
	s := spec(31, "serve held 198.18.0.1:22", nil)
	h := start(t, n.from, s)
	awaits(t, n.from, h, "serving\n")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := n.from.Dial(ctx, h, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	says(t, c, "here")
	// Tasks that use it as a service take nobody's place in the move.
	service, err := n.from.DialService(ctx, h, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	says(t, service, "to a service")
	if all := n.from.sessions.of(h.Task, maxSessions); len(all) != 1 {
		t.Fatalf("%d sessions would go along", len(all))
	}

	// Given up after everything was sent.
	s2 := next(s)
	destroyed(t, n.to, s2.Task)
	if sent, received := move(t, n, h, s2, placement.MoveLive, newLine(t, "", 0), nil); sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	h2 := h
	h2.Task = s2.Task
	if err := n.to.Finish(ctx, h2, false); err != nil {
		t.Fatal(err)
	}
	if err := n.from.Finish(ctx, h, true); err != nil {
		t.Fatal(err)
	}
	says(t, c, "still here")

	// Moved: what is said while the guest stands reaches it over there.
	s3 := next(s2)
	destroyed(t, n.to, s3.Task)
	l := newLine(t, "", 0)
	if sent, received := move(t, n, h, s3, placement.MoveLive, l, nil); sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	said := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, "meanwhile")
		said <- err
	}()
	h3 := h
	h3.Task = s3.Task
	if err := n.to.Finish(ctx, h3, true); err != nil {
		t.Fatal(err)
	}
	if err := n.from.Finish(ctx, h, false); err != nil {
		t.Fatal(err)
	}
	if err := <-said; err != nil {
		t.Fatal(err)
	}
	hears(t, c, "meanwhile")
	if err := n.from.Destroy(ctx, h); err != nil {
		t.Fatal(err)
	}
	says(t, c, "the old node has nothing of it any more")
	fresh, err := n.to.Dial(ctx, h3, 7)
	if err != nil {
		t.Fatal(err)
	}
	says(t, fresh, "a new one")
	_ = fresh.Close()

	// The end of the machine is the end of its sessions.
	if err := n.to.Destroy(ctx, h3); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if left, err := io.ReadAll(c); len(left) > 0 || isTimeout(err) {
		t.Fatalf("after its end the session says %q, %v", left, err)
	}
}

func isTimeout(err error) bool {
	late, ok := err.(net.Error)
	return ok && late.Timeout()
}

// A state that leads elsewhere than into the machine makes no connection: the other
// side is not believed.
func TestASessionLeadsIntoTheMachineAlone(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	good := `{"local":"198.18.0.1:4000","remote":"198.18.0.2:22","max_segment":1460}`
	for name, state := range map[string]string{
		"to another address":   `{"local":"198.18.0.1:4000","remote":"192.0.2.2:22","max_segment":1460}`,
		"from another address": `{"local":"127.0.0.1:4000","remote":"198.18.0.2:22","max_segment":1460}`,
		"no state":             `{}`,
		"no JSON":              `state`,
		"without a network":    good,
	} {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(state))), state...))
		}()
		if err := d.takeSession(t.Context(), "fra.1/0.1", here); err == nil {
			t.Errorf("%s: taken", name)
		}
		_ = there.SetReadDeadline(time.Now().Add(patience))
		if _, err := there.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: its stream is still open: %v", name, err)
		}
	}
	for i := range 300 {
		name := "session" + strconv.Itoa(i)
		if sessionNumber(name) != (i < maxSessions) {
			t.Errorf("stream %s", name)
		}
	}
	for _, name := range []string{"session", "session01", "session-1", "disk0", ""} {
		if sessionNumber(name) {
			t.Errorf("stream %q is taken for a session's", name)
		}
	}
}

// A move has so many streams: disks have theirs before sessions do.
func TestSessionsBesideDisks(t *testing.T) {
	for disks, want := range map[int]int{1: 8, 5: 8, 6: 7, 12: 1, 13: 0, 64: 0} {
		if got := sessionsBeside(disks); got != want {
			t.Errorf("beside %d disks %d go along, want %d", disks, got, want)
		}
	}
	s := newSessions()
	for range maxSessions + 2 {
		s.track("fra.1/0.1", &net.TCPConn{})
	}
	if got := len(s.of("fra.1/0.1", 2)); got != 2 {
		t.Errorf("%d go along, want 2", got)
	}
}

func FuzzSession(f *testing.F) {
	var b bytes.Buffer
	if err := writeSession(&b, handover.State{MaxSegment: 1460}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := readSession(bytes.NewReader(data)); err == nil && s.Validate() != nil {
			t.Fatalf("%q was taken", data)
		}
	})
}
