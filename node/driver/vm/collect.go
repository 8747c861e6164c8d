//go:build linux

package vm

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// imageRest is how long an image stays that nothing uses: the next attempt, and
// the next job of the same kind, find it.
const imageRest = 7 * 24 * time.Hour

func oldEnough(e fs.DirEntry) bool {
	info, err := e.Info()
	return err == nil && time.Since(info.ModTime()) > imageRest
}

// signRest is how long a sign of a move, or a name that is being given, may lie where
// disks are: a move waits half an hour for its answer, a name is given at once.
const signRest = time.Hour

// sweepSigns removes what agents that were killed left of those. Other nodes may keep
// their disks in the same place, so it is what is old alone; what cannot be removed
// is in nobody's way.
func sweepSigns(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		id, sign := strings.CutPrefix(e.Name(), probeName)
		if !sign {
			id, sign = strings.CutPrefix(e.Name(), storageFile+"-")
		}
		if !sign || !isID(id) || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > signRest {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
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
