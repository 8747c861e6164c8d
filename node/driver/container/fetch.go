//go:build linux

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	images "github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/runner"
)

// Prepare gets the task's image to the engine, unless it has it.
func (d *Driver) Prepare(ctx context.Context, s runner.Spec) error {
	if _, err := d.image(ctx, &s); err != nil {
		return d.imageError(ctx, &s, err)
	}
	return nil
}

// image is the task's image at the engine: the one that its job has had here
// before, or one that the engine has by this name, or else one that is fetched.
func (d *Driver) image(ctx context.Context, s *runner.Spec) (image, error) {
	want := ""
	if s.Setup != nil {
		want = s.Setup.ImageDigest
	}
	if _, pinned, ok := strings.Cut(s.Image, "@"); ok && want == "" {
		want = pinned
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.PullTimeout)
	defer cancel()
	release, err := d.images.turns.Take(ctx, s.Image)
	if err != nil {
		return image{}, err
	}
	defer release()
	k, err := d.images.get(s.Job, s.Image)
	if err == nil && (want == "" || want == k.Digest) {
		here, err := d.here(ctx, k.ID)
		if err != nil {
			return image{}, err
		}
		if here && time.Since(k.UsedAt) < trust {
			return k.image, nil
		}
		if here {
			k.UsedAt = time.Now()
			return k.image, d.images.put(k)
		}
		if !images.OnDisk(s.Image) && want == "" && strings.HasPrefix(k.Digest, "sha256:") {
			want = k.Digest // a tag is resolved once
		}
	}
	img, here, err := d.have(ctx, s.Image, want)
	ours := false
	if err == nil && !here {
		img, ours, err = d.fetch(ctx, s.Image, want)
	}
	if err != nil {
		return image{}, err
	}
	d.images.saw(img.ID)
	// One that was ours stays ours.
	return img, d.images.put(kept{image: img, Job: s.Job, Ours: ours || (k.ID == img.ID && k.Ours), UsedAt: time.Now()})
}

// have looks for an image that the engine already has by the name, or by the
// digest that it came with.
func (d *Driver) have(ctx context.Context, ref, want string) (image, bool, error) {
	if _, err := name.ParseReference(ref); err != nil || images.OnDisk(ref) {
		return image{}, false, nil // what is wrong with it is said when it is fetched
	}
	found, here, err := d.present(ctx, ref)
	if !here || err != nil {
		return image{}, false, err
	}
	img := image{Ref: ref, ID: found.ID, Digest: found.ID}
	var known []string
	for _, r := range found.RepoDigests {
		if _, digest, ok := strings.Cut(r, "@"); ok {
			known = append(known, digest)
		}
	}
	switch {
	case want == "" && len(known) > 0:
		img.Digest = known[0]
	case want == "":
	case slices.Contains(known, want):
		img.Digest = want
	default:
		return image{}, false, nil // another one has the name here
	}
	return img, true, nil
}

// ourName is the name that the engine has an image by which came through us.
func ourName(digest string) string {
	return "sovmesh.local/image:" + strings.TrimPrefix(digest, "sha256:")
}

// fetch reads the image from the disk or the registry and gives it to the
// engine. Every byte is checked on the way, and what the engine then has is
// compared with what was given.
func (d *Driver) fetch(ctx context.Context, ref, want string) (image, bool, error) {
	source := images.Source{
		Dirs: d.cfg.ImageDirs, AuthFile: d.cfg.AuthFile, Transport: d.cfg.Transport, Plain: d.cfg.PlainRegistries, Mirrors: d.cfg.Mirrors,
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
	}
	opened, err := source.Open(ctx, ref, want)
	if err != nil {
		return image{}, false, err
	}
	defer opened.Close()
	config, err := opened.ConfigName()
	if err != nil {
		return image{}, false, err
	}
	layers, err := opened.ConfigFile()
	if err != nil {
		return image{}, false, err
	}
	img := image{Ref: ref, Digest: opened.Digest}
	same := func() (bool, error) {
		found, here, err := d.present(ctx, ourName(opened.Digest))
		if !here || err != nil {
			return false, err
		}
		if found.ID != config.String() && !slices.Equal(found.RootFS.Layers, hashes(layers.RootFS.DiffIDs)) {
			return false, nil
		}
		img.ID = found.ID
		return true, nil
	}
	if here, err := same(); here || err != nil {
		return img, true, err
	}
	if err := d.load(ctx, opened); err != nil {
		return image{}, false, err
	}
	here, err := same()
	if err == nil && !here {
		err = &runner.StartError{Reason: "the engine made something else of the image " + ref, Advice: "see the engine's own log on the node"}
	}
	return img, true, err
}

func hashes(all []v1.Hash) []string {
	out := make([]string, len(all))
	for i, h := range all {
		out[i] = h.String()
	}
	return out
}

// load streams the image to the engine. What is found wrong with it on the way
// cuts the stream off before its last part, without which an engine keeps nothing.
func (d *Driver) load(ctx context.Context, opened *images.Image) error {
	tag, err := name.NewTag(ourName(opened.Digest))
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	written := make(chan error, 1)
	p := d.progress(opened)
	go func() {
		err := tarball.Write(tag, check(opened.Image), io.MultiWriter(w, p))
		_ = w.CloseWithError(err)
		written <- err
	}()
	answer, err := d.engine.ImageLoad(ctx, r)
	if err == nil {
		err = loaded(answer)
		_ = answer.Close()
	}
	_ = r.CloseWithError(io.ErrClosedPipe)
	bad := <-written
	if bad != nil && !errors.Is(bad, io.ErrClosedPipe) {
		return bad
	}
	if err != nil {
		return fmt.Errorf("give the image to the engine: %w", d.unanswered(err))
	}
	return nil
}

// loaded reads the engine's account of a load, which ends well or names an error.
func loaded(answer io.Reader) error {
	for dec := json.NewDecoder(io.LimitReader(answer, 16<<20)); ; {
		var m struct {
			Error string `json:"error"`
		}
		if err := dec.Decode(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
	}
}

// progress logs how far an image has come, every few seconds.
type progress struct {
	d          *Driver
	name       string
	done, size int64
	said       time.Time
}

func (d *Driver) progress(opened *images.Image) *progress {
	p := &progress{d: d, name: opened.Name, said: time.Now()}
	if m, err := opened.Manifest(); err == nil {
		for _, l := range m.Layers {
			p.size += l.Size
		}
	}
	return p
}

func (p *progress) Write(b []byte) (int, error) {
	p.done += int64(len(b))
	if time.Since(p.said) > 5*time.Second {
		p.said = time.Now()
		p.d.log.Info("an image is coming", "image", p.name, "done_bytes", p.done, "of_bytes", p.size)
	}
	return len(b), nil
}
