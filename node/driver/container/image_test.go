//go:build linux

package container

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/client"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/runner"
)

// marked is an image of its own, by a file that no other has.
func marked(t *testing.T, text string) (digest, dir, archive string) {
	t.Helper()
	img, err := enginetest.Image(enginetest.File{Header: tar.Header{Name: "mark", Typeflag: tar.TypeReg, Mode: 0o644}, Content: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	dir, archive = filepath.Join(base, "layout"), filepath.Join(base, "image.tar")
	if err := errors.Join(enginetest.WriteLayout(dir, img), enginetest.WriteArchive(archive, img)); err != nil {
		t.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String(), dir, archive
}

func TestImagesOnDisk(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		digest, dir, archive := marked(t, "of "+t.Name())
		d := newDriver(t, e, t.TempDir(), func(c *Config) { c.ImageDirs = []string{filepath.Dir(dir)} })
		for n, ref := range []string{"oci-layout:" + dir, "oci-archive:" + archive} {
			s := task(n, func(s *runner.Spec) { s.Image, s.Setup.ImageDigest = ref, digest }, app("cat", "/mark")...)
			if err := d.Prepare(within(t), s); err != nil {
				t.Fatal(err)
			}
			h := start(t, d, s)
			if got := printed(t, d, h); got != "of "+t.Name() {
				t.Errorf("%s gives %q", ref, got)
			}
			if o, err := d.Recover(within(t), h); err != nil || o.Facts["image_digest"] != digest {
				t.Errorf("%+v, %v", o, err)
			}
		}
		link := filepath.Join(filepath.Dir(dir), "link")
		if err := os.Symlink(t.TempDir(), link); err != nil {
			t.Fatal(err)
		}
		wrong := "sha256:" + strings.Repeat("0", 64)
		for ref, words := range map[string]string{
			"oci-layout:" + dir: wrong,
			"oci-layout:/etc":   "not below",
			"oci-layout:" + filepath.Dir(dir) + "/../../": "not below",
			"oci-layout:" + link:                          "not below",
			"oci-archive:" + dir + "/index.json":          "",
			"oci-archive:" + archive + ".none":            "no such file",
		} {
			err := d.Prepare(within(t), task(9, func(s *runner.Spec) {
				s.Image = ref
				if words == wrong {
					s.Setup.ImageDigest = wrong
				}
			}))
			refused(t, err, words)
		}
	})
}

// TestLayersThatAreRefused gives images that no ordinary tool makes, and one
// that was damaged: none reaches an engine.
func TestLayersThatAreRefused(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		base := t.TempDir()
		d := newDriver(t, e, t.TempDir(), func(c *Config) { c.ImageDirs = []string{base} })
		before := countImages(t, d)
		for n, test := range []struct {
			file  tar.Header
			words string
		}{
			{tar.Header{Name: "../../etc/evil", Typeflag: tar.TypeReg, Mode: 0o644}, "out of its root"},
			{tar.Header{Name: "usr/../../evil", Typeflag: tar.TypeReg, Mode: 0o644}, "out of its root"},
			{tar.Header{Name: "evil", Linkname: "../../../etc/shadow", Typeflag: tar.TypeLink}, "out of its root"},
			{tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}, "device node (8:0)"},
			{tar.Header{Name: "dev/mem", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1, Mode: 0o666}, "device node (1:1)"},
		} {
			img, err := enginetest.Image(enginetest.File{Header: test.file})
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(base, fmt.Sprint(n))
			if err := enginetest.WriteLayout(dir, img); err != nil {
				t.Fatal(err)
			}
			err = d.Prepare(within(t), task(n, func(s *runner.Spec) { s.Image = "oci-layout:" + dir }))
			refused(t, err, test.words)
		}
		_, dir, _ := marked(t, "to be damaged")
		damage(t, dir)
		d.cfg.ImageDirs = []string{filepath.Dir(dir)}
		refused(t, d.Prepare(within(t), task(20, func(s *runner.Spec) { s.Image = "oci-layout:" + dir })), "digest")
		if after := countImages(t, d); after != before {
			t.Errorf("the engine had %d images, it has %d", before, after)
		}
	})
}

