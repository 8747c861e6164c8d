//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/qemu/inputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// told is what a machine's supervisor, and the next agent, know of it beyond
// what QEMU was told.
type told struct {
	Image   Image          `json:"image"`
	Boot    placement.Boot `json:"boot"`
	Kernel  kernel         `json:"kernel"`
	Disks   []disk         `json:"disks"`
	Open    bool           `json:"open,omitempty"` // has the node's network
	PCI     []string       `json:"pci,omitempty"`
	Devices []string       `json:"devices,omitempty"`
	// Inputs names the disk of its inputs: two of one name are the same.
	Inputs string `json:"inputs,omitempty"`
	// Seed and Firmware are digests of what the guest sees of them.
	Seed     string `json:"seed,omitempty"`
	Firmware string `json:"firmware,omitempty"`
	// Incoming: the machine waits for a guest that ran elsewhere.
	Incoming bool `json:"incoming,omitempty"`
}

// Start makes the machine and returns when QEMU runs. What its guest does from
// then on is the workload.
func (d *Driver) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	if s.Setup == nil {
		s.Setup = &placement.Setup{}
	}
	h := runner.Handle{Version: 1, Driver: d.Name(), Task: s.Task}
	seen, err := d.Driver.Recover(ctx, h)
	if err != nil {
		return runner.Handle{}, err
	}
	if seen.State != runner.StateAbsent {
		return runner.Handle{}, &runner.ExistsError{Handle: h}
	}
	if err := s.Keep(h); err != nil {
		return runner.Handle{}, fmt.Errorf("keep the handle of task %s: %w", s.Task, err)
	}
	s.Keep = func(runner.Handle) error { return nil } // it was
	d.images.use.RLock()
	defer d.images.use.RUnlock()
	claims, order, err := d.order(ctx, s, begins)
	defer d.release(claims)
	if err != nil {
		return runner.Handle{}, err
	}
	return d.StartWork(ctx, s, order)
}

// origin is where a machine's guest comes from.
type origin int

const (
	begins  origin = iota // it is started
	comes                 // it is taken in, and its disks are made empty
	comesTo               // it is taken in, and what it keeps is here: see [Driver.sees]
)

// order makes everything that a machine consists of, up to its start. The claims
// are to be released when the start is over.
func (d *Driver) order(ctx context.Context, s runner.Spec, from origin) (claims []string, o process.Order, err error) {
	incoming := from != begins
	accel, err := d.probe(ctx)
	if err != nil {
		return nil, o, refuse(s, "install qemu-system-x86 on the node", "%v", err)
	}
	img, err := d.resolve(ctx, s)
	if err != nil {
		return nil, o, err
	}
	l := layout{image: img, seed: filepath.Join(d.TaskDir(s.Task), "seed.iso"), ports: s.Setup.Ports}
	if err := d.boots(ctx, s, &l); err != nil {
		return nil, o, err
	}
	network, err := d.reaches(s, &l)
	if err != nil {
		return nil, o, err
	}
	if l.pci, err = d.passthrough(s); err != nil {
		return nil, o, err
	}
	cidata, err := seed(s)
	if err != nil {
		return nil, o, err
	}
	if l.secret, err = secretsDisk(s); err != nil {
		return nil, o, err
	}
	given, err := d.inputs.Disk(ctx, s)
	if err != nil {
		return nil, o, err
	}
	if given != "" {
		l.inputs = filepath.Join(d.TaskDir(s.Task), inputs.File)
	}
	if claims, err = d.claimDisks(ctx, s); err != nil {
		return claims, o, err
	}
	if len(claims) > 0 && from == begins {
		if err := d.notGiven(s); err != nil {
			return claims, o, err
		}
		if err := d.settleRestore(s.Task); err != nil {
			return claims, o, err
		}
	}
	if len(claims) > 0 && from == comes {
		if err := d.freshPlace(s.Task); err != nil {
			return claims, o, err
		}
	}
	root, base, err := d.rootDisk(s, img)
	if err != nil {
		return claims, o, err
	}
	extra, err := d.extraDisks(s)
	if err != nil {
		return claims, o, err
	}
	base.Path = d.images.path(base.Digest)
	l.image, l.disks = base, append([]disk{root}, extra...)
	binary, err := exec.LookPath(d.cfg.Binary)
	if err != nil {
		return claims, o, refuse(s, "install qemu-system-x86 on the node", "%v", err)
	}
	m := qemu.Machine{Binary: binary, Accel: accel, Network: network}
	uid, err := d.claimUser(ctx, s.Task)
	if err != nil {
		return claims, o, err
	}
	if m.UID = uid; uid != 0 {
		claims = append(claims, userClaim(uid))
	}
	l.machine(s, &m)
	firmware, err := digestFile(l.code)
	if err != nil {
		return claims, o, err
	}
	if incoming {
		m.Args = append(m.Args, "-S", "-incoming", "defer")
	}
	guest, err := json.Marshal(told{
		Image: base, Boot: l.boot, Kernel: l.kernel, Disks: l.disks, Open: l.open, PCI: l.pci, Devices: s.Devices,
		Inputs: given, Seed: seedDigest(s), Firmware: firmware, Incoming: incoming,
	})
	if err != nil {
		return claims, o, err
	}
	return claims, process.Order{
		Told: qemu.Told{Machine: m, Guest: guest}, Limits: m.Limits(s.Resources),
		Fill: func(dir string) error {
			err := fill(dir, &m, l, cidata)
			if err == nil && given != "" {
				err = d.inputs.Link(given, dir)
			}
			if err == nil && incoming {
				err = writeNote(dir, note{Way: in, Stage: underWay})
			}
			return err
		},
	}, nil
}

