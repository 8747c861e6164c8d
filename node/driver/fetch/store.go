package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Store keeps the input artefacts of jobs, each once by its digest, and lays
// those of a task together: what a task sees has the digest that its job names.
type Store struct {
	// Dir is the store's own, on a local disk.
	Dir string
	// Local opens a file of this node that a job names by its path; only below the
	// operator's directories. Nil is for none.
	Local func(path string) (*os.File, error)
	// HTTP fetches by URL.
	HTTP *http.Client
	// Most bounds one artefact in bytes.
	Most int64
	// Keep is how long one is kept that no task has.
	Keep time.Duration

	mu      sync.Mutex               // held while files come and go, not while they are fetched
	cleared bool                     // guarded by mu: what an agent that was killed had not fetched whole is gone
	coming  map[string]chan struct{} // guarded by mu: closed when that digest's fetch is over
}

// partial begins the name of a file that is being fetched.
const partial = ".in-"

// begin lets one at a time fetch a digest: done ends its turn. Who comes second
// waits; there reports that the file is here already.
func (s *Store) begin(ctx context.Context, digest string) (done func(), there bool, err error) {
	for {
		s.mu.Lock()
		s.clear()
		if _, err := os.Lstat(s.path(digest)); err == nil {
			s.mu.Unlock()
			return func() {}, true, nil
		}
		other := s.coming[digest]
		if other == nil {
			mine := make(chan struct{})
			if s.coming == nil {
				s.coming = make(map[string]chan struct{})
			}
			s.coming[digest] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.coming, digest)
				close(mine)
			}, false, nil
		}
		s.mu.Unlock()
		select {
		case <-other: // it may have failed: then it is this one's turn
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// clear removes once what was left half fetched. The caller holds mu.
func (s *Store) clear() {
	if s.cleared {
		return
	}
	s.cleared = true
	left, _ := filepath.Glob(filepath.Join(s.Dir, partial+"*"))
	for _, name := range left {
		_ = os.Remove(name) // one that stays costs space and nothing else
	}
}

var digestWords = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (s *Store) path(digest string) string {
	return filepath.Join(s.Dir, strings.Replace(digest, ":", "-", 1))
}

func (s *Store) taskDir(id placement.TaskID) string {
	return filepath.Join(s.Dir, "tasks", strings.ReplaceAll(string(id), "/", "_"))
}

// Below opens files by paths that lead, links included, below one of dirs. What is
// not there is refused as what lies elsewhere is: whoever submits a job is not told
// which paths the node has.
func Below(dirs []string) func(path string) (*os.File, error) {
	return func(path string) (*os.File, error) {
		none := fmt.Errorf("%s is not there, or not below an image directory of the node: %w", path, fs.ErrPermission)
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, none
		}
		for _, dir := range dirs {
			top, err := filepath.EvalSymlinks(dir)
			if err != nil {
				continue
			}
			rel, err := filepath.Rel(top, real)
			if err != nil || rel == "." || !filepath.IsLocal(rel) {
				continue
			}
			return openIn(top, rel)
		}
		return nil, none
	}
}

// openIn walks the path anew, so that a link put in its place meanwhile leads nowhere else.
func openIn(top, rel string) (*os.File, error) {
	root, err := os.OpenRoot(top)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(rel)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a plain file: %w", rel, fs.ErrPermission)
	}
	if err != nil {
		return nil, err
	}
	return root.Open(rel)
}

// Lay has the inputs of a task in a directory of its own, a read-only file each.
// What can never be had is a *runner.StartError.
func (s *Store) Lay(ctx context.Context, id placement.TaskID, inputs []placement.Input) (string, error) {
	dir := s.taskDir(id)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(s.Dir, 0o700), os.MkdirAll(dir, 0o755)); err != nil {
		return "", fmt.Errorf("inputs of task %s: %w", id, err)
	}
	for _, in := range inputs {
		if err := s.lay(ctx, dir, id, in); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

func (s *Store) lay(ctx context.Context, dir string, id placement.TaskID, in placement.Input) error {
	refuse := func(advice, format string, args ...any) error {
		return &runner.StartError{Task: id, Reason: fmt.Sprintf("its input %s: ", in.Name) + fmt.Sprintf(format, args...), Advice: advice}
	}
	if !digestWords.MatchString(in.Digest) || in.Name != filepath.Base(in.Name) || strings.HasPrefix(in.Name, ".") || in.Name == "" {
		return refuse("write {name: model.bin, digest: sha256:..., source: PATH or URL}", "it has no proper name or digest")
	}
	done, there, err := s.begin(ctx, in.Digest)
	if err != nil {
		return fmt.Errorf("input %s of task %s: %w", in.Name, id, err)
	}
	defer done()
	if !there {
		err := s.fetch(ctx, in)
		var inside *Error
		switch {
		case err == nil:
		case errors.As(err, &inside):
			return refuse(inside.Hint(), "%v", inside)
		case errors.Is(err, errOther), errors.Is(err, errLarge):
			return refuse("name the digest of the file that is meant, and a file that a node takes", "%v", err)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return refuse("put it below the node's image directory, or name a URL where it is", "%v", err)
		default:
			return fmt.Errorf("input %s of task %s: %w", in.Name, id, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return os.Link(s.path(in.Digest), filepath.Join(dir, in.Name))
}

// Why a file is not the one that is meant, for good.
var (
	errOther = errors.New("it is not the file that was asked for")
	errLarge = errors.New("it is too large")
)

// fetch brings one into the store. Nothing is left of what does not fit.
func (s *Store) fetch(ctx context.Context, in placement.Input) error {
	from, err := s.open(ctx, in.Source)
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.CreateTemp(s.Dir, partial)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(from, s.Most+1))
	switch got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); {
	case err != nil:
		return err
	case n > s.Most:
		return fmt.Errorf("%w: an input has at most %d bytes here", errLarge, s.Most)
	case got != in.Digest:
		return fmt.Errorf("%w: what %s gives has the digest %s, not %s", errOther, in.Source, got, in.Digest)
	}
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return os.Rename(f.Name(), s.path(in.Digest))
}

func (s *Store) open(ctx context.Context, source string) (io.ReadCloser, error) {
	if filepath.IsAbs(source) {
		if s.Local == nil {
			return nil, fmt.Errorf("the node takes no files by their paths: %w", fs.ErrPermission)
		}
		return s.Local(source)
	}
	if !strings.HasPrefix(source, "https://") || s.HTTP == nil {
		return nil, fmt.Errorf("%q is neither a path nor an https URL: %w", source, fs.ErrPermission)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return resp.Body, nil
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		err = fmt.Errorf("%s answers %s: %w", source, resp.Status, fs.ErrNotExist)
	default:
		err = fmt.Errorf("%s answers %s", source, resp.Status)
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// Drop removes what a task was given, and files that no task has had for long.
// Nothing is there for most.
func (s *Store) Drop(id placement.TaskID) error {
	if err := os.RemoveAll(s.taskDir(id)); err != nil {
		return fmt.Errorf("inputs of task %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		info, statErr := e.Info()
		if statErr != nil || !strings.HasPrefix(e.Name(), "sha256-") || links(info) != 1 || time.Since(changed(info)) < s.Keep {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(s.Dir, e.Name())))
	}
	return err
}