// TestNoSpace has an engine whose disk is too small for an image: the task says
// so, nothing of it is left, and what runs goes on.
func TestNoSpace(t *testing.T) {
	for _, kind := range enginetest.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			if why := enginetest.Missing(kind); why != "" {
				t.Skipf("no %s here: %s", kind, why)
			}
			e, err := enginetest.StartSmall(kind, 24<<20)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			})
			small, err := enginetest.Image()
			if err != nil {
				t.Fatal(err)
			}
			e.Load(t, appImage, small)
			random := make([]byte, 40<<20)
			_, _ = rand.NewChaCha8([32]byte{}).Read(random)
			large, err := enginetest.Image(enginetest.File{Header: tar.Header{Name: "large", Typeflag: tar.TypeReg, Mode: 0o644}, Content: random})
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "large")
			if err := enginetest.WriteLayout(dir, large); err != nil {
				t.Fatal(err)
			}
			d := newDriver(t, e, t.TempDir(), func(c *Config) { c.ImageDirs = []string{filepath.Dir(dir)} })
			other := start(t, d, task(0, nil, app("sleep")...))
			before := countImages(t, d)
			refused(t, d.Prepare(within(t), task(1, func(s *runner.Spec) { s.Image = "oci-layout:" + dir })), "no space")
			if after := countImages(t, d); after != before {
				t.Errorf("the engine had %d images, it has %d", before, after)
			}
			if o, err := d.Recover(within(t), other); err != nil || o.State != runner.StateRunning {
				t.Errorf("the other task: %+v, %v", o, err)
			}
		})
	}
}

// damage changes one byte in the middle of the largest blob.
func damage(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var largest string
	var size int64
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && st.Size() > size {
			largest, size = f, st.Size()
		}
	}
	data, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(largest, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func countImages(t *testing.T, d *Driver) int {
	t.Helper()
	list, err := d.engine.ImageList(within(t), client.ImageListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

// TestRegistry pulls from a registry that asks who one is, by tag, by digest
// and by a mirror.
func TestRegistry(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
		asked := 0
		var stuck atomic.Pointer[chan struct{}]
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); !ok || user != "node" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if strings.HasSuffix(r.URL.Path, "/manifests/stuck") {
				if begun := stuck.Swap(nil); begun != nil {
					close(*begun)
				}
				<-r.Context().Done()
				return
			}
			if strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodGet {
				asked++
			}
			handler.ServeHTTP(w, r)
		}))
		defer server.Close()
		host := strings.TrimPrefix(server.URL, "http://")
		push := func(tag, text string) string {
			img, err := enginetest.Image(enginetest.File{Header: tar.Header{Name: "mark", Typeflag: tar.TypeReg, Mode: 0o644}, Content: []byte(text)})
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.NewTag(host+"/team/app:"+tag, name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "node", Password: "secret"})); err != nil {
				t.Fatal(err)
			}
			h, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			return h.String()
		}
		one := push("1", "one of "+t.Name())
		authFile := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(authFile, []byte(`{"auths":{"`+host+`":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("node:secret"))+`"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		d := newDriver(t, e, dir, func(c *Config) {
			c.AuthFile, c.PlainRegistries, c.Mirrors = authFile, []string{host}, map[string]string{"registry.example/public": host + "/team"}
		})
		run := func(d *Driver, n int, ref string) string {
			s := task(n, func(s *runner.Spec) { s.Image = ref }, app("cat", "/mark")...)
			if err := d.Prepare(within(t), s); err != nil {
				t.Fatal(err)
			}
			return printed(t, d, start(t, d, s))
		}
		if got := run(d, 0, host+"/team/app:1"); got != "one of "+t.Name() {
			t.Errorf("by tag: %q", got)
		}
		// The tag means another image now; the job keeps to the one it had, also
		// for an agent that comes back.
		two := push("1", "two of "+t.Name())
		before := asked
		d = newDriver(t, e, dir, func(c *Config) { *c = d.cfg })
		if got := run(d, 1, host+"/team/app:1"); got != "one of "+t.Name() || asked != before {
			t.Errorf("by the tag again: %q, asked %d times", got, asked-before)
		}
		if got := run(d, 2, host+"/team/app@"+two); got != "two of "+t.Name() {
			t.Errorf("by digest: %q", got)
		}
		if got := run(d, 3, "registry.example/public/app@"+one); got != "one of "+t.Name() {
			t.Errorf("by the mirror: %q", got)
		}
		// One that does not come keeps nobody else waiting.
		slow, stop := context.WithCancel(within(t))
		begun := make(chan struct{})
		stuck.Store(&begun)
		came := make(chan error, 1)
		go func() { came <- d.Prepare(slow, task(8, func(s *runner.Spec) { s.Image = host + "/team/app:stuck" })) }()
		<-begun
		if got := run(d, 4, host+"/team/app@"+two); got != "two of "+t.Name() {
			t.Errorf("beside one that does not come: %q", got)
		}
		stop()
		if err := <-came; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		for ref, words := range map[string]string{
			host + "/team/none:1":                                  "none",
			host + "/team/app@sha256:" + strings.Repeat("0", 64):   "",
			"registry.example/public/app@sha256:" + one[:20]:       "digest",
			"registry.example/other/app:1@" + one + "," + "broken": "",
		} {
			err := d.Prepare(within(t), task(9, func(s *runner.Spec) { s.Image = ref }))
			refused(t, err, words)
		}
	})
}

