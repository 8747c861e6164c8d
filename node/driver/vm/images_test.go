//go:build linux

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// vendor is a vendor of one image, with a key of its own.
type vendor struct {
	*httptest.Server
	key   *openpgp.Entity
	files map[string][]byte
	asked []string
}

func newVendor(t *testing.T) *vendor {
	t.Helper()
	key, err := openpgp.NewEntity("Vendor", "", "vendor@vendor.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	v := &vendor{key: key, files: make(map[string][]byte)}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.asked = append(v.asked, r.URL.Path)
		data, ok := v.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(v.Close)
	return v
}

func (v *vendor) armored(t *testing.T, key *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(key.Serialize(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// publish signs a list of one checksum, in place or apart.
func (v *vendor) publish(t *testing.T, image []byte, list string, in bool) {
	t.Helper()
	v.files["/image.qcow2"] = image
	var b bytes.Buffer
	if in {
		w, err := clearsign.Encode(&b, v.key.PrivateKey, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, list); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		v.files["/SUMS"] = b.Bytes()
		return
	}
	v.files["/SUMS"] = []byte(list)
	if err := openpgp.DetachSign(&b, v.key, strings.NewReader(list), nil); err != nil {
		t.Fatal(err)
	}
	v.files["/SUMS.gpg"] = b.Bytes()
}

func (v *vendor) entry(signature string) Vendor {
	if signature != "" && signature != inline {
		signature = v.URL + signature
	}
	return Vendor{
		Name: "acme-1", URL: v.URL + "/image.qcow2", Format: Qcow2, Sums: v.URL + "/SUMS", Signature: signature, Key: "acme.asc",
		Fingerprint: hex.EncodeToString(v.key.PrimaryKey.Fingerprint), KeysFrom: "the vendor",
	}
}

// qcow is an empty image, as our own code writes it.
func qcow(t *testing.T, size int64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.qcow2")
	if err := newQcow2(path, size); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sum256(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) }

func sum512(data []byte) string { s := sha512.Sum512(data); return hex.EncodeToString(s[:]) }

// operator makes an image directory with the vendor's key in it.
func operator(t *testing.T, key []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	if key != nil {
		if err := os.WriteFile(filepath.Join(dir, "keys", "acme.asc"), key, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func resolves(t *testing.T, d *Driver, image, digest string) (Image, error) {
	t.Helper()
	img, err := d.resolve(t.Context(), runner.Spec{Task: testJob.Task(0, 1), Image: image, Setup: &placement.Setup{ImageDigest: digest}})
	left, _ := filepath.Glob(filepath.Join(d.images.dir, ".in-*"))
	if len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	return img, err
}

func TestVendorsImagesAreTakenOnlyAsSigned(t *testing.T) {
	good := qcow(t, 1<<20)
	sums := sum256(good) + " *image.qcow2\n" + sum256([]byte("other")) + " *other.qcow2\n"
	for name, test := range map[string]struct {
		signature string
		change    func(v *vendor)
		key       func(v *vendor) []byte
		says      string // what the refusal says; empty is none
	}{
		"right, apart":                 {signature: "/SUMS.gpg"},
		"right, in place":              {signature: inline},
		"wrong checksum":               {"/SUMS.gpg", func(v *vendor) { v.files["/image.qcow2"] = qcow(t, 2<<20) }, nil, "not the file"},
		"truncated":                    {"/SUMS.gpg", func(v *vendor) { v.files["/image.qcow2"] = good[:len(good)-1] }, nil, "not the file"},
		"list changed after signing":   {"/SUMS.gpg", func(v *vendor) { v.files["/SUMS"] = []byte(strings.Replace(sums, "image", "imagf", 1)) }, nil, "signature"},
		"list swapped for an unsigned": {inline, func(v *vendor) { v.files["/SUMS"] = []byte(sums) }, nil, "not signed"},
		"signature of another's key": {"/SUMS.gpg", func(v *vendor) {
			other, _ := openpgp.NewEntity("Vendor", "", "vendor@vendor.example", nil)
			var b bytes.Buffer
			_ = openpgp.DetachSign(&b, other, strings.NewReader(sums), nil)
			v.files["/SUMS.gpg"] = b.Bytes()
		}, nil, "signature"},
		"no signature":      {"/SUMS.gpg", func(v *vendor) { v.files["/SUMS.gpg"] = nil }, nil, "signature"},
		"image not listed":  {"/SUMS.gpg", func(v *vendor) { v.publish(t, good, sum256(good)+"  another.qcow2\n", false) }, nil, "no checksum"},
		"key not installed": {"/SUMS.gpg", nil, func(*vendor) []byte { return nil }, "not on the node"},
		"another key installed": {"/SUMS.gpg", nil, func(v *vendor) []byte {
			other, _ := openpgp.NewEntity("Vendor", "", "vendor@vendor.example", nil)
			return v.armored(t, other)
		}, "fingerprint"},
		"vendor does not sign": {"", nil, nil, "does not sign"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t)
			v.publish(t, good, sums, test.signature == inline)
			if test.change != nil {
				test.change(v)
			}
			key := v.armored(t, v.key)
			if test.key != nil {
				key = test.key(v)
			}
			d := newDriver(t, t.TempDir(), func(c *Config) {
				c.ImageDirs, c.Catalogue = []string{operator(t, key)}, []Vendor{v.entry(test.signature)}
			})
			img, err := resolves(t, d, "acme-1", "")
			if test.says == "" {
				if err != nil || img.Digest != "sha256:"+sum256(good) || img.Virtual != 1<<20 {
					t.Fatalf("resolved as %+v, %v", img, err)
				}
				before := len(v.asked)
				if again, err := resolves(t, d, "acme-1", ""); err != nil || again != img || len(v.asked) != before {
					t.Errorf("asked for again: %+v, %v, after %v", again, err, v.asked)
				}
				return
			}
			var refused *runner.StartError
			if !errors.As(err, &refused) || !strings.Contains(refused.Reason, test.says) || refused.Hint() == "" {
				t.Fatalf("it says %v; want %q", err, test.says)
			}
			if kept, _ := filepath.Glob(filepath.Join(d.images.dir, "sha256-*")); len(kept) > 0 {
				t.Errorf("%v is kept", kept)
			}
		})
	}
}

func TestAJobsDigestStandsForASignature(t *testing.T) {
	good := qcow(t, 1<<20)
	v := newVendor(t)
	v.publish(t, good, "", false)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.Catalogue = []Vendor{v.entry("")} })
	for _, image := range []string{"acme-1", v.URL + "/image.qcow2"} {
		if _, err := resolves(t, d, image, "sha256:"+sum256([]byte("another"))); err == nil || !strings.Contains(err.Error(), "not the file") {
			t.Errorf("%s with another digest: %v", image, err)
		}
		if img, err := resolves(t, d, image, "sha256:"+sum256(good)); err != nil || img.Virtual != 1<<20 {
			t.Errorf("%s: %+v, %v", image, img, err)
		}
	}
	if _, err := resolves(t, d, v.URL+"/image.qcow2", ""); err == nil || !strings.Contains(err.Error(), "does not say which bytes") {
		t.Errorf("a URL without digest: %v", err)
	}
}

// TestADigestIsNoKeyToAnothersImage: what one tenant's URL gave is another's only
// after its own gave the same, once; an image of the catalogue is everybody's.
func TestADigestIsNoKeyToAnothersImage(t *testing.T) {
	private, public := qcow(t, 1<<20), qcow(t, 2<<20)
	v := newVendor(t)
	v.publish(t, public, "", false)
	v.files["/mine.qcow2"], v.files["/same.qcow2"] = private, private
	v.files["/other.qcow2"] = public
	d := newDriver(t, t.TempDir(), func(c *Config) { c.Catalogue = []Vendor{v.entry("")} })
	try := func(tenant placement.TenantID, image string, data []byte) error {
		_, err := d.resolve(t.Context(), runner.Spec{
			Task: testJob.Task(0, 1), Tenant: tenant, Image: image, Setup: &placement.Setup{ImageDigest: "sha256:" + sum256(data)},
		})
		return err
	}
	for _, step := range []struct {
		tenant placement.TenantID
		image  string
		data   []byte
		says   string // empty: it is given
		asked  int    // times in all
	}{
		{"acme", v.URL + "/mine.qcow2", private, "", 1},
		{"acme", v.URL + "/mine.qcow2", private, "", 1},
		{"other", v.URL + "/other.qcow2", private, "not the file", 2},
		{"other", v.URL + "/none.qcow2", private, "404", 3},
		{"other", "acme-1", private, "not the file", 4},
		{"other", v.URL + "/same.qcow2", private, "", 5},
		{"other", v.URL + "/same.qcow2", private, "", 5},
		{"acme", "acme-1", public, "", 6},
		{"other", "acme-1", public, "", 6},
		{"other", v.URL + "/none.qcow2", public, "404", 7},
	} {
		err := try(step.tenant, step.image, step.data)
		if (err == nil) != (step.says == "") || err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("%s names %s: %v; want %q", step.tenant, step.image, err, step.says)
		}
		if len(v.asked) != step.asked {
			t.Errorf("%s names %s: asked for %v", step.tenant, step.image, v.asked)
		}
	}
	// Who has shown to have an image goes with it, and not before.
	count := func() int { all, _ := filepath.Glob(filepath.Join(d.images.dir, "sha256-*")); return len(all) }
	if err := d.collect(t.Context()); err != nil || count() != 5 {
		t.Errorf("%d files are kept, %v", count(), err)
	}
	long := time.Now().Add(-2 * imageRest)
	if err := os.Chtimes(d.images.path("sha256:"+sum256(private)), long, long); err != nil {
		t.Fatal(err)
	}
	if err := d.collect(t.Context()); err != nil || count() != 2 {
		t.Errorf("%d files are kept when an image went, %v", count(), err)
	}
}

func TestPathsStayBelowTheImageDirectory(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	image := qcow(t, 1<<20)
	for _, p := range []string{filepath.Join(outside, "a.qcow2"), filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "a.img")} {
		if err := os.WriteFile(p, image, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"out.qcow2": filepath.Join(outside, "a.qcow2"), "in.qcow2": "a.qcow2", "dir.qcow2": outside} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := exec.Command("mkfifo", filepath.Join(dir, "pipe.qcow2")).Run(); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{dir} })
	for path, says := range map[string]string{
		filepath.Join(dir, "a.qcow2"):   "",
		filepath.Join(dir, "in.qcow2"):  "",
		"./a.qcow2":                     "",
		filepath.Join(dir, "out.qcow2"): "not below",
		filepath.Join(dir, "..", filepath.Base(outside), "a.qcow2"): "not below",
		filepath.Join(outside, "a.qcow2"):                           "not below",
		"../" + filepath.Base(outside) + "/a.qcow2":                 "not below",
		filepath.Join(dir, "pipe.qcow2"):                            "not a plain file",
		filepath.Join(dir, "none.qcow2"):                            "no such file",
		filepath.Join(dir, "a.img"):                                 "does not say its format",
		"debian-99":                                                 "no image is called",
	} {
		_, err := resolves(t, d, path, "")
		if says == "" && err != nil {
			t.Errorf("%s: %v", path, err)
		}
		var refused *runner.StartError
		if says != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v; want %q", path, err, says)
		}
	}
	// A file that is exchanged is read again.
	if err := os.WriteFile(filepath.Join(dir, "a.qcow2"), qcow(t, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if img, err := resolves(t, d, filepath.Join(dir, "a.qcow2"), ""); err != nil || img.Virtual != 2<<20 {
		t.Errorf("exchanged: %+v, %v", img, err)
	}
}

func TestImagesThatNameOtherFilesAreRefused(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is missing; install the package qemu-utils")
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs, c.MaxDisk = []string{dir}, 8*placement.GiB })
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"plain":   {[]string{"create", "-f", "qcow2", "@", "1M"}, ""},
		"v2":      {[]string{"create", "-f", "qcow2", "-o", "compat=0.10", "@", "1M"}, ""},
		"backing": {[]string{"create", "-f", "qcow2", "-b", secret, "-F", "raw", "@"}, "backing file"},
		"data":    {[]string{"create", "-f", "qcow2", "-o", "data_file=" + secret + "2", "@", "1M"}, "data file"},
		"huge":    {[]string{"create", "-f", "qcow2", "@", "9G"}, "more than a disk"},
		"raw":     {[]string{"create", "-f", "raw", "@", "1M"}, "no qcow2 image"},
	} {
		path := filepath.Join(dir, name+".qcow2")
		args := make([]string, len(test.args))
		for i, a := range test.args {
			args[i] = strings.Replace(a, "@", path, 1)
		}
		if text, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		_, err := resolves(t, d, path, "")
		if (test.says == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v; want %q", name, err, test.says)
		}
	}
}

