//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/claims"
	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Hold says how tasks are held in: see DESIGN.md.
type Hold struct {
	// Off runs tasks as the agent itself runs.
	Off bool
	// Network gives tasks networks of their own; nil leaves them the node's. The
	// driver closes it.
	Network *boundary.Boundary
	// HostNetwork takes jobs that ask for the node's network.
	HostNetwork bool
	// Resolve turns the names in a job's list into addresses; nil refuses them.
	Resolve func(runner.Spec) boundary.Resolver
	// Resolvers are those in the node's region, as its operator names them: a job's
	// list of others is refused.
	Resolvers []netip.Addr
	// Paths of the node are the operator's to share: every task sees them where
	// they are, and may write what its user may.
	Paths []string
	// Volumes holds the volumes of jobs; empty refuses jobs that have any.
	Volumes string
	// FirstUser and Users are the range of user numbers of which each task has one
	// of its own, where the agent is root; with 0 Users tasks run as the agent's.
	FirstUser, Users int
	// Claims is where the agents of one machine claim parts of such ranges, so that no
	// two of them give a number to two tasks; empty gives this one the whole.
	Claims string
}

// Parts is how many agents of one machine a range of users is for.
const Parts = 64

// Part is this agent's part of a range of users: the first, and how many. The range
// is known by its name, the agent by a directory of its own, which has something in
// it for as long as a number of the part is in use. It is asked for again before each
// use: a part that was for nothing may have gone to another agent.
func (h *Hold) Part(name, owner string, first, size int) (int, int, error) {
	if h.Claims == "" || size < Parts || os.Geteuid() != 0 {
		return first, size, nil
	}
	n, err := claims.Block(filepath.Join(h.Claims, name), owner, Parts)
	if err != nil {
		return 0, 0, err
	}
	return first + n*(size/Parts), size / Parts, nil
}

// The range of users, in which systemd and distributions use none.
// https://systemd.io/UIDS-GIDS/
const (
	firstUser = 1_900_000_000
	users     = 1 << 20
)

// DefaultHold holds tasks in as far as this user can, with what that needs below
// the node's data directory. Ports are those of the node's own doors, which no
// task reaches.
func DefaultHold(data string, ports ...uint16) (Hold, error) {
	h := Hold{FirstUser: firstUser, Users: users, Volumes: filepath.Join(data, "volumes"), Claims: filepath.Join(claims.Dir, "users")}
	if os.Geteuid() != 0 {
		return h, nil
	}
	cfg := boundary.DefaultConfig()
	cfg.Dir = filepath.Join(data, "networks")
	for _, p := range ports {
		cfg.Never = append(cfg.Never, netip.AddrPortFrom(netip.IPv4Unspecified(), p))
	}
	var err error
	h.Network, err = boundary.New(cfg)
	return h, err
}

// held is what the supervisor is told of it.
type held struct {
	// Namespaces: of mounts, processes, host names and System V's objects.
	Namespaces bool     `json:"namespaces,omitempty"`
	Net        string   `json:"net,omitempty"`   // file of the network namespace
	Alone      bool     `json:"alone,omitempty"` // no network at all, made by the task's own user
	Resolvers  []string `json:"resolvers,omitempty"`
	Hosts      string   `json:"hosts,omitempty"` // lines of hosts(5), of its services
	Paths      []string `json:"paths,omitempty"`
	Volumes    []bind   `json:"volumes,omitempty"`
	// Secrets is where the job's secrets are shown to the task; nil for none.
	Secrets *bind `json:"secrets,omitempty"`
	// Inputs is where its files are shown.
	Inputs *bind `json:"inputs,omitempty"`
	// Outputs is where it leaves what is to be fetched.
	Outputs *bind `json:"outputs,omitempty"`
	User    int   `json:"user,omitempty"` // 0: the agent's
	Devices bool  `json:"devices,omitempty"`
}

