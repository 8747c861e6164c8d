//go:build linux

package container

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
)

// BenchmarkFirstLine measures from the order to start until the first line of
// the container's output is read, through the driver and by the bare engine.
func BenchmarkFirstLine(b *testing.B) {
	for _, kind := range enginetest.Kinds() {
		e := engines.Get(b, kind)
		img, err := enginetest.Image()
		if err != nil {
			b.Fatal(err)
		}
		e.Load(b, appImage, img)
		b.Run(string(kind), func(b *testing.B) {
			d := newDriver(b, e, b.TempDir(), nil)
			if _, err := d.Start(b.Context(), task(1<<20, nil, app("print", "ready")...)); err != nil { // from now on supervisors wait
				b.Fatal(err)
			}
			bare := newBare(b, e, d)
			defer bare.engine.Close()
			drivertest.Pairs(b, func(n int) (time.Duration, error) { return driverLine(b, d, n) }, func(int) (time.Duration, error) { return bare.line(b) })
		})
	}
}

func driverLine(b *testing.B, d *Driver, n int) (time.Duration, error) {
	began := time.Now()
	h, err := d.Start(b.Context(), task(n, nil, app("print", "ready")...))
	if err != nil {
		return 0, err
	}
	r, err := d.Logs(b.Context(), h, 0, true)
	if err != nil {
		return 0, err
	}
	readReady(b, r)
	took := time.Since(began)
	return took, errors.Join(r.Close(), d.Destroy(b.Context(), h))
}

// bare is an engine that is asked by hand for the same container.
type bare struct {
	engine *client.Client
	told   told
}

func newBare(b *testing.B, e *enginetest.Engine, d *Driver) *bare {
	engine, err := client.New(client.WithHost(e.Host))
	if err != nil {
		b.Fatal(err)
	}
	f, err := d.known(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	s := task(0, func(s *runner.Spec) {}, app("print", "ready")...)
	img, err := d.image(b.Context(), &s)
	if err != nil {
		b.Fatal(err)
	}
	t, err := d.plan(&s, f, img)
	if err != nil {
		b.Fatal(err)
	}
	return &bare{engine: engine, told: *t}
}

func (e *bare) line(b *testing.B) (time.Duration, error) {
	ctx := b.Context()
	began := time.Now()
	c, err := e.engine.ContainerCreate(ctx, client.ContainerCreateOptions{Config: e.told.Config, HostConfig: e.told.Limits})
	if err != nil {
		return 0, err
	}
	stream, err := e.engine.ContainerAttach(ctx, c.ID, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return 0, err
	}
	if _, err := e.engine.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		return 0, err
	}
	readReady(b, io.LimitReader(skipHead{stream.Reader}, 6))
	took := time.Since(began)
	stream.Close()
	<-e.engine.ContainerWait(ctx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning}).Result
	_, err = e.engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true})
	return took, err
}

// skipHead leaves out the eight bytes before the first line.
type skipHead struct{ io.Reader }

func (s skipHead) Read(p []byte) (int, error) {
	if len(p) == 6 {
		if _, err := io.CopyN(io.Discard, s.Reader, 8); err != nil {
			return 0, err
		}
	}
	return s.Reader.Read(p)
}

func readReady(b *testing.B, r io.Reader) {
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil || !bytes.Equal(line, []byte("ready\n")) {
		b.Fatalf("the first line is %q, %v", line, err)
	}
}
