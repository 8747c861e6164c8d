//go:build linux

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Where the hierarchies are mounted, by systemd's convention.
const (
	cgroupRoot    = "/sys/fs/cgroup"
	cgroupUnified = "/sys/fs/cgroup/unified" // v2, on a machine whose limits are v1
)

// hierarchies says how this machine has its cgroups. Either v2 has both
// membership and limits, or v1 has the limits and v2, beside it, what ends a whole tree.
type hierarchies struct {
	v2     string            // root of the unified hierarchy; empty: none
	limits bool              // v2 has the controllers
	v1     map[string]string // controller to its root
}

func findCgroups() hierarchies {
	h := hierarchies{v1: make(map[string]string)}
	if isV2(cgroupRoot) {
		h.v2, h.limits = cgroupRoot, true
		return h
	}
	if isV2(cgroupUnified) {
		h.v2 = cgroupUnified
	}
	for controller, names := range map[string][]string{"memory": {"memory"}, "cpu": {"cpu", "cpu,cpuacct"}, "pids": {"pids"}} {
		for _, n := range names {
			if _, err := os.Stat(filepath.Join(cgroupRoot, n, "cgroup.procs")); err == nil {
				h.v1[controller] = filepath.Join(cgroupRoot, n)
				break
			}
		}
	}
	return h
}

func isV2(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// group is a task's cgroups; every part may be missing.
type group struct {
	h     hierarchies
	v2    string            // directory
	v1    map[string]string // controller to directory
	facts []string          // what could not be had
}

// makeGroup makes the task's cgroups and sets their limits, as far as this
// machine lets us.
func makeGroup(parent, name string, r placement.Resources, pids int) *group {
	g := &group{h: findCgroups(), v1: make(map[string]string)}
	if parent == "" {
		return g
	}
	if g.h.v2 != "" {
		top := filepath.Join(g.h.v2, parent)
		if g.h.limits {
			g.set(filepath.Join(g.h.v2, "cgroup.subtree_control"), "+cpu +memory +pids")
		}
		dir := filepath.Join(top, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			g.facts = append(g.facts, err.Error())
		} else {
			g.v2 = dir
			if g.h.limits {
				g.set(filepath.Join(top, "cgroup.subtree_control"), "+cpu +memory +pids")
				g.limitV2(r, pids)
			}
		}
	}
	for controller, root := range g.h.v1 {
		dir := filepath.Join(root, parent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			g.facts = append(g.facts, err.Error())
			continue
		}
		g.v1[controller] = dir
	}
	g.limitV1(r, pids)
	return g
}

func (g *group) set(path, value string) {
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		g.facts = append(g.facts, err.Error())
	}
}

// limitV2: memory is a hard limit, processor time a share of what is contended.
// One core is weight 100, the default.
func (g *group) limitV2(r placement.Resources, pids int) {
	if pids > 0 {
		g.set(filepath.Join(g.v2, "pids.max"), strconv.Itoa(pids))
	}
	if r.Memory > 0 {
		g.set(filepath.Join(g.v2, "memory.max"), strconv.FormatInt(int64(r.Memory), 10))
		g.set(filepath.Join(g.v2, "memory.oom.group"), "1")
	}
	if r.CPU > 0 {
		g.set(filepath.Join(g.v2, "cpu.weight"), strconv.FormatInt(min(max(int64(r.CPU)/10, 1), 10000), 10))
	}
}

// limitV1: one core is 1024 shares, the default.
func (g *group) limitV1(r placement.Resources, pids int) {
	if dir := g.v1["pids"]; dir != "" && pids > 0 {
		g.set(filepath.Join(dir, "pids.max"), strconv.Itoa(pids))
	}
	if dir := g.v1["memory"]; dir != "" && r.Memory > 0 {
		g.set(filepath.Join(dir, "memory.limit_in_bytes"), strconv.FormatInt(int64(r.Memory), 10))
	}
	if dir := g.v1["cpu"]; dir != "" && r.CPU > 0 {
		g.set(filepath.Join(dir, "cpu.shares"), strconv.FormatInt(min(max(int64(r.CPU)*1024/1000, 2), 262144), 10))
	}
}

// dirs are all of the task's directories.
func (g *group) dirs() []string {
	var all []string
	if g.v2 != "" {
		all = append(all, g.v2)
	}
	for _, d := range g.v1 {
		all = append(all, d)
	}
	return all
}

// attachV1 moves processes into the groups that a clone could not put them in.
// The kernel may take 20 ms for the first move after a pause, which is why it
// is done after the start and not on its way. It looks again until it finds none
// that it did not move: one may be forked by a process that is not there yet.
func (g *group) attachV1(pids func() []int) {
	if len(g.v1) == 0 {
		return
	}
	moved := make(map[int]bool)
	for range 100 {
		before := len(moved)
		for _, pid := range pids() {
			if moved[pid] {
				continue
			}
			moved[pid] = true
			for _, dir := range g.v1 {
				if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil && !errors.Is(err, unix.ESRCH) {
					g.facts = append(g.facts, err.Error())
				}
			}
		}
		if len(moved) == before {
			return
		}
	}
}

