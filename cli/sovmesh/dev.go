package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/scenarios/devmesh"
	"github.com/urfave/cli/v2"
)

const devRegions = "fra-1:FR,ber-1:DE,iad-1:US"

func (p *program) devCommand() *cli.Command {
	return &cli.Command{
		Name: "dev", Usage: "a whole mesh on loopback, with simulated GPUs",
		Description: `Founds the regions, joins their nodes and federates all of them, in one process.
Each node offers 64 cores, 256 GiB and 8 simulated GPUs, whatever the machine
has; tasks are real processes of this user. SIGINT or SIGTERM ends it, and its
tasks with it. While it runs there are contexts named after the regions.`,
		UsageText: "sovmesh dev --regions fra-1:FR,ber-1:DE --nodes 3 --data ./mesh",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Usage: "`DIR` to keep everything in, for the next start; without it nothing is left behind"},
			&cli.StringFlag{Name: "ready", Usage: "`FILE` that is written once every region accepts jobs (JSON, for you alone)"},
			&cli.StringFlag{Name: "regions", Value: devRegions, Usage: "`LIST` of NAME:COUNTRY; default " + devRegions},
			&cli.IntFlag{Name: "nodes", Value: 3, Usage: "`N` nodes of each region; default 3"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return p.dev(c)
		},
	}
}

func (p *program) dev(c *cli.Context) error {
	regions, err := devmesh.ParseRegions(c.String("regions"))
	if err != nil {
		return devUsage(err)
	}
	if n := c.Int("nodes"); n < 1 || n > devmesh.MaxNodes {
		return usage(fmt.Sprintf("write a number from 1 to %d", devmesh.MaxNodes), "--nodes cannot be %d", n)
	}
	ready := c.String("ready")
	if ready != "" {
		// A program may wait for the file: one of an earlier start is not it.
		if err := os.Remove(ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return inputFile(err, "give --ready a path that you may write to")
		}
		if _, err := os.Stat(filepath.Dir(ready)); err != nil {
			return inputFile(err, "make the folder, or give --ready another path")
		}
	}
	cfg := p.devConfig()
	cfg.Regions, cfg.Nodes = regions, c.Int("nodes")
	return p.inDataDir(c.String("data"), func(dir string) error {
		cfg.Dir = dir
		m, err := devmesh.New(cfg)
		if err != nil {
			return err
		}
		return p.serveDev(c.Context, m, ready)
	})
}

// devConfig is a mesh of nodes that meet this machine as an agent does.
func (p *program) devConfig() devmesh.Config {
	cfg := devmesh.DefaultConfig()
	cfg.Program = version
	cfg.Progress = func(line string) { fmt.Fprintln(p.err, clean(line)) }
	try, rules := newProber(), devTasks()
	images := workloadRules{images: rules.share}
	cfg.Inputs = func(c node.Config) runner.Inputs { return images.inputs(filepath.Join(c.Data, "inputs")) }
	cfg.Drivers = func(c node.Config, _ devmesh.Dialer) (map[string]runner.Driver, error) {
		// The mesh ends what the drivers keep.
		deps, _, err := compose(c, &sockets{}, composition{gpus: "none", log: slog.New(slog.DiscardHandler), now: p.now, stopTasks: true, tasks: rules,
			workloads: images, probe: try})
		return deps.Drivers, err
	}
	return cfg
}

// devTasks lets a developer's own jobs see what the developer does: the files,
// as the same user, and the network where a job asks for it.
func devTasks() taskRules {
	r := taskRules{hostNetwork: true, sameUser: true, share: []string{os.TempDir()}}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) && home != "/" {
		r.share = append(r.share, home)
	}
	if here, err := os.Getwd(); err == nil && here != "/" {
		r.share = append(r.share, here)
	}
	return r
}

func devUsage(err error) error {
	var spec *devmesh.SpecError
	if errors.As(err, &spec) {
		return usage(spec.Hint(), "%s", spec.Error())
	}
	return err
}

// inDataDir runs in a directory that was asked for, or in one that is gone
// afterwards.
func (p *program) inDataDir(data string, run func(dir string) error) error {
	if data == "" {
		dir, err := os.MkdirTemp("", "sovmesh-dev-")
		if err != nil {
			return fmt.Errorf("make a directory for the mesh: %w", err)
		}
		return errors.Join(run(dir), os.RemoveAll(dir))
	}
	dir, err := filepath.Abs(data)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return inputFile(err, "give --data a directory that you may write to")
	}
	return run(dir)
}

