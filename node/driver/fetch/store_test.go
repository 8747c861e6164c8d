package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
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
		at, err := s.Lay(t.Context(), job.Task(n, 1), "acme", good)
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
			_, err := test.s.Lay(t.Context(), job.Task(9, 1), "acme", []placement.Input{test.in})
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
	if _, err := s.Lay(t.Context(), job.Task(3, 1), "acme", good[:1]); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(job.Task(3, 1)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sha256-*[0-9a-f]")); countFiles(left) != 1 {
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
			if _, err := s.Lay(t.Context(), job.Task(n, 1), "acme", in); err != nil {
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

// TestADigestIsNoKeyToAnothersFile: what one tenant's source gave is another's only
// after its own gave the same, once.
func TestADigestIsNoKeyToAnothersFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inputs")
	asked := map[string]int{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		if r.URL.Path == "/other" {
			_, _ = w.Write([]byte("anything at all"))
			return
		}
		_, _ = w.Write([]byte("private"))
	}))
	defer server.Close()
	s := &Store{Dir: dir, Local: Below([]string{t.TempDir()}), HTTP: server.Client(), Most: 100, Keep: time.Hour}
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	in := func(path string) []placement.Input {
		return []placement.Input{{Name: "data", Digest: digestOf("private"), Source: server.URL + path}}
	}
	if _, err := s.Lay(t.Context(), job.Task(0, 1), "acme", in("/mine")); err != nil {
		t.Fatal(err)
	}
	var refused *runner.StartError
	for n, source := range []string{"/other", "/other?again"} {
		if _, err := s.Lay(t.Context(), job.Task(1, n+1), "other", in(source)); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "has the digest") {
			t.Errorf("another tenant, whose source has something else: %v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tasks", "*_1.*")); len(left) > 0 {
		t.Errorf("it was given %v", left)
	}
	for n := range 3 {
		if _, err := s.Lay(t.Context(), job.Task(2, n+1), "other", in("/same")); err != nil {
			t.Errorf("another tenant, whose source has the same: %v", err)
		}
	}
	if _, err := s.Lay(t.Context(), job.Task(3, 1), "acme", in("/mine")); err != nil {
		t.Fatal(err)
	}
	if asked["/same"] != 1 || asked["/mine"] != 1 {
		t.Errorf("asked: %v", asked)
	}
	for _, id := range []placement.TaskID{job.Task(0, 1), job.Task(2, 1), job.Task(2, 2), job.Task(2, 3), job.Task(3, 1)} {
		if err := s.Drop(id); err != nil {
			t.Fatal(err)
		}
	}
	s.Keep = 0
	if err := s.Drop(job.Task(0, 1)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sha256-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestRoomIsKept: what would take the log's room is not fetched, files that nobody
// has give way, and nothing is left of what was begun.
func TestRoomIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inputs")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush() // its length is not told before
		_, _ = w.Write([]byte(r.URL.Path))
	}))
	defer server.Close()
	free := int64(1000)
	s := &Store{Dir: dir, HTTP: server.Client(), Most: 100, Keep: time.Hour, Reserve: 900}
	s.Free = func(string) (int64, error) {
		kept, _ := filepath.Glob(filepath.Join(dir, "sha256-*[0-9a-f]"))
		n := free
		for _, k := range kept {
			if !strings.Contains(k, ".") {
				n -= 60
			}
		}
		return n, nil
	}
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	lay := func(n int, path string) error {
		_, err := s.Lay(t.Context(), job.Task(n, 1), "acme", []placement.Input{{Name: "data", Digest: digestOf(path), Source: server.URL + path}})
		return err
	}
	path := "/" + strings.Repeat("x", 58)
	if err := lay(0, path+"0"); err != nil {
		t.Fatal(err)
	}
	var refused *runner.StartError
	if err := lay(1, path+"1"); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "no room") {
		t.Errorf("beside one that a task has: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, partial+"*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := s.Drop(job.Task(0, 1)); err != nil {
		t.Fatal(err)
	}
	if err := lay(1, path+"1"); err != nil {
		t.Errorf("beside one that no task has any more: %v", err)
	}
}

// TestRoomIsKeptOfWhatTellsNoLength: no more is written than was seen to fit.
func TestRoomIsKeptOfWhatTellsNoLength(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inputs")
	data := strings.Repeat("x", 1<<20)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		_, _ = w.Write([]byte(data))
	}))
	defer server.Close()
	s := &Store{Dir: dir, HTTP: server.Client(), Most: 2 << 20, Reserve: 900}
	s.Free = func(string) (int64, error) {
		free := s.Reserve + 100<<10
		begun, _ := filepath.Glob(filepath.Join(dir, partial+"*"))
		for _, name := range begun {
			if info, err := os.Stat(name); err == nil {
				free -= info.Size()
			}
		}
		return free, nil
	}
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	var refused *runner.StartError
	_, err := s.Lay(t.Context(), job.Task(0, 1), "acme", []placement.Input{{Name: "data", Digest: digestOf(data), Source: server.URL}})
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "no room") {
		t.Errorf("1 MiB where there is room for 100 KiB: %v", err)
	}
}