// lend has a thread of ours in the task's v1 groups while f runs: what it forks is
// there from its first instant on, with no moment outside of any limit. What it
// has of memory stays where the supervisor's is.
func (g *group) lend(tid int, f func()) error {
	if len(g.v1) == 0 {
		f()
		return nil
	}
	home, err := homes(tid)
	if err != nil {
		return fmt.Errorf("find the supervisor's groups: %w", err)
	}
	move := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(tid)), 0)
	}
	for controller, dir := range g.v1 {
		if err := move(dir); err != nil {
			return fmt.Errorf("enter the task's group: %w", err)
		}
		root := g.h.v1[controller]
		defer func() {
			if move(filepath.Join(root, home[controller])) != nil {
				_ = move(root) // its group has gone: a group with a thread in it would stay for ever
			}
		}()
	}
	f()
	return nil
}

// homes are the v1 groups of one of our threads, by controller (proc_pid_cgroup(5)).
func homes(tid int) (map[string]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/cgroup", tid))
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for _, controller := range strings.Split(f[1], ",") {
				all[controller] = f[2]
			}
		}
	}
	return all, nil
}

// words say what the groups hold the task to.
func (g *group) words(r placement.Resources) []runner.Boundary {
	memory := runner.Boundary{What: "memory", How: "no limit is enforced on this machine"}
	cpu := runner.Boundary{What: "cpu", How: "no share is enforced on this machine"}
	switch failed := strings.Join(g.facts, "; "); {
	case failed != "":
		memory.How, cpu.How = "not all could be set: "+failed, "not all could be set: "+failed
	case g.v2 != "" && g.h.limits || len(g.v1) > 0:
		if r.Memory > 0 {
			memory = runner.Boundary{What: "memory", Holds: true, How: fmt.Sprintf("at most %s (cgroup); beyond it is ended", r.Memory)}
		}
		if r.CPU > 0 {
			cpu = runner.Boundary{What: "cpu", Holds: true, How: fmt.Sprintf("a share for %s cores where they are contended (cgroup)", r.CPU)}
		}
	}
	return []runner.Boundary{memory, cpu}
}

// kill ends everything in the groups and reports whether all of it was reached.
func killGroup(dirs []string) bool {
	whole := false
	for _, dir := range dirs {
		if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
			whole = true
			continue
		}
		for _, pid := range members(dir) {
			if pid != os.Getpid() { // a thread of ours may be lent to it
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	return whole
}

func members(dir string) []int {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var all []int
	for _, f := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			all = append(all, pid)
		}
	}
	return all
}

// ooms is how much of the task the kernel has ended for want of memory.
func (g *group) ooms() int64 {
	if g.v2 != "" && g.h.limits {
		return counter(filepath.Join(g.v2, "memory.events"), "oom_kill")
	}
	if dir := g.v1["memory"]; dir != "" {
		return counter(filepath.Join(dir, "memory.oom_control"), "oom_kill")
	}
	return 0
}

// counter reads a line "key value" of a cgroup file; zero if it has none.
func counter(path, key string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// removeGroups removes the directories; a process that is just ending may hold
// one for an instant.
func removeGroups(dirs []string, within time.Duration) error {
	deadline := time.Now().Add(within)
	var problems []error
	for _, dir := range dirs {
		for {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				problems = append(problems, err)
				break
			}
			killGroup([]string{dir})
			time.Sleep(2 * time.Millisecond)
		}
	}
	return errors.Join(problems...)
}

// probeCgroups says what limits hold here, by making and removing a group.
func probeCgroups(parent string) map[string]string {
	if parent == "" {
		return map[string]string{"cgroup": "none: switched off", "limits": "none are enforced", "kill": "process tree"}
	}
	g := makeGroup(parent, fmt.Sprintf(".probe-%d", os.Getpid()), placement.DefaultResources(), placement.DefaultPids)
	defer func() { _ = removeGroups(g.dirs(), 0) }()
	facts := map[string]string{"cgroup": "none", "limits": "none are enforced", "kill": "process tree"}
	switch {
	case g.h.limits && g.v2 != "":
		facts["cgroup"], facts["limits"] = "v2", "memory hard, cpu by weight"
	case len(g.v1) > 0:
		facts["cgroup"], facts["limits"] = "v1", "memory hard, cpu by shares; set some milliseconds after the start"
	}
	if g.v2 != "" {
		facts["kill"] = "whole cgroup"
	}
	if len(g.facts) > 0 {
		facts["limits"] = "not all are enforced: " + strings.Join(g.facts, "; ")
	}
	return facts
}
