//go:build linux

package wire

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Where the host has sockets to its machines (vsock(7)), init listens on VsockPort,
// and the host connects to it and shows the token that it packed into the guest's
// first root as TokenFile. So nothing on the host listens, and no other program of
// the host, each of which may connect, is taken for the machine's supervisor.
const (
	VsockPort = 1024
	TokenFile = "vsock"
	TokenSize = 32 // bytes
)

// tokenTimeout is how long somebody who connects may take to show the token, and
// mostCallers how many may do so at one time.
const (
	tokenTimeout = 2 * time.Second
	mostCallers  = 16
)

// Vsock is a connection between a machine and its host. That the other side is
// gone reads as the end, as it does on a virtio-serial port.
type Vsock struct{ *os.File }

var _ net.Conn = Vsock{}

// newVsock takes a descriptor over, which does not block.
func newVsock(fd int) Vsock { return Vsock{os.NewFile(uintptr(fd), "vsock")} }

// Read is io.EOF also where the machine ended without a word.
func (v Vsock) Read(p []byte) (int, error) {
	n, err := v.File.Read(p)
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ENOTCONN) {
		err = io.EOF
	}
	return n, err
}

// LocalAddr names no more than the kind of socket.
func (v Vsock) LocalAddr() net.Addr { return vsockAddr{} }

// RemoteAddr is as LocalAddr.
func (v Vsock) RemoteAddr() net.Addr { return vsockAddr{} }

type vsockAddr struct{}

func (vsockAddr) Network() string { return "vsock" }
func (vsockAddr) String() string  { return "vsock" }

// VsockListener is init's.
type VsockListener struct {
	file *os.File
	from func(unix.Sockaddr) bool // who may connect
}

// ListenVsock opens a port of this machine for its host alone.
func ListenVsock(port uint32) (*VsockListener, error) {
	return listen(unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}, isHost)
}

// isHost tells the machine's host from the machine itself.
func isHost(a unix.Sockaddr) bool {
	vm, ok := a.(*unix.SockaddrVM)
	return ok && vm.CID == unix.VMADDR_CID_HOST
}

func listen(family int, at unix.Sockaddr, from func(unix.Sockaddr) bool) (*VsockListener, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	l := &VsockListener{file: os.NewFile(uintptr(fd), "vsock"), from: from}
	if err := errors.Join(unix.Bind(fd, at), unix.Listen(fd, mostCallers)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close opens the port for others.
func (l *VsockListener) Close() error { return l.file.Close() }

// Host waits for the host to show the token, and closes the listener. Whoever does
// not show it is let go and holds nobody up.
func (l *VsockListener) Host(token []byte, most time.Duration) (Vsock, error) {
	defer l.Close()
	if err := l.file.SetReadDeadline(time.Now().Add(most)); err != nil {
		return Vsock{}, err
	}
	found, slots := make(chan Vsock, 1), make(chan struct{}, mostCallers)
	for {
		c, from, err := l.accept()
		if err != nil {
			select {
			case c := <-found:
				return c, nil
			default:
				return Vsock{}, fmt.Errorf("the host did not connect: %w", err)
			}
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			if l.from(from) && c.shows(token) {
				select {
				case found <- c:
					_ = l.Close() // wakes who accepts
					return
				default:
				}
			}
			_ = c.Close()
		}()
	}
}

func (l *VsockListener) accept() (c Vsock, from unix.Sockaddr, err error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return c, nil, err
	}
	var fd int
	var failed error
	err = raw.Read(func(at uintptr) bool {
		for {
			fd, from, failed = unix.Accept4(int(at), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if failed != unix.EINTR && failed != unix.ECONNABORTED {
				return failed != unix.EAGAIN
			}
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return c, nil, err
	}
	return newVsock(fd), from, nil
}

// shows reports whether the first that comes is the token.
func (v Vsock) shows(token []byte) bool {
	got := make([]byte, TokenSize)
	if v.SetReadDeadline(time.Now().Add(tokenTimeout)) != nil {
		return false
	}
	_, err := io.ReadFull(v, got)
	return err == nil && len(token) == TokenSize && subtle.ConstantTimeCompare(got, token) == 1 && v.SetReadDeadline(time.Time{}) == nil
}

// DialVsock connects to a port of a machine and shows the token. Until the machine
// listens, or ctx ends, it tries again.
func DialVsock(ctx context.Context, cid, port uint32, token []byte) (Vsock, error) {
	return dial(ctx, unix.AF_VSOCK, &unix.SockaddrVM{CID: cid, Port: port}, token)
}

func dial(ctx context.Context, family int, to unix.Sockaddr, token []byte) (Vsock, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 4*time.Millisecond) {
		c, err := connect(ctx, family, to)
		if err == nil {
			if _, err = c.Write(token); err == nil {
				return c, nil
			}
			_ = c.Close()
		}
		select {
		case <-ctx.Done():
			return Vsock{}, fmt.Errorf("connect to it: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(wait):
		}
	}
}

func connect(ctx context.Context, family int, to unix.Sockaddr) (Vsock, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return Vsock{}, err
	}
	err = unix.Connect(fd, to)
	c := newVsock(fd)
	if err == unix.EINPROGRESS || err == unix.EINTR {
		defer context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })()
		err = c.connected()
	}
	if err != nil {
		return Vsock{}, errors.Join(err, c.Close())
	}
	return c, nil
}

// connected waits until the kernel says how a connect went.
func (v Vsock) connected() error {
	raw, err := v.SyscallConn()
	if err != nil {
		return err
	}
	var how int
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0); n == 0 {
			return false
		}
		how, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return true
	})
	if err == nil && failed == nil && how != 0 {
		failed = unix.Errno(how)
	}
	return errors.Join(err, failed)
}
