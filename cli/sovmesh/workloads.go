package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/driver/container"
	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/driver/microvm"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/driver/vm"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// workloadRules are the operator's, for containers and machines.
type workloadRules struct {
	images  []string          // directories below which jobs may name images
	engine  string            // where the container engine answers; empty: where distributions have it
	auth    string            // file of accounts at registries
	mirrors map[string]string // beginnings of images' names, and what stands in their place
	plain   []string          // registries without TLS
	allow   []string          // what is fetched from beside public addresses
	vsock   bool              // micro-VMs are spoken to by vsock where that is there
}

// reach is the way to what jobs name by a registry or a URL. What the operator
// named is allowed with it: mirrors, registries without TLS, proxies.
func (w workloadRules) reach() http.RoundTripper {
	allow := slices.Concat(w.allow, w.plain)
	for _, to := range w.mirrors {
		host, _, _ := strings.Cut(to, "/")
		allow = append(allow, host)
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		if u, err := url.Parse(os.Getenv(name)); err == nil && u.Hostname() != "" {
			allow = append(allow, net.JoinHostPort(u.Hostname(), portOf(u)))
		}
	}
	return fetch.Transport(allow)
}

// portOf is a proxy's port, said or that of its scheme.
func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	case strings.HasPrefix(u.Scheme, "socks5"):
		return "1080"
	}
	return "80"
}

// mostInput bounds a file that a job needs, and reserveInputs is what such files
// leave free on the disk of the region's log, in bytes; keepInput is how long one is
// kept that no task has.
const (
	mostInput     = 64 << 30
	reserveInputs = 1 << 30
	keepInput     = 7 * 24 * time.Hour
)

// inputs is where the files come from that jobs name by digest.
func (w workloadRules) inputs(dir string) *fetch.Store {
	return &fetch.Store{
		Dir: dir, Local: fetch.Below(w.images), Most: mostInput, Keep: keepInput, Reserve: reserveInputs, Free: runner.Free,
		HTTP: &http.Client{Transport: w.reach(), Timeout: 2 * time.Hour},
	}
}

// prober tries the machine once, for all drivers and nodes of this program.
type prober func(ctx context.Context, binary string) (qemu.Accel, error)

func newProber() prober {
	var mu sync.Mutex
	known := map[string]qemu.Accel{}
	return func(ctx context.Context, binary string) (qemu.Accel, error) {
		mu.Lock()
		defer mu.Unlock()
		if a, ok := known[binary]; ok {
			return a, nil
		}
		a, err := qemu.Probe(ctx, binary)
		if err == nil {
			known[binary] = a
		}
		return a, err
	}
}

// workloadDrivers makes the drivers of containers and machines that are wanted.
// One that finds nothing to work with here says so by its fingerprint; only
// without an engine is there none for containers, unless the operator named one.
func workloadDrivers(cfg node.Config, o composition, wanted []string, gpus gpu.Source) (map[string]runner.Driver, error) {
	out := map[string]runner.Driver{}
	fail := func(name string, err error) (map[string]runner.Driver, error) {
		for _, d := range out {
			if c, ok := d.(io.Closer); ok {
				err = errors.Join(err, c.Close())
			}
		}
		return nil, fmt.Errorf("%s driver: %w", name, err)
	}
	if slices.Contains(wanted, "container") {
		d, err := containerDriver(cfg, o)
		if err != nil {
			return fail("container", err)
		}
		if d != nil {
			out["container"] = d
		}
	}
	if slices.Contains(wanted, "microvm") {
		c := microvm.DefaultConfig()
		c.Dir, c.Probe = filepath.Join(cfg.Data, "microvms"), o.probe
		c.Vsock = o.workloads.vsock
		c.Images = image.Source{Dirs: o.workloads.images, AuthFile: o.workloads.auth, Transport: o.workloads.reach(), Mirrors: o.workloads.mirrors, Plain: o.workloads.plain}
		var err error
		if c.Hold, err = o.hold.Share(); err != nil {
			return fail("microvm", err)
		}
		d, err := microvm.New(c)
		if err != nil {
			return fail("microvm", err)
		}
		out["microvm"] = d
	}
	if slices.Contains(wanted, "vm") {
		c := vm.DefaultConfig()
		c.Dir, c.ImageDirs, c.HostNetwork, c.Probe = filepath.Join(cfg.Data, "vms"), o.workloads.images, o.tasks.hostNetwork, o.probe
		c.PCI = addressOf(gpus)
		c.HTTP.Transport = o.workloads.reach()
		var err error
		if c.Hold, err = o.hold.Share(); err != nil {
			return fail("vm", err)
		}
		d, err := vm.New(c)
		if err != nil {
			return fail("vm", err)
		}
		out["vm"] = d
	}
	return out, nil
}