func TestOurOwnDisksAreSound(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is missing; install the package qemu-utils")
	}
	for _, size := range []int64{512, 1 << 20, 3<<30 + 512, 1 << 40} {
		path := filepath.Join(t.TempDir(), "a.qcow2")
		if err := newQcow2(path, size); err != nil {
			t.Fatal(err)
		}
		if text, err := exec.Command("qemu-img", "check", "-f", "qcow2", path).CombinedOutput(); err != nil || !strings.Contains(string(text), "No errors") {
			t.Errorf("%d bytes: %v\n%s", size, err, text)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := inspectQcow2(f); err != nil || got != size {
			t.Errorf("%d bytes are read as %d, %v", size, got, err)
		}
		_ = f.Close()
	}
}

func TestStoreLeavesNothingOfWhatItDoesNotTake(t *testing.T) {
	s := &store{dir: t.TempDir(), most: 1000}
	data := bytes.Repeat([]byte("x"), 1000)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, try := range map[string]func() error{
		"too large":  func() error { _, err := s.add(t.Context(), bytes.NewReader(append(data, 'x')), ""); return err },
		"another":    func() error { _, err := s.add(t.Context(), bytes.NewReader(data), sum256([]byte("y"))); return err },
		"another512": func() error { _, err := s.add(t.Context(), bytes.NewReader(data), sum512([]byte("y"))); return err },
		"given up":   func() error { _, err := s.add(gone, bytes.NewReader(data), ""); return err },
		"cut off": func() error {
			_, err := s.add(t.Context(), io.MultiReader(bytes.NewReader(data[:10]), errReader{}), "")
			return err
		},
	} {
		if err := try(); err == nil {
			t.Errorf("%s: taken", name)
		}
		if left, _ := os.ReadDir(s.dir); len(left) > 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
	if digest, err := s.add(t.Context(), bytes.NewReader(data), sum512(data)); err != nil || digest != "sha256:"+sum256(data) {
		t.Errorf("%s, %v", digest, err)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, fmt.Errorf("connection reset") }

func FuzzInspectQcow2(f *testing.F) {
	path := filepath.Join(f.TempDir(), "a.qcow2")
	if err := newQcow2(path, 1<<20); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:200])
	f.Add(append(binary.BigEndian.AppendUint32(bytes.Clone(data[:104]), extBacking), 0, 0, 0, 1, 'x'))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, err := inspectQcow2(bytes.NewReader(b))
		if err == nil && (size <= 0 || binary.BigEndian.Uint64(b[8:]) != 0) {
			t.Errorf("taken, with %d bytes", size)
		}
	})
}

