//go:build linux

package vm

import (
	"context"
	"io/fs"
	"path/filepath"
	"time"
)

// imageRest is how long an image stays that nothing uses: the next attempt, and
// the next job of the same kind, find it.
const imageRest = 7 * 24 * time.Hour

func oldEnough(e fs.DirEntry) bool {
	info, err := e.Info()
	return err == nil && time.Since(info.ModTime()) > imageRest
}

// usedImages are the names of the store's files that something needs.
func (d *Driver) usedImages(ctx context.Context) ([]string, error) {
	var used []string
	need := func(paths ...string) {
		for _, p := range paths {
			used = append(used, filepath.Base(p))
		}
	}
	all, err := d.Driver.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		_, t, err := d.told(o.Handle.Task)
		if err != nil {
			return nil, err
		}
		need(t.Image.Path, t.Kernel.Image, t.Kernel.Initrd)
	}
	roots, err := filepath.Glob(filepath.Join(d.cfg.Dir, "disks", "*", "root.json"))
	if err != nil {
		return nil, err
	}
	for _, note := range roots {
		var img Image
		if err := readJSON(note, &img); err != nil {
			return nil, err
		}
		need(d.images.path(img.Digest))
	}
	vendors, err := filepath.Glob(filepath.Join(d.images.dir, "vendor-*"))
	if err != nil {
		return nil, err
	}
	for _, note := range vendors {
		var digest string
		if readJSON(note, &digest) == nil {
			need(d.images.path(digest))
		}
	}
	return used, nil
}