// digestFile is that of a file of the node's; none of an empty name.
func digestFile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// fill puts the machine's own files into the task's directory.
func fill(dir string, m *qemu.Machine, l layout, cidata []byte) error {
	if err := m.Prepare(dir); err != nil {
		return err
	}
	mine := []string{filepath.Join(dir, "seed.iso")}
	if err := os.WriteFile(mine[0], cidata, 0o400); err != nil {
		return explainSpace(err)
	}
	if root := l.disks[0]; !root.Kept {
		path := filepath.Join(dir, filepath.Base(root.Path))
		if err := newQcow2(path, root.Size); err != nil {
			return explainSpace(err)
		}
		mine = append(mine, path)
	}
	if l.boot == placement.BootUEFI {
		vars := l.vars
		if !l.disks[0].Kept {
			vars = filepath.Join(dir, filepath.Base(l.vars))
		}
		mine = append(mine, vars)
		if err := copyOnce(vars, l.blank); err != nil {
			return explainSpace(err)
		}
	}
	if l.secret != "" {
		mine = append(mine, l.secret)
	}
	for _, path := range mine {
		if err := m.Own(path); err != nil {
			return err
		}
	}
	return own(m, l.disks)
}

// copyOnce makes a file as another one is, on the disk when it returns; one that is
// there stays as it is, unless it is empty: a power cut left it so.
func copyOnce(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := writeSynced(to+".new", data); err != nil {
		return err
	}
	err = os.Link(to+".new", to)
	if errors.Is(err, fs.ErrExist) {
		var there fs.FileInfo
		if there, err = os.Stat(to); err == nil && there.Size() == 0 {
			return errors.Join(os.Rename(to+".new", to), syncDir(filepath.Dir(to)))
		}
	}
	return errors.Join(err, os.Remove(to+".new"), syncDir(filepath.Dir(to)))
}

// boots decides how the machine begins.
func (d *Driver) boots(ctx context.Context, s runner.Spec, l *layout) (err error) {
	l.boot = s.Setup.Boot
	switch l.boot {
	case "", placement.BootBIOS:
		l.boot = placement.BootBIOS
	case placement.BootUEFI:
		f, ok := d.firmware()
		if !ok {
			return refuse(s, "install ovmf on the node, or write boot: bios", "it boots by UEFI and the node has no firmware for that")
		}
		l.code, l.blank, l.vars = f.Code, f.Vars, filepath.Join(d.TaskDir(s.Task), "vars.fd")
		if s.Service {
			l.vars = filepath.Join(d.kept(s.Task), "vars.fd")
		}
	case placement.BootDirect:
		if !strings.Contains(s.Image, "/") || strings.Contains(s.Image, "://") {
			return refuse(s, "name an image by its path, with vmlinuz, and initrd and cmdline if need be, in the same directory", "it boots directly, and beside image %s lies no kernel", s.Image)
		}
		if l.kernel, err = d.findKernel(ctx, s.Image); err != nil {
			return refuse(s, "put vmlinuz, and initrd and cmdline if need be, beside the image", "it boots directly: %v", err)
		}
	default:
		return refuse(s, "write boot: bios, uefi or direct", "boot %q is not known", l.boot)
	}
	return nil
}

// claimDisks makes sure that no other task of this node uses what this one
// keeps here. That one still has it may change: it is no fault of the job. It is
// claimed before it is looked who has it: another that starts meanwhile is seen
// by its claim or by its directory.
func (d *Driver) claimDisks(ctx context.Context, s runner.Spec) (claims []string, err error) {
	if !s.Service && len(s.Setup.Disks) == 0 {
		return nil, nil
	}
	keep.Touch(d.kept(s.Task))
	claim := "disks " + place(s.Task)
	if err := d.claim(claim, s.Task); err != nil {
		return nil, err
	}
	claims = []string{claim} // the caller's to release, also when this fails
	all, err := d.Driver.List(ctx)
	if err != nil {
		return claims, err
	}
	for _, o := range all {
		if o.State == runner.StateRunning && o.Handle.Task != s.Task && place(o.Handle.Task) == place(s.Task) {
			return claims, fmt.Errorf("start task %s: its disks on this node are in use by task %s until that has ended", s.Task, o.Handle.Task)
		}
	}
	return claims, d.settlePlace(s.Task, all)
}

