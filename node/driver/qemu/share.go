//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/placement"
)

// Share is a directory that a guest has by virtiofs. It is its server's root, which is
// root there by [Share].Users: its numbers of users are so many of the node's, from
// Users on, and none of them is anybody there. Whoever takes the server over from
// within the guest gains what is in the directory, and more: the server keeps a
// descriptor of the node's /proc, from which the node's files are walked to. So it
// reads what every user of the node may read, the list of its processes with it, and
// writes where every user may, /tmp for one. It stays in the machine's network and
// cgroup, and may call what its seccomp filter lets it: no program, no new connection.
type Share struct {
	Name   string `json:"name"`   // of the chardev, and in the guest
	Dir    string `json:"dir"`    // belongs to one of its users
	Server string `json:"server"` // virtiofsd
	Users  int    `json:"users"`
}

// shareOverhead is what a server of one needs.
const shareOverhead = 48 * placement.MiB

// shareServer is QEMU's own virtiofsd, which it has until 7.2. The one that came
// after looks its directory up by a path, which its users here have none to.
const shareServer = "/usr/lib/qemu/virtiofsd"

// FindShareServer is the server of shared directories; empty for none.
func FindShareServer() string {
	if st, err := os.Stat(shareServer); err == nil && st.Mode().IsRegular() {
		return shareServer
	}
	return ""
}

// shareArgs let the servers see the guest's memory, and QEMU speak to them.
func (m *Machine) shareArgs(channels map[string]int) []string {
	if len(m.Shares) == 0 {
		return nil
	}
	a := []string{"-object", fmt.Sprintf("memory-backend-memfd,id=memory,share=on,size=%dM", m.Memory>>20), "-machine", "memory-backend=memory"}
	for _, s := range m.Shares {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", s.Name, channels[s.Name]))
	}
	return a
}

// serve makes the socket between the server, which listens, and QEMU, and returns
// how to start the one and what the other is handed. Nobody else can connect: its
// name is gone before either begins.
func (s Share) serve(dir string) (process.Servant, *os.File, error) {
	a := process.Servant{
		Path: s.Server, Users: s.Users,
		// The directory by its descriptor: its users cannot walk there from the root. The
		// namespaces are its supervisor's, so the server's own sandbox is but its root.
		Argv: []string{s.Server, "--fd=3", "-f", "-o", "source=/proc/self/fd/4/.", "-o", "sandbox=chroot", "--rlimit-nofile=0"},
	}
	name := s.Name + ".sock"
	l, err := process.ListenUnix(dir, name)
	if err != nil {
		return a, nil, err
	}
	defer l.Close()
	defer os.Remove(filepath.Join(dir, name))
	c, err := process.DialUnix(context.Background(), dir, name)
	if err != nil {
		return a, nil, err
	}
	defer c.Close()
	conn, err := c.(*net.UnixConn).File()
	if err != nil {
		return a, nil, err
	}
	listen, err := l.(*net.UnixListener).File()
	if err != nil {
		return a, nil, errors.Join(err, conn.Close())
	}
	fd, err := unix.Open(s.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return a, nil, errors.Join(err, conn.Close(), listen.Close())
	}
	a.Files = []*os.File{listen, os.NewFile(uintptr(fd), s.Dir)}
	return a, conn, nil
}
