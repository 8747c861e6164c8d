//go:build linux

package vm

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/node/driver/qemu/inputs"
	"github.com/sovmesh/sovmesh/node/runner"
)

// secretsSerial is the serial number of the disk that carries a job's secrets: a
// tar archive, read-only, in memory of the node's. It is made anew wherever the
// machine is started, from what its node was handed, and goes with the task.
const secretsSerial = "secrets"

// secretsArchive is its name in the directory of the secrets. No secret has a dot.
const secretsArchive = "machine.tar"

// secretsDisk packs a task's secrets beside themselves: into the same directory
// in memory, which is removed as a whole when the task ends. It is empty for a
// task that has none.
func secretsDisk(s runner.Spec) (path string, err error) {
	if s.SecretsDir == "" {
		return "", nil
	}
	entries, err := os.ReadDir(s.SecretsDir) // sorted, so that the same secrets are the same disk
	if err != nil {
		return "", fmt.Errorf("secrets of task %s: %w", s.Task, err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if e.Name() == secretsArchive || !e.Type().IsRegular() {
			continue
		}
		value, err := os.ReadFile(filepath.Join(s.SecretsDir, e.Name()))
		if err == nil {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.Name(), Mode: 0o400, Size: int64(len(value)), Format: tar.FormatUSTAR})
		}
		if err == nil {
			_, err = w.Write(value)
		}
		if err != nil {
			return "", fmt.Errorf("secrets of task %s: %w", s.Task, err)
		}
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("secrets of task %s: %w", s.Task, err)
	}
	path = filepath.Join(s.SecretsDir, secretsArchive)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return "", fmt.Errorf("secrets of task %s: %w", s.Task, err)
	}
	if err := os.WriteFile(path, out.Bytes(), fs.FileMode(0o400)); err != nil {
		return "", fmt.Errorf("secrets of task %s: %w", s.Task, err)
	}
	return path, nil
}

// bootHook is what cloud-init runs early at every boot, before the job's own
// user-data: it lays secrets down in the guest's memory, for its root alone, and
// mounts the disk of the inputs; it adds the services of the list to the names
// that the guest knows. A guest without cloud-init does the rest itself.
// https://docs.cloud-init.io/en/latest/explanation/format.html#cloud-boothook
func bootHook(s runner.Spec) string {
	var b strings.Builder
	b.WriteString("#cloud-boothook\n#!/bin/sh\n")
	if s.SecretsDir != "" {
		fmt.Fprintf(&b, `if ! grep -q ' %[1]s ' /proc/mounts; then
  mkdir -p %[1]s && mount -t tmpfs -o mode=0700,nosuid,nodev,noexec,size=4m tmpfs %[1]s &&
  tar -x --no-same-owner -f /dev/disk/by-id/virtio-%[2]s -C %[1]s && mount -o remount,ro %[1]s
fi
`, runner.SecretsPath, secretsSerial)
	}
	if s.InputsDir != "" {
		fmt.Fprintf(&b, `if ! grep -q ' %[1]s ' /proc/mounts; then
  mkdir -p %[1]s && mount -t ext4 -o ro,noload,nosuid,nodev /dev/disk/by-id/virtio-%[2]s %[1]s
fi
`, runner.InputsPath, inputs.Serial)
	}
	for _, one := range s.Setup.Network.Services() { // in a name is nothing that a shell reads
		fmt.Fprintf(&b, "grep -qF '%[1]s %[2]s' /etc/hosts || echo '%[1]s %[2]s' >>/etc/hosts\n", one.Addr, one.Host())
	}
	return b.String()
}