type bind struct {
	From     string `json:"from"`
	To       string `json:"to"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// ability is what this machine lets the agent do, found out once.
type ability struct {
	once       sync.Once
	namespaces error // nil: they can be made
	alone      error // nil: a user can make a network of nothing
	network    error // nil: each task can have a network of its own
}

func (d *Driver) able() *ability {
	a := &d.ability
	a.once.Do(func() {
		a.namespaces = tryNamespaces()
		a.alone = tryAlone()
		a.network = a.namespaces
		if a.network == nil && d.cfg.Hold.Network == nil {
			a.network = errors.New("the agent was given no place for networks")
		}
		if a.network == nil {
			_, a.network = d.cfg.Hold.Network.Probe()
		}
	})
	return a
}

// tryNamespaces makes them on a thread that is thrown away.
func tryNamespaces() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("make namespaces: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount in a namespace: %w", err)
		}
		if err := unix.Mount("tmpfs", os.TempDir(), "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount in a namespace: %w", err)
		}
		return nil
	})
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// hold decides how a task is held, and makes what has to be there before it: its
// network, its user, its volumes. What the job does not say is held as far as
// this machine can; what it says is held to, or the task is not started.
func (d *Driver) hold(ctx context.Context, s runner.Spec) (*held, error) {
	setup := s.Setup
	if setup == nil {
		setup = &placement.Setup{}
	}
	if d.cfg.Hold.Off {
		if setup.Network != nil && !setup.Network.Host || len(setup.Volumes) > 0 {
			return nil, refused(s, "this node holds no processes in, so it cannot keep to the job's network and volumes", "ask the node's operator, or leave them out of the job")
		}
		return nil, nil
	}
	h := &held{Namespaces: d.able().namespaces == nil, Devices: len(s.Devices) > 0, Paths: d.cfg.Hold.Paths}
	if s.SecretsDir != "" {
		h.Secrets = &bind{From: s.SecretsDir, To: s.SecretsDir, ReadOnly: true}
		if h.Namespaces {
			h.Secrets.To = runner.SecretsPath
		}
	}
	if s.InputsDir != "" {
		h.Inputs = &bind{From: s.InputsDir, To: s.InputsDir, ReadOnly: true}
		if h.Namespaces {
			h.Inputs.To = runner.InputsPath
		}
	}
	if s.OutputsDir != "" {
		h.Outputs = &bind{From: s.OutputsDir, To: s.OutputsDir}
		if h.Namespaces {
			h.Outputs.To = runner.OutputsPath
		}
	}
	for _, v := range setup.Volumes {
		if !h.Namespaces || d.cfg.Hold.Volumes == "" {
			return nil, refused(s, "this node gives processes no volumes", "run it as a container, or on a node whose agent is root")
		}
		from := filepath.Join(d.volumes(s.Job), v.Name)
		if filepath.Base(from) != v.Name || !filepath.IsAbs(v.Path) {
			return nil, refused(s, fmt.Sprintf("its volume %q at %q has no proper name or place", v.Name, v.Path), "write a name and an absolute path")
		}
		h.Volumes = append(h.Volumes, bind{From: from, To: filepath.Clean(v.Path), ReadOnly: v.ReadOnly})
	}
	if err := d.apart(s, setup.Volumes, h); err != nil {
		return nil, err
	}
	if err := d.holdNetwork(ctx, s, setup.Network, h); err != nil {
		return nil, err
	}
	if h.Namespaces && d.cfg.Hold.Users > 0 && os.Geteuid() == 0 {
		user, err := d.takeUser(s.Task)
		if err != nil {
			return nil, err
		}
		h.User = user
	}
	for _, v := range h.Volumes {
		if err := os.MkdirAll(v.From, 0o700); err != nil {
			return nil, fmt.Errorf("make a volume of job %s: %w", s.Job, err)
		}
		keep.Touch(filepath.Dir(v.From))
	}
	return h, nil
}

// apart refuses volumes that lie within what else the task sees, or around it.
// Their places are made by a privileged hand, which must meet nothing that a task
// could have laid there before: a link in a volume leads out of any root.
func (d *Driver) apart(s runner.Spec, volumes []placement.Volume, h *held) error {
	taken := slices.Concat(placement.NodePlaces(), placement.OwnPlaces(), h.Paths, []string{d.cfg.Dir})
	if v, at := placement.Overlapping(volumes, taken); v != nil {
		return refused(s, fmt.Sprintf("its volume cannot be at %s: %s is there", v.Path, at), "choose another place, as in /data or /var/lib/NAME, and none within another volume")
	}
	return nil
}

func refused(s runner.Spec, reason, advice string) error {
	return &runner.StartError{Task: s.Task, Reason: reason, Advice: advice}
}

// holdNetwork gives the task the network that its job says, or none.
func (d *Driver) holdNetwork(ctx context.Context, s runner.Spec, n *placement.Network, h *held) error {
	if n != nil && n.Host {
		if !d.cfg.Hold.HostNetwork {
			return refused(s, "its job asks for the node's own network, which this node gives to no job", "list what it has to reach: network: {allow: [...]}; or ask the node's operator")
		}
		return nil
	}
	policy, err := d.cfg.Hold.Policy(s)
	if err != nil {
		return err
	}
	if d.able().network == nil {
		net, err := d.cfg.Hold.Network.Up(ctx, s.Task, policy)
		if err != nil {
			return NetworkProblem(s, err)
		}
		h.Net, h.Hosts = net.Path, n.HostLines()
		for _, r := range policy.DNS {
			h.Resolvers = append(h.Resolvers, r.String())
		}
		return nil
	}
	switch {
	case n == nil:
		return nil // the node's own, and told so
	case !policy.Empty():
		return refused(s, "this node cannot hold a process to a list of what it may reach: "+d.able().network.Error(), "run it on a node whose agent is root")
	case d.able().alone != nil:
		return refused(s, "this node cannot keep a process from the network: "+d.able().alone.Error(), "run it on a node whose agent is root")
	}
	h.Alone = true
	return nil
}

// letGo gives back what hold made. The task has ended.
func (d *Driver) letGo(ctx context.Context, id placement.TaskID, forget bool) error {
	n := d.cfg.Hold.Network
	if n == nil {
		return nil
	}
	err := n.Down(ctx, id)
	if err == nil && forget {
		err = n.Forget(id)
	}
	return err
}

// ownFirst orders places so that one within another comes after it.
func ownFirst(binds []bind) []bind {
	slices.SortStableFunc(binds, func(a, b bind) int { return len(a.To) - len(b.To) })
	return binds
}
