package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestInputsAreWhatTheirJobNames(t *testing.T) {
	images, elsewhere, dir := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "inputs")
	for path, text := range map[string]string{filepath.Join(images, "model"): "weights", filepath.Join(elsewhere, "key"): "private", filepath.Join(images, "large"): strings.Repeat("x", 101)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(elsewhere, "key"), filepath.Join(images, "link")); err != nil {
		t.Fatal(err)
	}
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path != "/data" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("from afar"))
	}))
	defer server.Close()
	s := &Store{Dir: dir, Local: Below([]string{images}), HTTP: server.Client(), Most: 100}
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	good := []placement.Input{
		{Name: "model.bin", Digest: digestOf("weights"), Source: filepath.Join(images, "model")},
		{Name: "data", Digest: digestOf("from afar"), Source: server.URL + "/data"},
	}
	for n := range 2 { // the second task has them from here
		at, err := s.Lay(t.Context(), job.Task(n, 1), good)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"model.bin": "weights", "data": "from afar"} {
			got, err := os.ReadFile(filepath.Join(at, name))
			info, statErr := os.Stat(filepath.Join(at, name))
			if err != nil || statErr != nil || string(got) != want || info.Mode().Perm() != 0o444 {
				t.Errorf("%s is %q, %v, %v", name, got, info.Mode(), err)
			}
		}
	}
	if asked != 1 {
		t.Errorf("it was fetched %d times", asked)
	}

	guarded := &Store{Dir: dir, Local: s.Local, HTTP: &http.Client{Transport: Transport(nil)}, Most: 100}
	for name, test := range map[string]struct {
		s    *Store
		in   placement.Input
		want string
	}{
		"another file":               {s, placement.Input{Name: "a", Digest: digestOf("other"), Source: good[0].Source}, "has the digest"},
		"another file from afar":     {s, placement.Input{Name: "a", Digest: digestOf("other"), Source: good[1].Source}, "has the digest"},
		"none there":                 {s, placement.Input{Name: "a", Digest: digestOf("x"), Source: server.URL + "/none"}, "404"},
		"no such path":               {s, placement.Input{Name: "a", Digest: digestOf("x"), Source: filepath.Join(images, "none")}, "not there, or not below"},
		"no such path outside":       {s, placement.Input{Name: "a", Digest: digestOf("x"), Source: filepath.Join(elsewhere, "none")}, "not there, or not below"},
		"a path outside":             {s, placement.Input{Name: "a", Digest: digestOf("private"), Source: filepath.Join(elsewhere, "key")}, "not there, or not below"},
		"a link that leads outside":  {s, placement.Input{Name: "a", Digest: digestOf("private"), Source: filepath.Join(images, "link")}, "not below"},
		"a directory":                {s, placement.Input{Name: "a", Digest: digestOf("x"), Source: images + "/."}, "not below"},
		"too large":                  {s, placement.Input{Name: "a", Digest: digestOf(strings.Repeat("x", 101)), Source: filepath.Join(images, "large")}, "at most 100 bytes"},
		"without TLS":                {s, placement.Input{Name: "a", Digest: digestOf("x"), Source: "http://example.test/a"}, "neither"},
		"a name that leads outside":  {s, placement.Input{Name: "../a", Digest: good[0].Digest, Source: good[0].Source}, "proper name"},
		"a digest that is a path":    {s, placement.Input{Name: "a", Digest: "../../etc/passwd", Source: good[0].Source}, "proper name or digest"},
		"from the node's own inside": {guarded, placement.Input{Name: "a", Digest: digestOf("y"), Source: server.URL + "/data"}, "no public address"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.s.Lay(t.Context(), job.Task(9, 1), []placement.Input{test.in})
			var refused *runner.StartError
			if !errors.As(err, &refused) || !strings.Contains(refused.Reason, test.want) || refused.Advice == "" {
				t.Errorf("it gives %v; want %q", err, test.want)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "tasks", "*_9.1")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}

	for n := range 2 {
		if err := s.Drop(job.Task(n, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sha256-*")); len(left) != 0 {
		t.Errorf("no task has it, and it is kept for no time: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".in-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	s.Keep = time.Hour
	if _, err := s.Lay(t.Context(), job.Task(3, 1), good[:1]); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(job.Task(3, 1)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sha256-*")); len(left) != 1 {
		t.Errorf("kept for an hour: %v", left)
	}
}

// Copies of a job that start at once fetch their input once; what a fetch left that
// was cut off is removed.
func TestAnInputIsFetchedOnceByAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inputs")
	cut := filepath.Join(dir, partial+"123")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(cut, []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	all := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			<-all
		}
		_, _ = w.Write([]byte("data"))
	}))
	defer server.Close()
	s := &Store{Dir: dir, HTTP: server.Client(), Most: 100}
	in := []placement.Input{{Name: "data", Digest: digestOf("data"), Source: server.URL + "/data"}}
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	var tasks, began sync.WaitGroup
	for n := range 4 {
		began.Add(1)
		tasks.Go(func() {
			began.Done()
			if _, err := s.Lay(t.Context(), job.Task(n, 1), in); err != nil {
				t.Error(err)
			}
		})
	}
	began.Wait()
	close(all)
	tasks.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	if _, err := os.Stat(cut); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was half fetched: %v", err)
	}
}
