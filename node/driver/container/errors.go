//go:build linux

package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// startError tells the job's author why its container does not start. Engines
// answer in the words of what they call, which are known by their ends.
func startError(task placement.TaskID, err error) *runner.StartError {
	var known *runner.StartError
	if errors.As(err, &known) {
		return known
	}
	e := &runner.StartError{Task: task}
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	var hinted interface{ Hint() string }
	switch {
	case errors.Is(err, context.Canceled):
		e.Reason, e.Advice = "it was told to end before it had started", "submit it again if it is still wanted"
	case errors.As(err, &hinted):
		e.Reason, e.Advice = text, hinted.Hint()
	case has("no space left on device", "disk quota exceeded"):
		e.Reason, e.Advice = "there is no space on the node's disk for the container: "+text, "free some where the engine keeps its data, or let the job run elsewhere"
	case isLost(err):
		e.Reason, e.Advice = "the container engine ended while it was starting the container: "+text, "see the engine's own log on the node; submit the job again when it runs"
	case has("executable file not found", "no such file or directory", "not found in $PATH"):
		e.Reason, e.Advice = "command not found in the image: "+text, "give the full path of a program that the image holds"
	case has("permission denied", "exec format error"):
		e.Reason, e.Advice = "the command cannot be run: "+text, "check that it is an executable for this machine, and that its user may run it"
	case has("unable to find user", "no matching entries in passwd"):
		e.Reason, e.Advice = text, "give user as numbers, uid:gid, or as a name that the image knows"
	case has("could not select device driver", "unresolvable CDI devices", "CDI device injection failed"):
		e.Reason, e.Advice = "the engine cannot give the container its devices: "+text, "see that the node has CDI specifications for them: nvidia-ctk cdi generate"
	case isNotFound(err) && has("image"):
		e.Reason, e.Advice = text, "the image went between its coming and the start; submit the job again"
	default:
		e.Reason, e.Advice = "the engine does not start the container: "+text, "see the engine's own log on the node"
	}
	return e
}

func signalName(n int) string { return unix.SignalName(unix.Signal(n)) }

// makeVolume makes a volume's directory, owned by the user of the first task that
// has it. It is made beside its place, so that one that is there is whole.
func makeVolume(dir, user string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), ".new-") // no volume has such a name
	if err != nil {
		return err
	}
	if uid, gid, ok := userOf(user); ok {
		err = os.Chown(made, uid, gid)
	} else {
		err = os.Chmod(made, 0o755)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, unix.EEXIST) { // another task of the job was first
		return os.Remove(made)
	}
	if err != nil {
		return errors.Join(err, os.Remove(made))
	}
	return nil
}

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
