//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// In a container this program is a gate: it lies there by this name, waits until
// its supervisor says that the container's network is there, and becomes the
// command. It needs nothing of the image.
const (
	gateName = "gate"
	openName = "open" // beside it
)

// gate returns only if the command cannot be run, with the code for that.
func gate(self string, command []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "sovmesh:", err)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return 127
		}
		return 126
	}
	if len(command) == 0 {
		return fail(errors.New("there is no command behind the gate"))
	}
	wait, err := os.Open(filepath.Join(filepath.Dir(self), openName))
	if err != nil {
		return fail(err)
	}
	if n, _ := wait.Read(make([]byte, 1)); n != 1 {
		return fail(errors.New("whoever was to connect this container went away"))
	}
	_ = wait.Close()
	path, err := exec.LookPath(command[0])
	if err != nil {
		return fail(err)
	}
	return fail(unix.Exec(path, command, os.Environ()))
}
