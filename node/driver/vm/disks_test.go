//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
)

// serviceOf is one whose root disk is kept.
func serviceOf(ordinal, attempt int) runner.Spec {
	return spec(ordinal, "", func(s *runner.Spec) { s.Task, s.Service = testJob.Task(ordinal, attempt), true })
}

func TestAKeptDiskIsNeverTakenForNone(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	s, img := serviceOf(1, 1), Image{Digest: "sha256:" + strings.Repeat("a", 64), Format: Raw, Virtual: 1 << 20}
	root, _, err := d.rootDisk(s, img)
	if err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(d.kept(s.Task), rootNote)
	kept, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"lost":    func() error { return os.Remove(note) },
		"cut off": func() error { return os.WriteFile(note, nil, 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		_, _, err := d.rootDisk(s, img)
		var refused *runner.StartError
		if !errors.As(err, &refused) || refused.Advice == "" {
			t.Errorf("its note is %s: %v; want a refusal that says what to do", name, err)
		}
		if _, err := os.Stat(root.Path); err != nil {
			t.Fatalf("its note is %s, and its disk is gone: %v", name, err)
		}
		if err := d.Destroy(t.Context(), runner.Handle{Version: 1, Driver: d.Name(), Task: testJob.Task(2, 1)}); err != nil {
			t.Errorf("its note is %s, and another task cannot be removed: %v", name, err)
		}
		if err := os.WriteFile(note, kept, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A start that was cut off before the disk had its name is completed.
	if err := os.Rename(root.Path, root.Path+".new"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.rootDisk(s, img); err != nil {
		t.Errorf("a start that was cut off: %v", err)
	}
}

func TestASlowServerHoldsUpNobodyElse(t *testing.T) {
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "here.raw"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs, c.HTTP = []string{dir}, server.Client() })
	ctx, cancel := context.WithCancel(t.Context())
	slow := make(chan error, 1)
	go func() {
		slow <- d.Prepare(ctx, spec(1, "", func(s *runner.Spec) {
			s.Image, s.Setup.ImageDigest = server.URL+"/slow.raw", "sha256:"+strings.Repeat("b", 64)
		}))
	}()
	<-asked
	soon, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	if err := d.Prepare(soon, spec(2, "", func(s *runner.Spec) { s.Image = "./here.raw" })); err != nil {
		t.Errorf("another image while one comes slowly: %v", err)
	}
	if err := d.Destroy(soon, runner.Handle{Version: 1, Driver: d.Name(), Task: testJob.Task(3, 1)}); err != nil || soon.Err() != nil {
		t.Errorf("an end while one comes slowly: %v", err)
	}
	again := make(chan error, 1)
	waits, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	go func() {
		again <- d.Prepare(waits, spec(4, "", func(s *runner.Spec) {
			s.Image, s.Setup.ImageDigest = server.URL+"/slow.raw", "sha256:"+strings.Repeat("b", 64)
		}))
	}()
	if err := <-again; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the same image waits for its turn: %v", err)
	}
	cancel()
	if err := <-slow; err == nil {
		t.Error("an image that never came is there")
	}
}

func TestWhatIsJustStartingHasItsDisks(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	first, err := d.claimDisks(t.Context(), serviceOf(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.claimDisks(t.Context(), serviceOf(1, 2)); err == nil {
		t.Error("two attempts that start at once have one disk")
	}
	d.release(first)
	if _, err := d.claimDisks(t.Context(), serviceOf(1, 2)); err != nil {
		t.Errorf("when the other is over: %v", err)
	}
}

func TestTroubleOfADiskIsTold(t *testing.T) {
	g := newGuest()
	g.dir = t.TempDir()
	g.trouble(json.RawMessage(`{"device":"","node-name":"disk0","operation":"write","action":"stop","nospace":true,"reason":"No space left on device"}`))
	text, err := os.ReadFile(filepath.Join(g.dir, troubleFile))
	if err != nil || !strings.Contains(string(text), "disk0") || !strings.Contains(string(text), "No space left") || !strings.Contains(string(text), "resumes it") {
		t.Errorf("it says %q, %v", text, err)
	}
}

func TestALinkInPlaceOfASocketLeadsNowhere(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	l, err := process.ListenUnix(other, "engine.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Symlink(filepath.Join(other, "engine.sock"), filepath.Join(dir, "qmp.sock")), os.Symlink(other, filepath.Join(dir, "machine"))); err != nil {
		t.Fatal(err)
	}
	for _, at := range [][2]string{{dir, "qmp.sock"}, {filepath.Join(dir, "machine"), "engine.sock"}} {
		if c, err := process.DialUnix(t.Context(), at[0], at[1]); err == nil {
			t.Errorf("%v leads to another's socket", at)
			_ = c.Close()
		}
	}
	taken := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.WriteString(c, "yes")
			err = errors.Join(err, c.Close())
		}
		taken <- err
	}()
	c, err := process.DialUnix(t.Context(), other, "engine.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if said, err := io.ReadAll(c); string(said) != "yes" || err != nil || <-taken != nil {
		t.Errorf("the socket itself: %q, %v", said, err)
	}
}
