//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/node/runner"
)

// maxList bounds a list of checksums and its signature, in bytes.
const maxList = 4 << 20

// Prepare has the task's image ready: fetched, compared, looked into.
func (d *Driver) Prepare(ctx context.Context, s runner.Spec) error {
	d.images.use.RLock()
	defer d.images.use.RUnlock()
	_, err := d.resolve(ctx, s)
	return err
}

// PrepareInputs has the disk of a task's inputs ready, which its start or its
// taking in finds.
func (d *Driver) PrepareInputs(ctx context.Context, s runner.Spec) error {
	_, err := d.inputs.Disk(ctx, s)
	return err
}

// resolve finds the image that a task names. What is here already is not
// fetched or read again. The caller holds the store's use.
func (d *Driver) resolve(ctx context.Context, s runner.Spec) (Image, error) {
	want := ""
	if s.Setup != nil {
		want = s.Setup.ImageDigest
	}
	release, err := d.images.turns.Take(ctx, s.Image+" "+want)
	if err != nil {
		return Image{}, fmt.Errorf("wait for image %s, which another task has brought: %w", s.Image, err)
	}
	defer release()
	img, err := d.find(ctx, s, want)
	if err != nil {
		return img, err
	}
	if want != "" && img.Digest != want {
		return img, refuse(s, "name the digest of the image that is meant, or another image", "image %s has the digest %s, not %s", s.Image, img.Digest, want)
	}
	img.Path = d.images.path(img.Digest)
	f, err := os.Open(img.Path)
	if err != nil {
		return img, err
	}
	defer f.Close()
	if img.Virtual, err = img.virtual(f); err != nil {
		return img, refuse(s, "give an image that is whole and in the format that its name says", "image %s: %v", s.Image, err)
	}
	if img.Virtual > int64(d.cfg.MaxDisk) {
		return img, refuse(s, "give a smaller image", "image %s: its disk has %d bytes, more than a disk may have here", s.Image, img.Virtual)
	}
	return img, nil
}

