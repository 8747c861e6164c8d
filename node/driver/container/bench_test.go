//go:build linux

package container

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
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
		b.Run(string(kind)+"/bare", func(b *testing.B) { benchBare(b, e) })
		b.Run(string(kind)+"/driver", func(b *testing.B) { benchDriver(b, e) })
	}
}

func benchDriver(b *testing.B, e *enginetest.Engine) {
	d := newDriver(b, e, b.TempDir(), nil)
	ctx := context.Background()
	first := task(1<<20, nil, app("print", "ready")...)
	if _, err := d.Start(ctx, first); err != nil { // from now on supervisors wait
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		h, err := d.Start(ctx, task(n, nil, app("print", "ready")...))
		if err != nil {
			b.Fatal(err)
		}
		r, err := d.Logs(ctx, h, 0, true)
		if err != nil {
			b.Fatal(err)
		}
		readReady(b, r)
		_ = r.Close()
		b.StopTimer()
		if err := d.Destroy(ctx, h); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func benchBare(b *testing.B, e *enginetest.Engine) {
	engine, err := client.New(client.WithHost(e.Host))
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	d := newDriver(b, e, b.TempDir(), nil)
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
	ctx := context.Background()
	for b.Loop() {
		c, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{Config: t.Config, HostConfig: t.Limits})
		if err != nil {
			b.Fatal(err)
		}
		stream, err := engine.ContainerAttach(ctx, c.ID, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := engine.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
			b.Fatal(err)
		}
		readReady(b, io.LimitReader(skipHead{stream.Reader}, 6))
		b.StopTimer()
		stream.Close()
		<-engine.ContainerWait(ctx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning}).Result
		if _, err := engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
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