// serveDev runs the mesh until ctx ends, and tells how to reach it meanwhile.
func (p *program) serveDev(ctx context.Context, m *devmesh.Mesh, ready string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	select {
	case err := <-ended:
		return devFault(err)
	case <-m.Ready():
	}
	doc := m.ReadyFile()
	owner := devOwner(os.Getpid())
	told := p.tellDev(doc, owner, ready)
	if told != nil {
		stop()
	}
	err := devFault(<-ended)
	if gone := removeContexts(p.contexts, owner); gone != nil {
		p.warn("the contexts of this mesh were not removed: " + gone.Error())
	}
	if ready != "" {
		_ = os.Remove(ready) // it names a mesh that is gone; whoever removed it before did the same
	}
	if told == nil && err == nil {
		fmt.Fprintln(p.err, "stopped; no task was left behind")
	}
	return errors.Join(told, err)
}

// devFault gives the mesh's own errors their codes.
func devFault(err error) error {
	var data *devmesh.DataError
	var port *devmesh.PortError
	switch {
	case errors.As(err, &data):
		return &api.InputError{Code: "input.data", Message: data.Error(), Help: data.Hint()}
	case errors.As(err, &port):
		return &api.InputError{Code: "listen.taken", Message: port.Error(), Help: port.Hint()}
	}
	return err
}

// tellDev adds the contexts, writes the ready file and prints what to do next.
func (p *program) tellDev(doc devmesh.ReadyFile, owner, ready string) error {
	p.forgetDead()
	add := map[string]target{}
	for _, r := range doc.Regions {
		add[string(r.Name)] = target{Addr: r.Nodes[0].API, Token: r.Token, CA: r.CA, Owner: owner}
	}
	added, err := addContexts(p.contexts, add, devContext)
	if err != nil {
		// A mesh without contexts is a mesh all the same.
		p.warn("no contexts were added: " + err.Error())
		added = nil
	}
	for i, r := range doc.Regions {
		name := added[string(r.Name)]
		doc.Regions[i].Context = name
		if name != "" && name != string(r.Name) {
			p.warn(fmt.Sprintf("the context %s is somebody else's and was left alone; this mesh's is %s", r.Name, name))
		}
	}
	if ready != "" {
		if err := doc.Write(ready); err != nil {
			return inputFile(err, "give --ready a path that you may write to")
		}
	}
	return p.show(doc, func(w io.Writer) {
		t := p.table("REGION", "COUNTRY", "NODES", "CONTEXT", "API")
		for _, r := range doc.Regions {
			var urls []string
			for _, n := range r.Nodes {
				urls = append(urls, n.API)
			}
			t.add(string(r.Name), r.Country, strconv.Itoa(len(r.Nodes)), r.Context, strings.Join(urls, " "))
		}
		t.write(w)
		devNext(w, doc.Regions[0])
		fmt.Fprintln(w, "\nCtrl-C ends the mesh and its tasks.")
	})
}

// devNext prints commands that work as they stand: by the context, or where
// there is none by the three things that it would hold.
func devNext(w io.Writer, r devmesh.ReadyRegion) {
	fmt.Fprintln(w, "\nfrom another shell:")
	as := "sovmesh --context " + r.Context
	if r.Context == "" {
		as = "sovmesh"
		fmt.Fprintf(w, "  export SOVMESH_ADDR=%s SOVMESH_TOKEN=%s SOVMESH_CA='%s'\n", r.Nodes[0].API, r.Token, r.CA)
	}
	fmt.Fprintf(w, "  %s node list\n  %[1]s region list\n  %[1]s job run job.yaml --wait\n", as)
}

// devContext is the name of a context where somebody else has one of the
// region's name.
func devContext(name string, n int) string {
	if n == 1 {
		return name + "-dev"
	}
	return name + "-dev" + strconv.Itoa(n)
}

const devOwnerPrefix = "sovmesh dev "

func devOwner(pid int) string { return devOwnerPrefix + strconv.Itoa(pid) }

// forgetDead removes the contexts of dev meshes that were killed before they
// could do it themselves.
func (p *program) forgetDead() {
	all, err := readContexts(p.contexts)
	if err != nil {
		return // adding ours will say it
	}
	for _, t := range all.Contexts {
		word, ok := strings.CutPrefix(t.Owner, devOwnerPrefix)
		pid, err := strconv.Atoi(word)
		if !ok || err != nil || alive(pid) {
			continue
		}
		if err := removeContexts(p.contexts, t.Owner); err != nil {
			p.warn(err.Error())
		}
	}
}

// alive reports whether a process runs. One that was killed and that its parent
// has not looked after, as in a container without an init, still has its number
// but runs no more.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true // a system that does not tell
	}
	// The name, in parentheses, may hold anything; the state follows it.
	after := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
	return !strings.HasPrefix(strings.TrimSpace(after), "Z")
}

// took is a duration for people.
func took(begin, end time.Time) string { return end.Sub(begin).Round(100 * time.Millisecond).String() }