// claim takes what one start at a time may use.
func (d *Driver) claim(name string, id placement.TaskID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if other, taken := d.starting[name]; taken {
		return fmt.Errorf("start task %s: its disks on this node are in use by task %s, which is just starting", id, other)
	}
	d.starting[name] = id
	return nil
}

func userClaim(uid int) string { return fmt.Sprint("user ", uid) }

// claimUser finds a user number that no other machine has or is about to have.
func (d *Driver) claimUser(ctx context.Context, id placement.TaskID) (int, error) {
	base, size := d.cfg.UIDBase, 0
	if base > 0 {
		var err error
		if base, size, err = d.cfg.Hold.Part("vms", filepath.Join(d.cfg.Dir, "tasks"), base, 1<<16); err != nil {
			return 0, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for end := base + size; ; {
		uid, err := qemu.FreeUID(ctx, d.Driver, base, end-base)
		if err != nil || uid == 0 {
			return 0, err
		}
		if _, taken := d.starting[userClaim(uid)]; !taken {
			d.starting[userClaim(uid)] = id
			return uid, nil
		}
		base = uid + 1
	}
}

func (d *Driver) release(claims []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range claims {
		delete(d.starting, c)
	}
}

// Recover says what became of a machine, and from what it was made.
func (d *Driver) Recover(ctx context.Context, h runner.Handle) (runner.Observed, error) {
	o, err := d.Driver.Recover(ctx, h)
	d.describe(ctx, &o)
	return o, err
}

// List is every machine of this node.
func (d *Driver) List(ctx context.Context) ([]runner.Observed, error) {
	all, err := d.Driver.List(ctx)
	for i := range all {
		d.describe(ctx, &all[i])
	}
	return all, err
}

// keeps reports whether any of its disks outlives the task.
func (t told) keeps() bool {
	return slices.ContainsFunc(t.Disks, func(one disk) bool { return one.Kept })
}

func (d *Driver) describe(ctx context.Context, o *runner.Observed) {
	d.letGo(ctx, o)
	d.thawLeft(ctx, o)
	d.hold(ctx, o)
	m, t, err := d.told(o.Handle.Task)
	if err != nil || o.Facts == nil {
		return
	}
	if text, err := os.ReadFile(filepath.Join(d.TaskDir(o.Handle.Task), troubleFile)); err == nil {
		o.Facts["trouble"] = string(text)
	}
	o.Facts["image"], o.Facts["boot"], o.Facts["accel"] = t.Image.Digest, string(t.Boot), m.Accel.Name
	if m.UID != 0 {
		o.Facts["uid"] = fmt.Sprint(m.UID)
	}
}

func (d *Driver) told(id placement.TaskID) (qemu.Machine, told, error) {
	var all qemu.Told
	var t told
	_, err := d.Told(id, &all)
	if err == nil {
		err = json.Unmarshal(all.Guest, &t)
	}
	return all.Machine, t, err
}

// Destroy removes the machine and its own files. What its job keeps on this
// node stays until [Driver.Forget]. That images cannot be tidied up, for what
// needs them cannot be read, keeps them all and is no fault of this task's.
func (d *Driver) Destroy(ctx context.Context, h runner.Handle) error {
	if err := d.endMove(ctx, h); err != nil {
		return err
	}
	d.sessions.end(h.Task)
	if err := d.Driver.Destroy(ctx, h); err != nil {
		return err
	}
	keep.Touch(d.kept(h.Task))
	_ = errors.Join(d.collect(ctx), d.inputs.Collect())
	return nil
}

// collect removes images that were handed in by jobs and that nothing uses any
// more: none of a vendor, no kept disk's and no task's.
func (d *Driver) collect(ctx context.Context) error {
	if !d.images.use.TryLock() {
		return nil // another time
	}
	defer d.images.use.Unlock()
	used, err := d.usedImages(ctx)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(d.images.dir)
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range entries {
		gone := !slices.Contains(used, e.Name()) && oldEnough(e)
		if proof, alone := fetch.Leftover(filepath.Join(d.images.dir, e.Name())); proof { // it goes with its image, which comes before it here
			gone = alone
		}
		if strings.HasPrefix(e.Name(), "sha256-") && gone {
			problems = append(problems, os.Remove(filepath.Join(d.images.dir, e.Name())))
		}
	}
	return errors.Join(problems...)
}

// Console opens the machine's serial console.
func (d *Driver) Console(ctx context.Context, h runner.Handle) (io.ReadWriteCloser, error) {
	c, err := qemu.DialConsole(ctx, d.TaskDir(h.Task))
	if err != nil {
		return nil, fmt.Errorf("task %s: %w", h.Task, err)
	}
	return c, nil
}
