//go:build linux

package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	images "github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// image is one that the engine has.
type image struct {
	Ref    string `json:"ref"`              // as the job names it
	ID     string `json:"id"`               // the engine's
	Digest string `json:"digest,omitempty"` // of its manifest
}

// kept is what is written down of an image: a job that named it once keeps to
// it, and what no task needs any more is removed, also after a restart.
type kept struct {
	image
	Job    placement.JobID `json:"job"`
	Ours   bool            `json:"ours,omitempty"` // it came for a task, and was not there before
	UsedAt time.Time       `json:"used_at"`
}

// imageStore is the directory of what is kept.
type imageStore struct {
	dir       string
	mu        sync.Mutex // held while images are removed; never while one comes
	collected time.Time  // guarded by mu
	// seen is when the engine was last known to have an image; guarded by mu.
	seen  map[string]time.Time
	turns images.Turns // of the references that somebody is looking after
}

func (s *imageStore) file(job placement.JobID, ref string) string {
	sum := sha256.Sum256([]byte(string(job) + "\n" + ref))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:16])+".json")
}

func (s *imageStore) get(job placement.JobID, ref string) (kept, error) {
	var k kept
	data, err := os.ReadFile(s.file(job, ref))
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	return k, err
}

func (s *imageStore) put(k kept) error {
	return write(s.dir, filepath.Base(s.file(k.Job, k.Ref)), k)
}

// trust is how long an image that the engine had is taken to be there: between
// a task's preparation and its start nobody asks twice.
const trust = time.Minute

// here reports whether the engine has an image, or had it just now.
func (d *Driver) here(ctx context.Context, id string) (bool, error) {
	d.images.mu.Lock()
	known := time.Since(d.images.seen[id]) < trust
	d.images.mu.Unlock()
	if known {
		return true, nil
	}
	_, here, err := d.present(ctx, id)
	if here {
		d.images.saw(id)
	}
	return here, err
}

// saw notes that the engine has an image.
func (s *imageStore) saw(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil || len(s.seen) > 1000 {
		s.seen = make(map[string]time.Time)
	}
	s.seen[id] = time.Now()
}

// lost makes the next task ask again.
func (s *imageStore) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = nil
}

// all are the records that can be read.
func (s *imageStore) all() (map[string]kept, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	all := make(map[string]kept)
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		var k kept
		data, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err == nil && json.Unmarshal(data, &k) == nil {
			all[e.Name()] = k
		}
	}
	return all, nil
}

// present asks the engine for an image by its id or by a name.
func (d *Driver) present(ctx context.Context, name string) (client.ImageInspectResult, bool, error) {
	found, err := d.engine.ImageInspect(ctx, name)
	if isNotFound(err) {
		return found, false, nil
	}
	if err != nil {
		return found, false, d.unanswered(err)
	}
	return found, true, nil
}

// Collect removes images that came for tasks, that no task here has any more and
// that were not used for Config.KeepImages. Counts are made anew each time from
// what is on the disk, so none is lost with an agent.
func (d *Driver) Collect(ctx context.Context) error {
	d.images.mu.Lock()
	defer d.images.mu.Unlock()
	d.images.collected = time.Now()
	tasks, err := d.Driver.List(ctx)
	if err != nil {
		return err
	}
	needed := make(map[string]bool)
	for _, o := range tasks {
		var t told
		if _, err := d.Told(o.Handle.Task, &t); err != nil {
			return err // what it needs is not known: nothing is removed
		}
		needed[t.Image.ID] = true
	}
	all, err := d.images.all()
	if err != nil {
		return err
	}
	ours := make(map[string]bool)
	for _, k := range all {
		if time.Since(k.UsedAt) < d.cfg.KeepImages {
			needed[k.ID] = true
		}
		ours[k.ID] = ours[k.ID] || k.Ours
	}
	var problems []error
	for name, k := range all {
		if needed[k.ID] {
			continue
		}
		d.images.seen = nil
		if ours[k.ID] {
			if err := d.removeImage(ctx, k); err != nil {
				problems = append(problems, err)
				continue
			}
			d.log.Info("removed an image that no task needs", "image", k.Ref, "digest", k.Digest)
		}
		if err := os.Remove(filepath.Join(d.images.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// removeImage takes our name from an image, and the image itself if nobody else
// has given it one and no container is made from it.
func (d *Driver) removeImage(ctx context.Context, k kept) error {
	for _, name := range []string{ourName(k.Digest), k.ID} {
		_, err := d.engine.ImageRemove(ctx, name, client.ImageRemoveOptions{PruneChildren: true})
		if err != nil && !isNotFound(err) && !isConflict(err) {
			return fmt.Errorf("remove image %s: %w", k.Ref, d.unanswered(err))
		}
	}
	return nil
}

// collectSometimes collects at most once in an hour.
func (d *Driver) collectSometimes(ctx context.Context) {
	d.images.mu.Lock()
	due := time.Since(d.images.collected) > time.Hour
	d.images.mu.Unlock()
	if !due {
		return
	}
	if err := d.Collect(ctx); err != nil {
		d.log.Warn("remove images that no task needs", "err", err)
	}
}

// imageError says why an image is not had, to the author of the job.
func (d *Driver) imageError(ctx context.Context, s *runner.Spec, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var hinted interface{ Hint() string }
	switch {
	case errors.As(err, &hinted), strings.Contains(err.Error(), "no space left on device"):
		return startError(s.Task, err)
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(s, fmt.Sprintf("the image %s did not come within %v", s.Image, d.cfg.PullTimeout), "submit the job again, or have the node's operator put the image on its disk")
	}
	return refuse(s, fmt.Sprintf("the image %s cannot be had: %v", s.Image, err), "see that the node reaches the registry; where it does not, name an image on its disk: oci-archive:/path or oci-layout:/path")
}
