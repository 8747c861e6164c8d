//go:build linux

package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/client"
)

// Workload is the static program that the images of tests hold, made once.
var Workload = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "workload-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "workload")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "github.com/sovmesh/sovmesh/node/driver/container/enginetest/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the workload of the tests: %w\n%s", err, out)
	}
	return os.ReadFile(file)
})

// File is one entry of a layer. Its Content is written whatever its header says of a size.
type File struct {
	tar.Header
	Content []byte
}

// Image makes an image whose entry point is the workload, with further entries
// as the tests have them, good and bad. It is the same every time.
func Image(more ...File) (v1.Image, error) {
	program, err := Workload()
	if err != nil {
		return nil, err
	}
	files := append([]File{
		{Header: tar.Header{Name: "workload", Typeflag: tar.TypeReg, Mode: 0o755}, Content: program},
		{Header: tar.Header{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1777}},
	}, more...)
	layer, err := Layer(files...)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/workload"}
	config.Config.Env = []string{"PATH=/", "FROM_IMAGE=yes"}
	return mutate.ConfigFile(img, config)
}

// Layer makes one layer.
func Layer(files ...File) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		f.Size = int64(len(f.Content))
		if err := w.WriteHeader(&f.Header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

// WriteLayout leaves the image as an OCI layout in dir.
func WriteLayout(dir string, img v1.Image) error {
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return p.AppendImage(img)
}

// WriteArchive leaves the image as an OCI archive: a tar of its layout.
func WriteArchive(file string, img v1.Image) error {
	dir, err := os.MkdirTemp("", "layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := WriteLayout(dir, img); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return w.Close()
}

// Load gives the image to the engine and returns its manifest's digest.
func (e *Engine) Load(t testing.TB, tagged string, img v1.Image) string {
	t.Helper()
	digest, err := e.load(context.Background(), tagged, img)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func (e *Engine) load(ctx context.Context, tagged string, img v1.Image) (string, error) {
	tag, err := name.NewTag(tagged)
	if err != nil {
		return "", err
	}
	engine, err := client.New(client.WithHost(e.Host))
	if err != nil {
		return "", err
	}
	defer engine.Close()
	r, w := io.Pipe()
	go func() { w.CloseWithError(tarball.Write(tag, img, w)) }()
	defer r.Close()
	answer, err := engine.ImageLoad(ctx, r)
	if err != nil {
		return "", err
	}
	defer answer.Close()
	if _, err := io.Copy(io.Discard, answer); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	return digest.String(), err
}