func FuzzFindSum(f *testing.F) {
	f.Add([]byte(sum256(nil)+" *a.img\n"), "https://v.example/a.img")
	f.Add([]byte("SHA256 (a.img) = "+sum256(nil)+"\n"), "https://v.example/a.img")
	f.Fuzz(func(t *testing.T, list []byte, url string) {
		if sum, err := findSum(list, url); err == nil && len(sum) != 64 && len(sum) != 128 {
			t.Errorf("found %q", sum)
		}
	})
}

func FuzzVerifyList(f *testing.F) {
	key, err := openpgp.NewEntity("Vendor", "", "vendor@vendor.example", nil)
	if err != nil {
		f.Fatal(err)
	}
	var ring, sig bytes.Buffer
	if err := errors.Join(key.Serialize(&ring), openpgp.DetachSign(&sig, key, strings.NewReader("list"), nil)); err != nil {
		f.Fatal(err)
	}
	fingerprint := hex.EncodeToString(key.PrimaryKey.Fingerprint)
	f.Add([]byte("list"), sig.Bytes())
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nlist\n-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"), []byte(nil))
	f.Fuzz(func(t *testing.T, list, signature []byte) {
		if text, err := verifyList(list, signature, ring.Bytes(), fingerprint); err == nil && string(text) != "list" {
			t.Errorf("taken: %q", text)
		}
	})
}
