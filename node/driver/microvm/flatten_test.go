//go:build linux

package microvm

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovmesh/sovmesh/node/driver/image/imagetest"
)

func regular(name, content string) imagetest.File { return imagetest.Regular(name, []byte(content)) }

func entry(kind byte, name, link string) imagetest.File {
	return imagetest.File{Header: tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: 0o755}}
}

// flat is what layers, the lowest first, amount to: "name=content" or "name->link".
func flat(t *testing.T, size int64, layers ...v1.Layer) ([]string, error) {
	t.Helper()
	var buf bytes.Buffer
	diffs := make([]v1.Hash, len(layers))
	for i, l := range layers {
		var err error
		if diffs[i], err = l.DiffID(); err != nil {
			t.Fatal(err)
		}
	}
	if err := flatten(layers, diffs, &buf, size); err != nil {
		return nil, err
	}
	var all []string
	for in := tar.NewReader(&buf); ; {
		h, err := in.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			all = append(all, h.Name+"="+string(data))
		case tar.TypeLink, tar.TypeSymlink:
			all = append(all, h.Name+"->"+h.Linkname)
		case tar.TypeDir:
			if len(strings.Split(strings.Trim(h.Name, "/"), "/")) > 1 || !isNeeded(h.Name) {
				all = append(all, h.Name+"/")
			}
		}
	}
}

func isNeeded(name string) bool {
	for _, n := range needed {
		if strings.Trim(name, "/") == n {
			return true
		}
	}
	return false
}

func TestFlatten(t *testing.T) {
	layer := func(f ...imagetest.File) v1.Layer { return imagetest.Layer(t, f...) }
	for _, test := range []struct {
		name   string
		layers []v1.Layer
		want   string
	}{
		{"the upper one hides the lower", []v1.Layer{layer(regular("a", "old"), regular("b", "kept")), layer(regular("a", "new"))}, "a=new b=kept"},
		{"a whiteout", []v1.Layer{layer(regular("d/a", "1"), regular("d/b", "2")), layer(regular("d/.wh.a", ""))}, "d/b=2"},
		{"a whiteout of a directory", []v1.Layer{layer(regular("d/a", "1"), regular("e", "2")), layer(regular(".wh.d", ""))}, "e=2"},
		{"a whiteout and the name anew", []v1.Layer{layer(regular("d/a", "1")), layer(regular(".wh.d", ""), regular("d/b", "2"))}, "d/b=2"},
		{"an opaque directory", []v1.Layer{layer(regular("d/a", "1")), layer(regular("d/.wh..wh..opq", ""), regular("d/b", "2"))}, "d/b=2"},
		{"a file in the place of a directory", []v1.Layer{layer(regular("d/a", "1")), layer(regular("d", "file"))}, "d=file"},
		{"a whiteout is not for its own layer", []v1.Layer{layer(regular("a", "1"), regular(".wh.a", ""))}, "a=1"},
		{"links", []v1.Layer{layer(regular("a", "1"), entry(tar.TypeLink, "b", "a"), entry(tar.TypeSymlink, "c", "/a"))}, "a=1 c->/a b->a"},
		{"a link whose file is hidden keeps its content",
			[]v1.Layer{layer(regular("a", "old"), entry(tar.TypeLink, "b", "a"), entry(tar.TypeLink, "c", "/a")), layer(regular("a", "new"))}, "a=new b=old c->b"},
		{"leading dots and slashes", []v1.Layer{layer(regular("./a", "1"), regular("/b", "2"))}, "a=1 b=2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := flat(t, 1<<20, test.layers...)
			if err != nil || strings.Join(got, " ") != test.want {
				t.Errorf("it gives %v, %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestFlattenRefuses(t *testing.T) {
	for name, file := range map[string]imagetest.File{
		"a name that climbs out":       regular("../etc/passwd", "x"),
		"a name that climbs out later": regular("a/../../etc/passwd", "x"),
		"a name with dots within":      regular("a/../b", "x"),
		"a link that climbs out":       entry(tar.TypeSymlink, "a/b", "../../../etc"),
		"a hard link that climbs out":  entry(tar.TypeLink, "a", "../../etc/shadow"),
		"a block device":               entry(tar.TypeBlock, "dev/sda", ""),
		"a character device":           entry(tar.TypeChar, "dev/mem", ""),
		"more than the node takes":     regular("big", strings.Repeat("x", 2000)),
		"a name that is too long":      regular(strings.Repeat("d/", 3000)+"x", "x"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := flat(t, 1000, imagetest.Layer(t, file))
			var refused *badImage
			if !errors.As(err, &refused) {
				t.Errorf("it gives %v", err)
			}
			// Hidden by a layer above, it is found all the same.
			if _, err := flat(t, 1000, imagetest.Layer(t, file), imagetest.Layer(t, regular(".wh.a", ""))); err == nil {
				t.Error("below another layer nobody sees it")
			}
		})
	}
}

// TestFlattenEqualsTheLayersLaidOver compares with layers applied one after the other.
func TestFlattenEqualsTheLayersLaidOver(t *testing.T) {
	names := []string{"a", "b", "d/a", "d/b", "d/e/f", "g"}
	for seed := range 60 {
		model := make(map[string]string)
		var layers []v1.Layer
		for l := range 4 {
			var files []imagetest.File
			hide := names[(seed*7+l*3)%len(names)]
			if l > 0 {
				i := strings.LastIndexByte(hide, '/') + 1
				files = append(files, regular(hide[:i]+".wh."+hide[i:], ""))
				delete(model, hide)
			}
			for i, n := range names {
				if (seed>>(uint(i+l)%8))&1 == 1 && n != hide {
					content := fmt.Sprint(l)
					files = append(files, regular(n, content))
					model[n] = content
				}
			}
			layers = append(layers, imagetest.Layer(t, files...))
		}
		got, err := flat(t, 1<<20, layers...)
		if err != nil || len(got) != len(model) {
			t.Fatalf("seed %d: %v, %v; want %v", seed, got, err, model)
		}
		for _, g := range got {
			n, content, _ := strings.Cut(g, "=")
			if model[n] != content {
				t.Fatalf("seed %d: %s, want %q", seed, g, model[n])
			}
		}
	}
}

// A disk is known by the digests that an image's configuration tells: a layer that
// is another would become the disk of every image that tells the same.
func TestALayerIsWhatItsConfigurationSays(t *testing.T) {
	honest, other := imagetest.Layer(t, regular("app", "mine")), imagetest.Layer(t, regular("app", "theirs"))
	said, err := honest.DiffID()
	if err != nil {
		t.Fatal(err)
	}
	var refused *badImage
	if err := flatten([]v1.Layer{other}, []v1.Hash{said}, io.Discard, 1<<20); !errors.As(err, &refused) {
		t.Errorf("another layer under the same digest: %v", err)
	}
	if err := flatten([]v1.Layer{honest, other}, []v1.Hash{said}, io.Discard, 1<<20); !errors.As(err, &refused) {
		t.Errorf("a layer of which the configuration does not tell: %v", err)
	}
	if err := flatten([]v1.Layer{honest}, []v1.Hash{said}, io.Discard, 1<<20); err != nil {
		t.Error(err)
	}
}