// virtual is the size of the disk that a guest sees of the image's file.
func (i Image) virtual(f *os.File) (int64, error) {
	if i.Format == Qcow2 {
		return inspectQcow2(f)
	}
	st, err := f.Stat()
	if err == nil && (st.Size() == 0 || st.Size()%512 != 0) {
		err = fmt.Errorf("its %d bytes are not a number of sectors", st.Size())
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (d *Driver) find(ctx context.Context, s runner.Spec, want string) (Image, error) {
	switch {
	case s.Image == "":
		return Image{}, refuse(s, "write one: image: debian-12, or a path below the node's image directory, or a URL with image_digest", "the job names no image")
	case strings.HasPrefix(s.Image, "http://"), strings.HasPrefix(s.Image, "https://"):
		return d.fromURL(ctx, s, want)
	}
	for _, v := range d.cfg.Catalogue {
		if v.Name == s.Image {
			return d.fromVendor(ctx, s, v, want)
		}
	}
	if !strings.Contains(s.Image, "/") {
		return Image{}, refuse(s, "the catalogue has "+strings.Join(names(d.cfg.Catalogue), ", "), "no image is called %s", s.Image)
	}
	return d.fromPath(ctx, s, s.Image)
}

// fromPath takes in a file of the operator's.
func (d *Driver) fromPath(ctx context.Context, s runner.Spec, name string) (Image, error) {
	format, ok := formatOf(name)
	if !ok {
		return Image{}, refuse(s, "let its name end in .qcow2 or .raw: what is in a file is not guessed", "the name of image %s does not say its format", name)
	}
	digest, err := d.takeFile(ctx, name)
	if err != nil {
		return Image{}, refuse(s, "put the image below the node's image directory, or see why it cannot be read", "image %s: %v", name, err)
	}
	return Image{Digest: digest, Format: format}, nil
}

// seenFile is a file that was taken in before, by what changes when it does.
type seenFile struct {
	Path, Digest     string
	Dev, Ino         uint64
	Size, Mod, Birth int64 // bytes; nanoseconds of last change of content and of inode
}

// takeFile has a file of an image directory in the store. One that did not change since is not read again.
func (d *Driver) takeFile(ctx context.Context, name string) (string, error) {
	f, err := openBelow(d.cfg.ImageDirs, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	now, err := identifyFile(f)
	if err != nil {
		return "", err
	}
	note := filepath.Join(d.images.dir, "seen-"+shortHash(now.Path))
	var before seenFile
	if readJSON(note, &before) == nil {
		now.Digest = before.Digest
		if now == before && d.images.has(now.Digest) {
			return now.Digest, nil
		}
	}
	if now.Digest, err = d.images.add(ctx, f, ""); err != nil {
		return "", err
	}
	return now.Digest, writeJSON(note, now)
}

// fromURL fetches a file whose digest the job names.
func (d *Driver) fromURL(ctx context.Context, s runner.Spec, want string) (Image, error) {
	u, err := url.Parse(s.Image)
	if err != nil {
		return Image{}, refuse(s, "write a whole URL", "image %s: %v", s.Image, err)
	}
	format, ok := formatOf(u.Path)
	if !ok {
		return Image{}, refuse(s, "let its path end in .qcow2 or .raw: what is in a file is not guessed", "the name of image %s does not say its format", s.Image)
	}
	if want == "" {
		return Image{}, refuse(s, "add image_digest: sha256:...", "image %s comes from afar and the job does not say which bytes it is", s.Image)
	}
	if err := d.byDigest(ctx, s.Image, "tenant "+string(s.Tenant), want); err != nil {
		return Image{}, d.fetchError(s, err)
	}
	return Image{Digest: want, Format: format}, nil
}

// byDigest has the image of a digest in the store, for those whose source from is.
// To know a digest is not to have the image: one that lies here for others is given
// to them only after this source gave the same bytes, once.
func (d *Driver) byDigest(ctx context.Context, from, whose, want string) error {
	if d.images.has(want) && fetch.Proven(d.images.path(want), whose) {
		return nil
	}
	body, err := d.open(ctx, from)
	if err != nil {
		return err
	}
	defer body.Close()
	if d.images.has(want) {
		err = d.images.compare(ctx, body, want)
	} else {
		_, err = d.images.add(ctx, body, strings.TrimPrefix(want, "sha256:"))
	}
	if err != nil {
		return err
	}
	return fetch.Prove(d.images.path(want), whose)
}

// fetchError tells a file that is wrong from one that could not be had now.
func (d *Driver) fetchError(s runner.Spec, err error) error {
	if errors.Is(err, errMismatch) || errors.Is(err, fs.ErrNotExist) {
		return refuse(s, "see whether the image was exchanged, and by whom", "image %s: %v", s.Image, err)
	}
	return fmt.Errorf("fetch image %s: %w", s.Image, err)
}

// fromVendor has an image of the catalogue: the operator's own copy of it, the
// one that was fetched before, or the vendor's, compared with the vendor's list.
func (d *Driver) fromVendor(ctx context.Context, s runner.Spec, v Vendor, want string) (Image, error) {
	for _, dir := range d.cfg.ImageDirs {
		name := filepath.Join(dir, v.Name+"."+string(v.Format))
		if _, err := os.Stat(name); err == nil {
			return d.fromPath(ctx, s, name)
		}
	}
	img := Image{Format: v.Format}
	note := filepath.Join(d.images.dir, "vendor-"+v.Name)
	if readJSON(note, &img.Digest) == nil && d.images.has(img.Digest) && (want == "" || want == img.Digest) {
		return img, nil
	}
	if want != "" { // the job's own word, which is none for those who have no such word
		if err := d.byDigest(ctx, v.URL, "catalogue "+v.URL, want); err != nil {
			return img, d.fetchError(s, err)
		}
		img.Digest = want
		return img, nil
	}
	sum, err := d.vendorSum(ctx, s, v)
	if err != nil {
		return img, err
	}
	if img.Digest, err = d.fetch(ctx, v.URL, sum); err != nil {
		return img, d.fetchError(s, err)
	}
	return img, writeJSON(note, img.Digest)
}

// vendorSum asks the vendor which bytes the image is, and checks that it was
// the vendor who answered.
func (d *Driver) vendorSum(ctx context.Context, s runner.Spec, v Vendor) (string, error) {
	if v.Signature == "" {
		return "", refuse(s, fmt.Sprintf("compare it with %s yourself, then add image_digest, or put the file into an image directory as %s.%s", v.Sums, v.Name, v.Format),
			"image %s: its vendor does not sign the list of checksums, so nothing says which bytes it is", v.Name)
	}
	key, err := d.vendorKey(v)
	if err != nil {
		return "", refuse(s, fmt.Sprintf("install the vendor's key %s (fingerprint %s; it is in %s)", filepath.Join("keys", v.Key), v.Fingerprint, v.KeysFrom),
			"image %s: the key that signs its checksums is not on the node: %v", v.Name, err)
	}
	list, err := d.get(ctx, v.Sums)
	if err != nil {
		return "", fmt.Errorf("fetch the checksums of image %s: %w", v.Name, err)
	}
	var signature []byte
	if v.Signature != inline {
		if signature, err = d.get(ctx, v.Signature); err != nil {
			return "", fmt.Errorf("fetch the signature of the checksums of image %s: %w", v.Name, err)
		}
		if signature == nil {
			signature = []byte{}
		}
	}
	text, err := verifyList(list, signature, key, v.Fingerprint)
	if err == nil {
		var sum string
		if sum, err = findSum(text, v.URL); err == nil {
			return sum, nil
		}
	}
	return "", refuse(s, "see whether the vendor changed its key or its list, or somebody stands in between", "image %s: %v", v.Name, err)
}

func (d *Driver) vendorKey(v Vendor) ([]byte, error) {
	var missing error = errors.New("the node's operator named no image directory")
	for _, dir := range d.cfg.ImageDirs {
		name := filepath.Join(dir, "keys", v.Key)
		f, err := openBelow(d.cfg.ImageDirs, name)
		if err != nil {
			missing = err
			continue
		}
		defer f.Close()
		return readAtMost(f, maxList)
	}
	return nil, missing
}

// fetch brings a file into the store.
func (d *Driver) fetch(ctx context.Context, from, sum string) (string, error) {
	body, err := d.open(ctx, from)
	if err != nil {
		return "", err
	}
	defer body.Close()
	return d.images.add(ctx, body, sum)
}

func (d *Driver) get(ctx context.Context, from string) ([]byte, error) {
	body, err := d.open(ctx, from)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readAtMost(body, maxList)
}

func (d *Driver) open(ctx context.Context, from string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.cfg.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Body, nil
	case http.StatusNotFound, http.StatusGone:
		err = fmt.Errorf("%s answers %s: %w", from, resp.Status, fs.ErrNotExist)
	default:
		err = fmt.Errorf("%s answers %s", from, resp.Status)
	}
	return nil, errors.Join(err, resp.Body.Close())
}

func readAtMost(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	return data, err
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// writeJSON puts the whole file in its place, or none. It is on the disk when it
// returns: a power cut leaves the one before or this one.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}
