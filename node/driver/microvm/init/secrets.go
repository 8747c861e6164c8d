//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
)

// secretsAt is where the workload finds its secrets.
const secretsAt = "run/secrets"

// secret takes a part of one; all of them come before the command.
func (s *session) secret(f wire.Frame) error {
	name, part, err := f.Secret()
	if err != nil {
		return err
	}
	if strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return fmt.Errorf("%q is no name of a secret", name)
	}
	size := len(part)
	for _, v := range s.secrets {
		size += len(v)
	}
	if size > wire.MaxSecretBytes || s.secrets[name] == nil && len(s.secrets) >= wire.MaxSecrets {
		return fmt.Errorf("more secrets than a machine is given")
	}
	if s.secrets[name] == nil {
		s.secrets[name] = []byte{}
	}
	s.secrets[name] = append(s.secrets[name], part...)
	return nil
}

// writeSecrets lays them down in memory that is the command's user's and that
// nobody writes to any more.
func (m *machine) writeSecrets(all map[string][]byte, who account) error {
	if len(all) == 0 {
		return nil
	}
	at := filepath.Join(m.root, secretsAt)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", at, "tmpfs", flags, fmt.Sprintf("mode=500,uid=%d,gid=%d,size=4m", who.uid, who.gid)); err != nil {
		return fmt.Errorf("mount /%s: %w", secretsAt, err)
	}
	for name, value := range all {
		path := filepath.Join(at, name)
		if err := os.WriteFile(path, value, 0o400); err != nil {
			return fmt.Errorf("write a secret: %w", err)
		}
		if err := os.Chown(path, int(who.uid), int(who.gid)); err != nil {
			return fmt.Errorf("write a secret: %w", err)
		}
		clear(value)
	}
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, fmt.Sprintf("mode=500,uid=%d,gid=%d,size=4m", who.uid, who.gid))
}
