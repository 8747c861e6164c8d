//go:build linux

package microvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// store keeps one read-only disk per flattened image. What is there is whole: a
// disk is written beside its place and moved there.
type store struct {
	dir    string
	size   int64 // bytes of content that an image may have
	mu     sync.Mutex
	making map[string]*making // guarded by mu
}

// making is a disk that somebody writes; others wait for it.
type making struct {
	done chan struct{}
	err  error
}

func newStore(dir string, size int64) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f)) // of an agent that was killed
	}
	return &store{dir: dir, size: size, making: make(map[string]*making)}, err
}

// diskName is the disk's for what the layers amount to, whatever else differs
// between two images; it changes with how disks are made.
func diskName(img v1.Image) (string, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, "sovmesh disk 2")
	for _, d := range config.RootFS.DiffIDs {
		fmt.Fprintln(sum, d)
	}
	return "disk-" + hex.EncodeToString(sum.Sum(nil)) + ".ext4", nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

// disk makes an image's disk, unless it is there, and returns its name.
func (s *store) disk(ctx context.Context, img v1.Image) (string, error) {
	name, err := diskName(img)
	if err != nil {
		return "", err
	}
	return name, s.once(ctx, name, func(w *os.File) error {
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		config, err := img.ConfigFile()
		if err != nil {
			return err
		}
		r, pipe := io.Pipe()
		read := make(chan error, 1)
		go func() {
			err := flatten(layers, config.RootFS.DiffIDs, pipe, s.size)
			_ = pipe.CloseWithError(err)
			read <- err
		}()
		err = tar2ext4.ConvertTarToExt4(&stoppable{ctx, r}, w, tar2ext4.MaximumDiskSize(max(2*s.size, 1<<30)))
		_ = r.CloseWithError(err)
		if cause := <-read; cause != nil && !errors.Is(cause, io.ErrClosedPipe) {
			return cause // rather than what came of it
		}
		return err
	})
}

// stoppable ends a long reading with its context.
type stoppable struct {
	ctx context.Context
	in  io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.in.Read(p)
}

// once makes a file if it is not there. Of those that want it at the same time
// one makes it; if that fails, the others have its error.
func (s *store) once(ctx context.Context, name string, write func(*os.File) error) error {
	for {
		s.mu.Lock()
		other := s.making[name]
		if other == nil {
			if now := time.Now(); os.Chtimes(s.path(name), now, now) == nil {
				s.mu.Unlock()
				return nil
			}
			m := &making{done: make(chan struct{})}
			s.making[name] = m
			s.mu.Unlock()
			m.err = s.write(name, write)
			s.mu.Lock()
			delete(s.making, name)
			s.mu.Unlock()
			close(m.done)
			return m.err
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-other.done:
			if other.err == nil || !errors.Is(other.err, context.Canceled) {
				return other.err
			}
		}
	}
}

func (s *store) write(name string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(s.dir, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // with it the space it took
		}
	}()
	// Machines read it as users of their own.
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path(name))
	}
	return err
}

// collect removes disks that no task uses and that were not asked for since.
func (s *store) collect(used []string, since time.Time) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		if slices.Contains(used, e.Name()) || !strings.HasPrefix(e.Name(), "disk-") {
			continue
		}
		if st, statErr := e.Info(); statErr == nil && st.ModTime().Before(since) {
			err = errors.Join(err, os.Remove(s.path(e.Name())))
		}
	}
	return err
}
