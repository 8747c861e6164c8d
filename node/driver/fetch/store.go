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
	"syscall"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Store keeps the input artefacts of jobs, each once by its digest, and lays
// those of a task together: what a task sees has the digest that its job names.
//
// To know a digest is not to have the file. A tenant is given one that lies here
// for another only after its own source gave the same bytes, once.
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
	// Reserve is what stays free on the disk, in bytes, for what else writes there:
	// the region's own log. Free says what is; nil takes whatever is free.
	Reserve int64
	Free    func(dir string) (int64, error)

	mu      sync.Mutex               // held while files come and go, not while they are fetched
	cleared bool                     // guarded by mu: what an agent that was killed had not fetched whole is gone
	coming  map[string]chan struct{} // guarded by mu: closed when that tenant's fetch of a digest is over
}

// partial begins the name of a file that is being fetched.
const partial = ".in-"

// begin lets one of a tenant's tasks at a time fetch a digest: done ends its turn.
// Who comes second waits; given reports that the tenant may have the file as it is,
// and that it lies at to.
func (s *Store) begin(ctx context.Context, tenant placement.TenantID, digest, to string) (done func(), given bool, err error) {
	key := Proof(s.path(digest), string(tenant))
	for {
		s.mu.Lock()
		s.clear()
		if Proven(s.path(digest), string(tenant)) {
			err := s.give(digest, to)
			s.mu.Unlock()
			return func() {}, err == nil, err
		}
		other := s.coming[key]
		if other == nil {
			mine := make(chan struct{})
			if s.coming == nil {
				s.coming = make(map[string]chan struct{})
			}
			s.coming[key] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.coming, key)
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

// give links a file into a task's directory. The caller holds mu since it saw that
// the file is there: one that no task has may be swept at any other time. Its error
// keeps the words alone: a directory that is gone is no answer of the source's.
func (s *Store) give(digest, to string) error {
	if err := os.Link(s.path(digest), to); err != nil {
		return fmt.Errorf("lay it into the task's directory: %v", err)
	}
	return nil
}

func (s *Store) has(digest string) bool { return present(s.path(digest)) }

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
func (s *Store) Lay(ctx context.Context, id placement.TaskID, tenant placement.TenantID, inputs []placement.Input) (string, error) {
	dir := s.taskDir(id)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(s.Dir, 0o700), os.MkdirAll(dir, 0o755)); err != nil {
		return "", fmt.Errorf("inputs of task %s: %w", id, err)
	}
	for _, in := range inputs {
		if err := s.lay(ctx, dir, id, tenant, in); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

func (s *Store) lay(ctx context.Context, dir string, id placement.TaskID, tenant placement.TenantID, in placement.Input) error {
	refuse := func(advice, format string, args ...any) error {
		return &runner.StartError{Task: id, Reason: fmt.Sprintf("its input %s: ", in.Name) + fmt.Sprintf(format, args...), Advice: advice}
	}
	if !digestWords.MatchString(in.Digest) || in.Name != filepath.Base(in.Name) || strings.HasPrefix(in.Name, ".") || in.Name == "" {
		return refuse("write {name: model.bin, digest: sha256:..., source: PATH or URL}", "it has no proper name or digest")
	}
	to := filepath.Join(dir, in.Name)
	done, given, err := s.begin(ctx, tenant, in.Digest, to)
	if err != nil {
		return fmt.Errorf("input %s of task %s: %w", in.Name, id, err)
	}
	defer done()
	if !given {
		err := s.fetch(ctx, tenant, in, to)
		for errors.Is(err, errSwept) {
			err = s.fetch(ctx, tenant, in, to) // it is not there to be compared any more: now it is kept
		}
		var guarded interface {
			error
			Hint() string
		}
		switch {
		case err == nil:
		case errors.As(err, &guarded):
			return refuse(guarded.Hint(), "%v", guarded)
		case errors.Is(err, errFull):
			return refuse("free some space on the node, or name another node", "%v", err)
		case errors.Is(err, errOther), errors.Is(err, errLarge):
			return refuse("name the digest of the file that is meant, and a file that a node takes", "%v", err)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return refuse("put it below the node's image directory, or name a URL where it is", "%v", err)
		default:
			return fmt.Errorf("input %s of task %s: %w", in.Name, id, err)
		}
	}
	return nil
}

// Why a file is not the one that is meant, or has no place, for good.
var (
	errOther = errors.New("it is not the file that was asked for")
	errLarge = errors.New("it is too large")
	errFull  = errors.New("the node's disk has no room for it")
)

// errSwept is a file that went, for no task had it, while another's was compared with it.
var errSwept = errors.New("it was removed while it was compared")

// fetch brings one into the store, or sees that the tenant's source gives what is
// there already, and gives it to the task. Nothing is left of what does not fit.
func (s *Store) fetch(ctx context.Context, tenant placement.TenantID, in placement.Input, at string) error {
	from, size, err := s.open(ctx, in.Source)
	if err != nil {
		return err
	}
	defer from.Close()
	if size > s.Most {
		return fmt.Errorf("%w: an input has at most %d bytes here", errLarge, s.Most)
	}
	s.mu.Lock()
	there := s.has(in.Digest)
	s.mu.Unlock()
	var f *os.File
	to := io.Discard
	if !there {
		if f, err = os.CreateTemp(s.Dir, partial); err != nil {
			return err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		to = &roomy{s: s, f: f, coming: max(size, 0)}
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), Reading(ctx, io.LimitReader(from, s.Most+1)))
	switch got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); {
	case err != nil:
		return err
	case n > s.Most:
		return fmt.Errorf("%w: an input has at most %d bytes here", errLarge, s.Most)
	case got != in.Digest:
		return fmt.Errorf("%w: what %s gives has the digest %s, not %s", errOther, in.Source, got, in.Digest)
	}
	if f != nil {
		if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.has(in.Digest):
	case f == nil:
		return errSwept
	default:
		if err := os.Rename(f.Name(), s.path(in.Digest)); err != nil {
			return err
		}
	}
	if err := Prove(s.path(in.Digest), string(tenant)); err != nil {
		return err
	}
	return s.give(in.Digest, at)
}

// roomy writes a file for as long as there is room beside what is kept free.
type roomy struct {
	s      *Store
	f      *os.File
	coming int64 // what is still to come, where that is known; in bytes
	until  int64 // how much may be written before it is asked again, in bytes
}

// askEvery is how much is written at most between two looks at the room, in bytes;
// never more than was seen to fit.
const askEvery = 16 << 20

func (w *roomy) Write(p []byte) (int, error) {
	if w.until < int64(len(p)) {
		fits := max(w.coming, int64(len(p)))
		if err := w.s.room(fits); err != nil {
			return 0, err
		}
		w.until = min(fits, askEvery)
	}
	n, err := w.f.Write(p)
	w.until, w.coming = w.until-int64(n), w.coming-int64(n)
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w: %w", errFull, err)
	}
	return n, err
}

// room sees that so many bytes fit. Files that no task has give way first.
func (s *Store) room(size int64) error {
	if s.Free == nil {
		return nil
	}
	for last := false; ; last = true {
		free, err := s.Free(s.Dir)
		if err != nil {
			return fmt.Errorf("see how much space is left for an input: %w", err)
		}
		if free-size >= s.Reserve {
			return nil
		}
		if last {
			return fmt.Errorf("%w: %d MiB are free, and %d MiB of it are kept for the region's own log", errFull, free>>20, s.Reserve>>20)
		}
		s.mu.Lock()
		err = s.sweep(0)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// open reads a source; its size is -1 where that is not known.
func (s *Store) open(ctx context.Context, source string) (io.ReadCloser, int64, error) {
	if filepath.IsAbs(source) {
		if s.Local == nil {
			return nil, 0, fmt.Errorf("the node takes no files by their paths: %w", fs.ErrPermission)
		}
		f, err := s.Local(source)
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		return f, info.Size(), nil
	}
	if !strings.HasPrefix(source, "https://") || s.HTTP == nil {
		return nil, 0, fmt.Errorf("%q is neither a path nor an https URL: %w", source, fs.ErrPermission)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return resp.Body, resp.ContentLength, nil
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		err = fmt.Errorf("%s answers %s: %w", source, resp.Status, fs.ErrNotExist)
	default:
		err = fmt.Errorf("%s answers %s", source, resp.Status)
	}
	return nil, 0, errors.Join(err, resp.Body.Close())
}

// Drop removes what a task was given, and files that no task has had for long.
// Nothing is there for most.
func (s *Store) Drop(id placement.TaskID) error {
	if err := os.RemoveAll(s.taskDir(id)); err != nil {
		return fmt.Errorf("inputs of task %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sweep(s.Keep)
}

// sweep removes what no task has had for so long, and with it who has shown to
// have it. The caller holds mu.
func (s *Store) sweep(keep time.Duration) error {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		info, statErr := e.Info()
		proof, alone := Leftover(filepath.Join(s.Dir, e.Name()))
		switch {
		case statErr != nil || !strings.HasPrefix(e.Name(), "sha256-"):
			continue
		case proof && !alone:
			continue
		case !proof && (links(info) != 1 || time.Since(changed(info)) < keep):
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(s.Dir, e.Name())))
	}
	return err
}
