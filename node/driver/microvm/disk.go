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

	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/placement"
)

// store keeps one read-only disk per flattened image. What is there is whole: a
// disk is written beside its place and moved there. An empty file beside a disk,
// DISK.TENANT, says that the layers of an image of that tenant's were read once: to
// know what another's layers amount to is not to have them.
type store struct {
	dir    string
	size   int64 // bytes of content that an image may have
	mu     sync.Mutex
	making map[string]chan struct{} // guarded by mu: closed when whoever makes it is done
}

func newStore(dir string, size int64) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f)) // of an agent that was killed
	}
	return &store{dir: dir, size: size, making: make(map[string]chan struct{})}, err
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

// disk makes the disk of a tenant's image, unless it is there, and returns its name.
// What is there for others the tenant has after its own image's layers were read,
// once. A tenant waits for no other's registry.
func (s *store) disk(ctx context.Context, tenant placement.TenantID, img v1.Image) (string, error) {
	name, err := diskName(img)
	if err != nil {
		return "", err
	}
	there := func() bool { return fetch.Proven(s.path(name), string(tenant)) && s.touch(name) }
	return name, s.turn(ctx, fetch.Proof(name, string(tenant)), there, func() error {
		var err error
		if s.touch(name) {
			err = s.read(ctx, img, func(r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return err
			})
		} else {
			err = s.write(name, func(w *os.File) error {
				return s.read(ctx, img, func(r io.Reader) error {
					return tar2ext4.ConvertTarToExt4(r, w, tar2ext4.MaximumDiskSize(max(2*s.size, 1<<30)))
				})
			})
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.touch(name) {
			return fmt.Errorf("the disk %s was removed while its image was read", name) // nothing used it: the next try makes it
		}
		return fetch.Prove(s.path(name), string(tenant))
	})
}

// read hands on what an image's layers amount to, each compared with its digest.
func (s *store) read(ctx context.Context, img v1.Image, use func(io.Reader) error) error {
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
	err = use(fetch.Reading(ctx, r))
	_ = r.CloseWithError(err)
	if cause := <-read; cause != nil && !errors.Is(cause, io.ErrClosedPipe) {
		return cause // rather than what came of it
	}
	return err
}

// touch says that a file is wanted, if it is there.
func (s *store) touch(name string) bool {
	now := time.Now()
	return os.Chtimes(s.path(name), now, now) == nil
}

// once makes a file if it is not there.
func (s *store) once(ctx context.Context, name string, write func(*os.File) error) error {
	return s.turn(ctx, name, func() bool { return s.touch(name) }, func() error { return s.write(name, write) })
}

// turn makes what is not there. Of those that want it at the same time one makes
// it; if that fails, it is another's turn: why one could not is no answer to others.
func (s *store) turn(ctx context.Context, name string, there func() bool, produce func() error) error {
	for {
		s.mu.Lock()
		other := s.making[name]
		if other == nil {
			if there() {
				s.mu.Unlock()
				return nil
			}
			mine := make(chan struct{})
			s.making[name] = mine
			s.mu.Unlock()
			err := produce()
			s.mu.Lock()
			delete(s.making, name)
			s.mu.Unlock()
			close(mine)
			return err
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-other:
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

// collect removes disks that no task uses and that were not asked for since, and
// with them who has shown to have them.
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
		st, statErr := e.Info()
		old := statErr == nil && st.ModTime().Before(since)
		if proof, alone := fetch.Leftover(s.path(e.Name())); proof { // its disk comes before it here
			old = alone
		}
		if old {
			err = errors.Join(err, os.Remove(s.path(e.Name())))
		}
	}
	return err
}