// containerDriver is nil where there is no engine and none was asked for.
func containerDriver(cfg node.Config, o composition) (runner.Driver, error) {
	c := container.DefaultConfig()
	c.Host = o.workloads.engine
	if c.Host == "" {
		host, err := container.Detect()
		if err != nil {
			if slices.Contains(o.drivers, "container") {
				return nil, err
			}
			o.log.Debug("driver cannot work here", "driver", "container", "err", err)
			return nil, nil
		}
		c.Host = host
	}
	c.Dir, c.Instance, c.Log = filepath.Join(cfg.Data, "containers"), instanceOf(cfg), o.log.With(slog.String("part", "container"))
	c.ImageDirs, c.AuthFile, c.Mirrors, c.PlainRegistries = o.workloads.images, o.workloads.auth, o.workloads.mirrors, o.workloads.plain
	c.Transport = o.workloads.reach()
	c.AllowHostNetwork = o.tasks.hostNetwork
	var err error
	if c.Hold, err = o.hold.Share(); err != nil {
		return nil, err
	}
	return container.New(c)
}

// instanceOf tells one agent's containers from those of others at one engine:
// their data directories differ.
func instanceOf(cfg node.Config) string {
	s := string(cfg.Node) + " " + cfg.Data
	return s[max(0, len(s)-200):]
}

// addressOf finds a device's address on the bus by its UUID.
func addressOf(gpus gpu.Source) func(string) (string, error) {
	if gpus == nil {
		return nil
	}
	return func(uuid string) (string, error) {
		now, err := gpus.Read(context.Background())
		if err != nil {
			return "", fmt.Errorf("find device %s: %w", uuid, err)
		}
		for _, d := range now.Devices {
			if d.UUID == uuid && d.PCI != "" {
				return d.PCI, nil
			}
		}
		return "", fmt.Errorf("device %s has no address on this machine's bus", uuid)
	}
}

// registries is where images come from beside the operator's directories.
func (a *agentReader) registries(v residency.Value) {
	w := &a.cfg.workloads
	a.each(v, "registries", []string{"allow", "auth", "mirrors", "plain"}, func(key string, v residency.Value) {
		switch key {
		case "auth":
			w.auth = a.path(v, "registries.auth")
		case "allow":
			w.allow = a.list(v, "registries.allow")
		case "plain":
			w.plain = a.list(v, "registries.plain")
		case "mirrors":
			w.mirrors = map[string]string{}
			for _, f := range v.Fields {
				w.mirrors[f.Name] = f.Value.Text
				if f.Value.Kind != residency.String || f.Value.Text == "" {
					a.fault(f.Value, "write mirrors: {docker.io/library: mirror.example/library}", "the mirror of %s cannot be %s", quoteWord(f.Name), f.Value.Kind)
				}
			}
			if v.Kind != residency.Map {
				a.fault(v, "write mirrors: {docker.io/library: mirror.example/library}", "registries.mirrors must be a mapping, not %s", v.Kind)
			}
		}
	})
}

// microVMs is how micro-VMs are made here.
func (a *agentReader) microVMs(v residency.Value) {
	a.each(v, "microvm", []string{"vsock"}, func(_ string, v residency.Value) {
		a.cfg.workloads.vsock = a.word(v, "microvm.vsock", "true", "false") == "true"
	})
}
