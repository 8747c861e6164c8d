//go:build linux

package boundary

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/sovmesh/sovmesh/node/driver/claims"
	"github.com/sovmesh/sovmesh/placement"
)

// Several agents may run on one machine, each with its own Dir. For each network
// namespace of a node there is one directory below Config.Shared with a link to
// every Dir that has devices there, or had; it is locked while a switch of the
// machine's is read and changed, or a device's name goes from one to another.

// together locks what the agents of this machine share, with this one's Dir among
// the links. It is taken after [Boundary.lock], never before.
func (b *Boundary) together() (unlock func(), err error) {
	if b.cfg.Shared == "" {
		return func() {}, nil
	}
	fail := func(err error) (func(), error) {
		return nil, fmt.Errorf("lock what the agents of this machine share: %w", err)
	}
	dir, err := b.sharedDir()
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	if unlock, err = claims.Lock(dir, claims.Patience); err != nil {
		return fail(err)
	}
	if err := os.Symlink(b.cfg.Dir, filepath.Join(dir, linkName(b.cfg.Dir))); err != nil && !errors.Is(err, fs.ErrExist) {
		unlock()
		return fail(err)
	}
	return unlock, nil
}

// sharedDir is that of the node's network namespace.
func (b *Boundary) sharedDir() (string, error) {
	info, err := b.host.Stat()
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("the node's network namespace has no number")
	}
	return filepath.Join(b.cfg.Shared, strconv.FormatUint(st.Ino, 10)), nil
}

// neighbours are the directories of this machine's agents, this one's first. The
// caller holds [Boundary.together]. Links to what is gone are removed.
func (b *Boundary) neighbours() []string {
	all := []string{b.cfg.Dir}
	if b.cfg.Shared == "" {
		return all
	}
	dir, err := b.sharedDir()
	if err != nil {
		return all
	}
	links, err := os.ReadDir(dir)
	if err != nil {
		return all
	}
	for _, l := range links {
		at := filepath.Join(dir, l.Name())
		to, err := os.Readlink(at)
		if err != nil || to == b.cfg.Dir {
			continue
		}
		if _, err := os.Stat(to); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(at)
			continue
		}
		all = append(all, to)
	}
	return all
}

// part takes this agent's Dir from the links once it has nothing on the machine
// but what s was, which is gone. The caller holds [Boundary.together].
func (b *Boundary) part(s state) {
	if b.cfg.Shared == "" {
		return
	}
	for _, o := range b.states(b.cfg.Dir) {
		if o.Task != s.Task && !o.Over && (o.Veth != "" || len(o.Forwarding) > 0) {
			return
		}
	}
	if dir, err := b.sharedDir(); err == nil {
		_ = os.Remove(filepath.Join(dir, linkName(b.cfg.Dir)))
	}
}

func linkName(dir string) string { return name(placement.TaskID("dir " + dir)) }
