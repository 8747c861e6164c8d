package outputs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sovmesh/sovmesh/node/tree/treetest"
	"github.com/sovmesh/sovmesh/placement"
)

const task = placement.TaskID("fra-1.01jd0000000000000000000000/0.1")

// made is a store with a directory that the task writes to.
func made(t *testing.T) (*Store, string) {
	t.Helper()
	s := New(filepath.Join(t.TempDir(), "outputs"))
	dir, err := s.Make(task)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func gathered(t *testing.T, s *Store, most placement.Outputs) *placement.OutputList {
	t.Helper()
	list, err := s.Gather(t.Context(), task, most)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Check(); err != nil {
		t.Error(err)
	}
	return list
}

func names(l *placement.OutputList) string {
	var out []string
	for _, f := range l.Files {
		out = append(out, f.Name)
	}
	return strings.Join(out, " ")
}

func TestWhatATaskLeftIsKeptAndRead(t *testing.T) {
	s, dir := made(t)
	write(t, dir, "model.bin", "weights")
	write(t, dir, "logs/a/one", "1")
	write(t, dir, "logs-2", "")
	if _, err := s.List(task); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before its end: %v", err)
	}
	list := gathered(t, s, placement.Outputs{})
	if names(list) != "logs-2 logs/a/one model.bin" || list.LeftOut != 0 {
		t.Fatalf("%+v", list)
	}
	if err := s.Sweep(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
	f, ok := list.Find("model.bin")
	if !ok || f.Size != 7 {
		t.Fatalf("%+v", f)
	}
	r, err := s.Open(task, f.Digest)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil || string(text) != "weights" {
		t.Errorf("%q, %v", text, err)
	}
	_ = r.Close()
	if _, err := s.Open(task, "sha256:"+strings.Repeat("0", 64)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another digest: %v", err)
	}
	if again := gathered(t, s, placement.Outputs{}); again.Digest() != list.Digest() {
		t.Errorf("asked again: %+v", again)
	}
	if err := errors.Join(s.Drop(t.Context(), task), s.Drop(t.Context(), task)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What no output can be is left out, counted, and harms nobody.
func TestWhatIsNoFileIsLeftOut(t *testing.T) {
	s, dir := made(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, filepath.Dir(secret), "secret", "the node's own")
	write(t, dir, "good", "good")
	deep := strings.Repeat("d/", placement.MaxOutputParts)
	write(t, dir, deep+"file", "too deep")
	for _, name := range []string{"new\nline", "escape\x1b[2J", "not\xffutf8", "turned\u202etxt"} {
		write(t, dir, name, "text")
	}
	for err, what := range map[error]string{
		os.Symlink(secret, filepath.Join(dir, "link")):                        "a link out",
		os.Symlink("good", filepath.Join(dir, "near")):                        "a link within",
		os.Symlink(filepath.Dir(secret), filepath.Join(dir, "dir")):           "a link to a directory",
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o666):                     "a pipe",
		syscall.Mkfifo(filepath.Join(dir, strings.Repeat("x", 200)), 0o000):   "a closed pipe",
		os.Symlink("../"+dirKept, filepath.Join(dir, "kept")):                 "a link to what is kept",
		os.Symlink(strings.Repeat("a/", 1000)+"b", filepath.Join(dir, "far")): "a long link",
	} {
		if err != nil {
			t.Fatal(what, err)
		}
	}
	list := gathered(t, s, placement.Outputs{})
	if names(list) != "good" || list.LeftOut != 12 {
		t.Errorf("%+v", list)
	}
	if err := s.Drop(t.Context(), task); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "the node's own" {
		t.Errorf("outside it is %q, %v", text, err)
	}
}

func TestBoundsAreKept(t *testing.T) {
	for _, tt := range []struct {
		name string
		most placement.Outputs
		kept string
		left int
		why  string
	}{
		{"bytes", placement.Outputs{Max: 5}, "a c", 1, "more than 5"},
		{"files", placement.Outputs{Files: 2}, "a b", 1, "more than 2 files"},
		{"neither", placement.Outputs{Max: 9, Files: 3}, "a b c", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, dir := made(t)
			write(t, dir, "a", "1234")
			write(t, dir, "b", "1234")
			write(t, dir, "c", "1")
			list := gathered(t, s, tt.most)
			if names(list) != tt.kept || list.LeftOut != tt.left || !strings.HasPrefix(list.Why, tt.why) {
				t.Errorf("%+v", list)
			}
		})
	}
}

// A file of many names counts as often, and one that is a hole in all its length
// is not read.
func TestNothingIsReadBeyondTheBound(t *testing.T) {
	s, dir := made(t)
	write(t, dir, "0", strings.Repeat("x", 1<<10))
	for n := range 20 {
		if err := os.Link(filepath.Join(dir, "0"), filepath.Join(dir, fmt.Sprint("again", n))); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "hole", "")
	if err := os.Truncate(filepath.Join(dir, "hole"), 1<<43); err != nil {
		t.Fatal(err)
	}
	list := gathered(t, s, placement.Outputs{Max: 4 << 10})
	if len(list.Files) != 4 || list.LeftOut != 18 {
		t.Errorf("%d kept, %d not", len(list.Files), list.LeftOut)
	}
}

// growing is a context that makes a file longer whenever it is asked, as it is
// before every read: up to a hundred times.
type growing struct {
	context.Context
	file string
	size int64
	asks int
}

func (g *growing) Err() error {
	if g.asks++; g.asks > 100 {
		return context.DeadlineExceeded
	}
	g.size += 1 << 20
	_ = os.Truncate(g.file, g.size)
	return nil
}

func TestAFileThatGrowsIsReadToItsBoundAlone(t *testing.T) {
	s, dir := made(t)
	write(t, dir, "log", "begun")
	write(t, dir, "z", "z")
	g := &growing{Context: t.Context(), file: filepath.Join(dir, "log")}
	list, err := s.Gather(g, task, placement.Outputs{})
	if err != nil {
		t.Fatal(err)
	}
	if names(list) != "z" || list.Why != "a file changed while it was read" {
		t.Errorf("%+v", list)
	}
}

// A tree is deeper than the node has open files, and deeper than any path.
func TestADeepTreeIsRemoved(t *testing.T) {
	s, dir := made(t)
	treetest.Deep(t, dir)
	write(t, dir, "good", "good")
	treetest.FewFiles(t)
	if list := gathered(t, s, placement.Outputs{}); names(list) != "good" || list.LeftOut != 1 {
		t.Errorf("%+v", list)
	}
	if err := s.Drop(t.Context(), task); err != nil {
		t.Error(err)
	}
}

// Names beyond a bound are not even looked at.
func TestManyNames(t *testing.T) {
	s, dir := made(t)
	const files = 5
	for n := range looks*files + looksMore + 500 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("d%06d", n)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "z", "z")
	list := gathered(t, s, placement.Outputs{Files: files})
	if len(list.Files) != 0 || !strings.Contains(list.Why, "names") {
		t.Errorf("%+v", list)
	}
	if err := s.Drop(t.Context(), task); err != nil {
		t.Error(err)
	}
}

