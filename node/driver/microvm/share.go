//go:build linux

package microvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// shareModule is what a guest with a shared volume needs beside the others.
const shareModule = "virtiofs"

// Every job with shared volumes has so many users of the node's, one for each
// number that its guests know. mostSharers jobs have them at one time: as many for
// each agent of the machine, and all below the numbers that systems stop at.
const (
	shareUsers  = 1 << 16
	mostSharers = 56 * process.Parts
)

// shareDir is where a job's shared volumes are. Copies have theirs beside it: JOB.N.
func (d *Driver) shareDir(job placement.JobID) string {
	return filepath.Join(d.cfg.Dir, "volumes", string(job))
}

// shareServer is the program that serves shared volumes, or why there are none.
func (d *Driver) shareServer() (path, why, advice string) {
	path = d.cfg.ShareServer
	if path == "" {
		path = qemu.FindShareServer()
	}
	switch {
	case path == "":
		return "", "it has no virtiofsd of QEMU's own (until 7.2)", "install qemu-system-common on a node with Debian 12, or leave shared out of the volume"
	case os.Geteuid() != 0 || d.cfg.ShareUsers <= 0:
		return "", "its agent cannot give users of the node away", "run the agent as root, or leave shared out of the volume"
	}
	return path, "", ""
}

// share makes a directory for a volume that all copies of a job have, if it is not
// there yet. The range of users is noted by who has the directory: it stays with the
// job's volumes, whatever machine has them, and no other job's files have it.
func (d *Driver) share(s runner.Spec, name string, v placement.Volume) (qemu.Share, error) {
	server, why, advice := d.shareServer()
	if server == "" {
		return qemu.Share{}, &runner.StartError{Task: s.Task, Reason: "this node shares no volumes with micro-VMs: " + why, Advice: advice}
	}
	top := d.shareDir(s.Job)
	first, err := d.usersOf(top)
	if err != nil {
		return qemu.Share{}, fmt.Errorf("start task %s: volume %s: %w", s.Task, v.Name, err)
	}
	if !d.firstOfJob(first) {
		return qemu.Share{}, &runner.StartError{
			Task: s.Task, Reason: fmt.Sprintf("volume %s: the directory of its job's volumes on this node has the group %d, with which no job's users begin", v.Name, first),
			Advice: "let the node's operator restore it with its owners and groups (volumes/" + string(s.Job) + " of its micro-VMs), or remove it",
		}
	}
	at := filepath.Join(top, v.Name)
	d.sharing.Lock()
	defer d.sharing.Unlock()
	err = os.Mkdir(at, 0o755)
	if err == nil {
		err = os.Lchown(at, first, first)
	} else if errors.Is(err, fs.ErrExist) {
		err = d.belongs(at, first)
	}
	if err != nil {
		return qemu.Share{}, fmt.Errorf("start task %s: volume %s: %w", s.Task, v.Name, err)
	}
	keep.Touch(top)
	return qemu.Share{Name: name, Dir: at, Server: server, Users: first}, nil
}

// firstOfJob reports whether a job's users can begin with that number. What was
// restored without its owners is root's, and its server would be root on the node.
func (d *Driver) firstOfJob(first int) bool {
	n := first - d.cfg.ShareUsers
	return n >= 0 && n%shareUsers == 0 && n/shareUsers < mostSharers
}

// belongs makes sure that a directory is one, and of the range that begins with
// first. One whose making was cut off is finished.
func (d *Driver) belongs(dir string, first int) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := int(st.Sys().(*syscall.Stat_t).Uid)
	switch {
	case !st.IsDir():
		return errors.New("it is no directory")
	case owner == os.Geteuid():
		return os.Lchown(dir, first, first)
	case owner < first || owner >= first+shareUsers:
		return fmt.Errorf("it belongs to user %d, which is none of its job's", owner)
	}
	return nil
}

// usersOf is the first of a job's users: as its directory says, or the first of this
// agent's part that no other job has. The directory is whole, with its owner, before
// it has its name. Other agents are waited for with no lock held.
func (d *Driver) usersOf(top string) (int, error) {
	owner := func(path string) (int, error) {
		st, err := os.Lstat(path)
		if err != nil {
			return 0, err
		}
		return int(st.Sys().(*syscall.Stat_t).Gid), nil
	}
	first, err := owner(top)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return first, err
	}
	dir := filepath.Dir(top)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	base, size, err := d.cfg.Hold.Part("shares", dir, d.cfg.ShareUsers, mostSharers*shareUsers)
	if err != nil {
		return 0, err
	}
	d.sharing.Lock()
	defer d.sharing.Unlock()
	if first, err := owner(top); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return first, err // another copy has just made it
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	used := make(map[int]bool)
	for _, e := range entries {
		if n, err := owner(filepath.Join(dir, e.Name())); err == nil && !strings.HasPrefix(e.Name(), ".") {
			used[n] = true
		}
	}
	for first := base; first < base+size; first += shareUsers {
		if used[first] {
			continue
		}
		fresh := filepath.Join(dir, ".new-"+filepath.Base(top))
		// Its group alone says whose users they are: nobody but the agent goes in by
		// this path.
		err := errors.Join(os.RemoveAll(fresh), os.Mkdir(fresh, 0o700), os.Lchown(fresh, os.Geteuid(), first))
		if err == nil {
			err = os.Rename(fresh, top)
		}
		return first, err
	}
	return 0, fmt.Errorf("no users are left for another job's shared volumes on this node: %d jobs have them", size/shareUsers)
}
