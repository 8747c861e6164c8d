package image

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sovmesh/sovmesh/node/driver/image/imagetest"
)

func hello(t *testing.T, text string) v1.Image {
	return imagetest.Image(t, v1.Config{Entrypoint: []string{"/hello"}}, imagetest.Layer(t, imagetest.Regular("hello", []byte(text))))
}

func digestOf(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// readAll reads every layer to its end.
func readAll(img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// The image of the README's examples is one, and the same each time.
func TestTheImageOfTheScript(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the script makes images of Linux, with its tools")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var digests []string
	for _, name := range []string{"one", "two"} {
		if said, err := exec.Command("../../../deploy/image.sh", filepath.Join(dir, name), program).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		s := Source{Dirs: []string{dir}, Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}
		img, err := s.Open(t.Context(), LayoutPrefix+filepath.Join(dir, name), "")
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		if err := readAll(img.Image); err != nil {
			t.Error(err)
		}
		config, err := img.ConfigFile()
		if err != nil || config.Architecture != runtime.GOARCH || len(config.Config.Env) != 1 {
			t.Errorf("its configuration is %+v, %v", config, err)
		}
		digests = append(digests, img.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("made twice it has the digests %v", digests)
	}
}

func TestImagesOnDisk(t *testing.T) {
	dir := t.TempDir()
	one, two := hello(t, "one"), hello(t, "two")
	imagetest.Archive(t, dir, "one.tar", one)
	imagetest.Layout(t, dir, "both", one, two)
	outside := imagetest.Archive(t, t.TempDir(), "outside.tar", one)
	if err := os.Symlink(outside, filepath.Join(dir, "link.tar")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Source{Dirs: []string{dir}}
	for _, test := range []struct{ name, ref, digest, refusal string }{
		{"an archive", "oci-archive:" + dir + "/one.tar", "", ""},
		{"with its digest", "oci-archive:" + dir + "/one.tar", digestOf(t, one), ""},
		{"with its digest in the name", "oci-archive:" + dir + "/one.tar@" + digestOf(t, one), "", ""},
		{"with another digest", "oci-archive:" + dir + "/one.tar", digestOf(t, two), "holds no image"},
		{"with two digests", "oci-archive:" + dir + "/one.tar@" + digestOf(t, one), digestOf(t, two), "different digests"},
		{"with no digest", "oci-archive:" + dir + "/one.tar", "sha256:12", "no digest"},
		{"a layout of two", "oci-layout:" + dir + "/both", digestOf(t, two), ""},
		{"which of two", "oci-layout:" + dir + "/both", "", "2 images"},
		{"not there", "oci-archive:" + dir + "/none.tar", "", "no such file"},
		{"outside", "oci-archive:" + outside, "", "not below"},
		{"a link that leads outside", "oci-archive:" + dir + "/link.tar", "", "not below"},
		{"dots that lead outside", "oci-archive:" + dir + "/../../etc/passwd", "", "no such file|not below"},
		{"relative", "oci-archive:one.tar", "", "not an absolute path"},
		{"no archive", "oci-archive:" + dir + "/text", "", "cannot be read"},
		{"none", "", "", "names no image"},
		{"a registry that is not reached", "registry.example/app", "", "reaches no registry"},
	} {
		t.Run(test.name, func(t *testing.T) {
			img, err := s.Open(t.Context(), test.ref, test.digest)
			if test.refusal == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer img.Close()
				if err := readAll(img.Image); err != nil || (test.digest != "" && img.Digest != test.digest) {
					t.Errorf("%v; its digest is %s", err, img.Digest)
				}
				return
			}
			var refused *Error
			if !errors.As(err, &refused) || refused.Hint() == "" {
				t.Fatalf("it gives %v", err)
			}
			ok := false
			for _, r := range strings.Split(test.refusal, "|") {
				ok = ok || strings.Contains(refused.Reason, r)
			}
			if !ok {
				t.Errorf("the reason is %q, not %q", refused.Reason, test.refusal)
			}
		})
	}
}

// TestWhatLiesThereIsChecked changes one blob after the other.
func TestWhatLiesThereIsChecked(t *testing.T) {
	dir := t.TempDir()
	img := hello(t, strings.Repeat("hello ", 1000))
	imagetest.Layout(t, dir, "app", img)
	s := Source{Dirs: []string{dir}}
	files, err := filepath.Glob(filepath.Join(dir, "app/blobs/sha256/*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string][]byte{
			"cut off": good[:len(good)-1], "longer": append(append([]byte(nil), good...), ' '),
			"changed": append(append([]byte(nil), good[:len(good)-5]...), good[len(good)-5]^1, good[len(good)-4], good[len(good)-3], good[len(good)-2], good[len(good)-1]),
		} {
			if err := os.WriteFile(file, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			img, err := s.Open(t.Context(), "oci-layout:"+dir+"/app", "")
			if err == nil {
				err = errors.Join(readAll(img.Image), img.Close())
			}
			if err == nil {
				t.Errorf("%s is %s, and nobody sees it", filepath.Base(file), what)
			}
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A blob that is a link out of the layout is not followed.
	secret := filepath.Join(t.TempDir(), "secret")
	data, _ := os.ReadFile(files[0])
	if err := errors.Join(os.WriteFile(secret, data, 0o600), os.Remove(files[0]), os.Symlink(secret, files[0])); err != nil {
		t.Fatal(err)
	}
	opened, err := s.Open(t.Context(), "oci-layout:"+dir+"/app", "")
	if err == nil {
		err = errors.Join(readAll(opened.Image), opened.Close())
	}
	if err == nil {
		t.Error("a link out of the layout is followed")
	}
}

func TestRegistryAndItsMirror(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	img := hello(t, "from afar")
	ref, err := name.ParseReference(host+"/mirror/app:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s := Source{Transport: http.DefaultTransport, Plain: []string{host}, Mirrors: map[string]string{"registry.example": host + "/mirror"}}
	for _, r := range []string{host + "/mirror/app:1", "registry.example/app:1", "registry.example/app@" + digestOf(t, img), "registry.example/app:1@" + digestOf(t, img)} {
		got, err := s.Open(t.Context(), r, "")
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != digestOf(t, img) || readAll(got.Image) != nil {
			t.Errorf("%s is found as %s", r, got.Digest)
		}
	}
	var refused *Error
	if _, err := s.Open(t.Context(), "registry.example/other:1", ""); !errors.As(err, &refused) {
		t.Errorf("what is not there gives %v", err)
	}
	if _, err := s.Open(t.Context(), "registry.example/app:1", "sha256:"+strings.Repeat("0", 64)); !errors.As(err, &refused) {
		t.Errorf("another digest gives %v", err)
	}
}

func TestAnAccountAtARegistry(t *testing.T) {
	all := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "node" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		all.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host+"/team/app:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, hello(t, "private"), remote.WithAuth(&authn.Basic{Username: "node", Password: "secret"})); err != nil {
		t.Fatal(err)
	}
	s := Source{Transport: http.DefaultTransport, Plain: []string{host}}
	var refused *Error
	if _, err := s.Open(t.Context(), host+"/team/app:1", ""); !errors.As(err, &refused) {
		t.Errorf("without an account: %v", err)
	}
	s.AuthFile = filepath.Join(t.TempDir(), "config.json")
	if _, err := s.Open(t.Context(), host+"/team/app:1", ""); err == nil {
		t.Error("accounts that cannot be read are taken for none")
	}
	if err := os.WriteFile(s.AuthFile, []byte(`{"auths":{"`+host+`":{"username":"node","password":"secret"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), host+"/team/app:1", ""); err != nil {
		t.Errorf("with its account: %v", err)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add([]byte(`{"auths":{"registry.example":{"auth":"dXNlcjpwYXNz"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseAccounts(data)
		if err == nil && all == nil {
			t.Error("neither credentials nor an error")
		}
	})
}

// FuzzArchive reads anything as an archive.
func FuzzArchive(f *testing.F) {
	f.Add([]byte("no archive"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s := Source{Dirs: []string{filepath.Dir(file)}}
		if img, err := s.Open(t.Context(), "oci-archive:"+file, ""); err == nil {
			_ = readAll(img.Image)
			_ = img.Close()
		}
	})
}