// TestImagesAreCollected counts anew after a restart: an image that a kept task
// needs stays, one that nobody needs goes, one that was there before stays.
func TestImagesAreCollected(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		digest, layoutDir, _ := marked(t, "kept by "+t.Name())
		dir := t.TempDir()
		change := func(c *Config) { c.ImageDirs, c.KeepImages = []string{filepath.Dir(layoutDir)}, 0 }
		d := newDriver(t, e, dir, change)
		h := start(t, d, task(0, func(s *runner.Spec) { s.Image = "oci-layout:" + layoutDir }, app("exit", "0")...))
		other := start(t, d, task(1, nil, app("exit", "0")...)) // the engine had this one already
		wait(t, d, h)
		wait(t, d, other)
		has := func(name string) bool {
			_, here, err := d.present(within(t), name)
			if err != nil {
				t.Fatal(err)
			}
			return here
		}
		d = newDriver(t, e, dir, change)
		if err := d.Collect(within(t)); err != nil || !has(ourName(digest)) {
			t.Errorf("an image was removed whose task is kept: %v", err)
		}
		for _, h := range []runner.Handle{h, other} {
			if err := d.Destroy(within(t), h); err != nil {
				t.Fatal(err)
			}
		}
		late := newDriver(t, e, dir, func(c *Config) { change(c); c.KeepImages = time.Hour })
		if err := late.Collect(within(t)); err != nil || !has(ourName(digest)) {
			t.Errorf("an image was removed before its time: %v", err)
		}
		if err := d.Collect(within(t)); err != nil || has(ourName(digest)) || !has(appImage) {
			t.Errorf("%v; ours is there: %v, the other one: %v", err, has(ourName(digest)), has(appImage))
		}
		if files, _ := os.ReadDir(d.images.dir); len(files) != 0 {
			t.Errorf("records left: %v", files)
		}
	})
}

// FuzzEntries gives a layer's entries of any kind: none that is let through
// leads out or is a device.
func FuzzEntries(f *testing.F) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{{Name: "a/b", Typeflag: tar.TypeReg}, {Name: "../x", Typeflag: tar.TypeDir}, {Name: "d", Typeflag: tar.TypeChar}} {
		_ = w.WriteHeader(&h)
	}
	_ = w.Close()
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if entries(bytes.NewReader(data)) != nil {
			return
		}
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if err != nil {
				return
			}
			if strings.HasPrefix(filepath.Clean(h.Name), "..") || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
				t.Errorf("let through: %+v", h)
			}
		}
	})
}