// TestAFileThatGoesWhileItIsCompared is fetched: what no task has may go at any time.
func TestAFileThatGoesWhileItIsCompared(t *testing.T) {
	s := &Store{Dir: filepath.Join(t.TempDir(), "inputs"), Most: 100, Keep: time.Hour}
	asked := 0
	s.HTTP = &http.Client{Transport: answers(func(r *http.Request) io.Reader {
		asked++
		if r.URL.Path != "/other" {
			return strings.NewReader("data")
		}
		return io.MultiReader(reads(func() { // when it was seen that the file is there
			s.mu.Lock()
			defer s.mu.Unlock()
			if err := s.sweep(0); err != nil {
				t.Error(err)
			}
		}), strings.NewReader("data"))
	})}
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	in := func(path string) []placement.Input {
		return []placement.Input{{Name: "data", Digest: digestOf("data"), Source: "https://data.example" + path}}
	}
	if _, err := s.Lay(t.Context(), job.Task(0, 1), "acme", in("/mine")); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(job.Task(0, 1)); err != nil {
		t.Fatal(err)
	}
	at, err := s.Lay(t.Context(), job.Task(1, 1), "other", in("/other"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(at, "data")); err != nil || string(got) != "data" {
		t.Errorf("it has %q, %v", got, err)
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

// answers is a server that is asked without a network.
type answers func(*http.Request) io.Reader

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(a(r)), ContentLength: -1, Request: r}, nil
}

// reads is empty, and tells when it is read.
type reads func()

func (r reads) Read([]byte) (int, error) {
	r()
	return 0, io.EOF
}

// TestAFetchEndsWithTheWantOfIt, and the next one begins anew.
func TestAFetchEndsWithTheWantOfIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inputs")
	begun, asked := make(chan struct{}), atomic.Int32{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			_, _ = w.Write([]byte("data"))
			return
		}
		_, _ = w.Write([]byte("da"))
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
	}))
	defer server.Close()
	s := &Store{Dir: dir, HTTP: server.Client(), Most: 100}
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	in := []placement.Input{{Name: "data", Digest: digestOf("data"), Source: server.URL + "/data"}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Lay(ctx, job.Task(0, 1), "acme", in)
		ended <- err
	}()
	<-begun
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, partial+"*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.Lay(t.Context(), job.Task(1, 1), "acme", in); err != nil {
		t.Error(err)
	}
}

// countFiles leaves out who has shown to have one.
func countFiles(names []string) (n int) {
	for _, name := range names {
		if !strings.Contains(filepath.Base(name), ".") {
			n++
		}
	}
	return n
}
