//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
)

// pipes carries bytes between QEMU and the streams of a move, and ends with it.
type pipes struct {
	wg    sync.WaitGroup
	mu    sync.Mutex
	ends  []io.Closer // guarded by mu
	ended bool        // guarded by mu
}

// holds closes c with the move.
func (p *pipes) holds(c io.Closer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		_ = c.Close()
		return
	}
	p.ends = append(p.ends, c)
}

// close ends all of it and waits.
func (p *pipes) close() {
	p.mu.Lock()
	p.ended = true
	ends := p.ends
	p.ends = nil
	p.mu.Unlock()
	for _, c := range ends {
		_ = c.Close()
	}
	p.wg.Wait()
}

// join copies both ways until either side fails or both have ended. An end on
// one side is handed on where the other has a way to be told; both are closed
// with the move at the latest.
func (p *pipes) join(a, b net.Conn) {
	p.holds(a)
	p.holds(b)
	one := func(to, from net.Conn) {
		_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, pipeRoom))
		if err != nil {
			_, _ = a.Close(), b.Close()
		} else if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	p.wg.Go(func() { one(a, b) })
	p.wg.Go(func() { one(b, a) })
}

// listen makes a socket in the machine's own directory, to which QEMU connects
// as its own user; the machine's user alone gets there.
func (p *pipes) listen(dir, name string) (net.Listener, error) {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := process.ListenUnix(dir, name)
	if err != nil {
		return nil, err
	}
	p.holds(l)
	// Made where the machine's user has no way to, then put in its place: a path
	// of its own it could exchange while the mode is set.
	made := filepath.Join(dir, name)
	if err := os.Chmod(made, 0o666); err != nil {
		return nil, err
	}
	return l, os.Rename(made, filepath.Join(dir, qemu.Home, name))
}

// pipeRoom is how much is carried at a time, and waits in a socket, in bytes: the
// guest stands while the last of its memory goes through here.
const pipeRoom = 256 << 10

// pair is a connection whose other end is to be handed to QEMU.
func (p *pipes) pair(name string) (net.Conn, *os.File, error) {
	ours, theirs, err := qemu.Pair(name)
	if err != nil {
		return nil, nil, fmt.Errorf("make the way for its %s: %w", name, err)
	}
	p.holds(ours)
	// Less room is slower, and no fault.
	_ = ours.(*net.UnixConn).SetWriteBuffer(pipeRoom)
	_ = unix.SetsockoptInt(int(theirs.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUF, pipeRoom)
	return ours, theirs, nil
}

// meet hands the first connection of a listener on to where.
func (p *pipes) meet(ctx context.Context, l net.Listener, where net.Conn) {
	p.holds(where)
	p.wg.Go(func() {
		defer l.Close()
		c, err := l.Accept()
		if err != nil || ctx.Err() != nil {
			_ = where.Close()
			return
		}
		p.join(c, where)
	})
}
