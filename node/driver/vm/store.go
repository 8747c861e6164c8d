//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/node/driver/image"
)

// Format is how an image's file is to be read. It is always declared, by a name
// or by the catalogue, and never guessed from what is in the file: a guest that
// writes the header of another format to its disk would be guessed wrong.
type Format string

// The formats.
const (
	Qcow2 Format = "qcow2"
	Raw   Format = "raw"
)

// formatOf is what the name of a file declares.
func formatOf(name string) (Format, bool) {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".qcow2":
		return Qcow2, true
	case ".raw", ".ext4":
		return Raw, true
	}
	return "", false
}

// Image is one that is ready to be used: a file of the store, which nobody
// changes any more.
type Image struct {
	Path    string `json:"path"`
	Digest  string `json:"digest"` // sha256:...
	Format  Format `json:"format"`
	Virtual int64  `json:"virtual"` // bytes, as a guest sees it
}

// store keeps files by their digest, as "sha256-HEX"; beside one lies a
// [fetch.Proof] for each whose own source gave it.
type store struct {
	dir  string
	most int64 // of a file, in bytes
	// turns lets no file come in twice at once; one that comes slowly holds up
	// those alone who want it.
	turns image.Turns
	// use is held by all who need that what is there stays, and by whoever removes
	// something, who never waits for it.
	use sync.RWMutex
}

func (s *store) path(digest string) string {
	return filepath.Join(s.dir, strings.Replace(digest, ":", "-", 1))
}

// has reports whether the file of that digest is there.
func (s *store) has(digest string) bool {
	st, err := os.Lstat(s.path(digest))
	return err == nil && st.Mode().IsRegular()
}

// compare reads a file to its end and fails if it has another digest.
func (s *store) compare(ctx context.Context, src io.Reader, want string) error {
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, io.LimitReader(fetch.Reading(ctx, src), s.most+1), make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("%w: its checksum is %s, not %s (%d bytes)", errMismatch, got, want, n)
	}
	return nil
}

// errMismatch is a file that is not the one that was wanted.
var errMismatch = errors.New("it is not the file that was asked for")

// add takes a file in. want, if set, is a checksum that it must have: hexadecimal,
// SHA-256 or SHA-512 by its length. Nothing is left of a file that does not fit.
func (s *store) add(ctx context.Context, src io.Reader, want string) (digest string, err error) {
	f, err := os.CreateTemp(s.dir, ".in-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	sum256 := sha256.New()
	var sum hash.Hash = sum256
	out := io.MultiWriter(f, sum256)
	if len(want) == 2*sha512.Size {
		sum = sha512.New()
		out = io.MultiWriter(f, sum256, sum)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(fetch.Reading(ctx, src), s.most+1), make([]byte, 1<<20))
	if err != nil {
		return "", explainSpace(err)
	}
	if n > s.most {
		return "", fmt.Errorf("it is larger than %d bytes, which is the most that an image may have here", s.most)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
		return "", fmt.Errorf("%w: its checksum is %s, not %s (%d bytes)", errMismatch, got, want, n)
	}
	digest = "sha256:" + hex.EncodeToString(sum256.Sum(nil))
	// Every machine's user may read it; the way to it is closed to them.
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return "", explainSpace(err)
	}
	if err := os.Rename(f.Name(), s.path(digest)); err != nil {
		return "", err
	}
	return digest, syncDir(s.dir)
}

func explainSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("there is no space for it on the node: %w", err)
	}
	return err
}

// openBelow opens a file by a path that must lead, links included, below one of
// the directories; one that is not absolute begins in the first that has it.
// What it returns cannot be exchanged any more.
func openBelow(dirs []string, name string) (*os.File, error) {
	if len(dirs) == 0 {
		return nil, errors.New("the node's operator named no image directory")
	}
	if !filepath.IsAbs(name) {
		var first error
		for _, dir := range dirs {
			f, err := openBelow(dirs, filepath.Join(dir, name))
			if err == nil {
				return f, nil
			}
			if first == nil {
				first = err
			}
		}
		return nil, first
	}
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		root, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		rel, err := filepath.Rel(root, real)
		if err != nil || rel == "." || !filepath.IsLocal(rel) {
			continue
		}
		at, err := unix.Open(root, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(at)
		// Walked anew, so that a link put in its place meanwhile leads nowhere.
		fd, err := unix.Openat2(at, rel, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		f := os.NewFile(uintptr(fd), real)
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return nil, errors.Join(fmt.Errorf("%s is not a plain file", name), f.Close())
		}
		return f, nil
	}
	return nil, fmt.Errorf("%s is not below an image directory of the node (%s)", name, strings.Join(dirs, ", "))
}