// An agent is ended at any of the steps: the next one gives the same list.
func TestAnEndInBetween(t *testing.T) {
	s, dir := made(t)
	write(t, dir, "a/one", "1")
	write(t, dir, "two", "2")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if list, err := s.Gather(ctx, task, placement.Outputs{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, left := range []string{dirKept + "/0", dirKept + "/7"} { // by one that hashed some
		write(t, s.path(task), left, "half")
	}
	write(t, s.path(task), fileList+".new", `{"files":[`)
	list := gathered(t, s, placement.Outputs{})
	if names(list) != "a/one two" {
		t.Errorf("%+v", list)
	}
	if err := s.Sweep(ctx, task); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := s.Sweep(t.Context(), task); err != nil {
		t.Error(err)
	}
	kept, err := os.ReadDir(filepath.Join(s.path(task), dirKept))
	if err != nil || len(kept) != 2 {
		t.Errorf("%v, %v", kept, err)
	}
}

// A directory that its user closed to all goes as well.
func TestAClosedDirectoryIsRemoved(t *testing.T) {
	s, dir := made(t)
	write(t, dir, "a/b/c", "c")
	for _, at := range []string{"a/b", "a", ""} {
		if err := os.Chmod(filepath.Join(dir, at), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Drop(t.Context(), task); err != nil {
		t.Error(err)
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte(`{"files":[{"name":"a","size":1,"digest":"sha256:`+strings.Repeat("0", 64)+`"}],"numbers":[0]}`), "a")
	f.Add([]byte(`{"files":[],"numbers":[]}`), "../x")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		s := New(t.TempDir())
		if err := os.MkdirAll(s.path(task), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.path(task), fileList), data, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := s.List(task)
		if err != nil {
			return
		}
		if !slices.IsSortedFunc(list.Files, func(a, b placement.Output) int { return strings.Compare(a.Name, b.Name) }) {
			t.Error("it is not in order")
		}
		if _, ok := list.Find(name); ok && (!filepath.IsLocal(name) || strings.ContainsAny(name, "\n\x1b\x00")) {
			t.Errorf("a file is called %q", name)
		}
	})
}
