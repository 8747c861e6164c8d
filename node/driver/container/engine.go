//go:build linux

package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
)

// engineFacts is what an engine says of itself.
type engineFacts struct {
	Name    string // docker or podman
	Version string
	API     string // the version that both sides speak
	ID      string
	Root    string // where it keeps images
	Storage string
	Cgroup  string
	// Rootless: it runs as somebody else than root, and its containers' users are
	// others on the node.
	Rootless bool
	quirks   quirks
}

// quirks is where engines differ. It is filled by [quirksOf] alone.
type quirks struct {
	// Ulimits: its own defaults may be above what it may set, which fails every
	// start, so each container is given the engine's own hard limits.
	Ulimits bool `json:"ulimits,omitempty"`
	// SilentOOM: it does not say that a container ended for want of memory.
	SilentOOM bool `json:"silent_oom,omitempty"`
	// NoisyAttach: at a container's end it may write an error of its own, about the
	// connection, into what the container printed.
	NoisyAttach bool `json:"noisy_attach,omitempty"`
	// NoCDI says why devices cannot be had by CDI; empty is that they can.
	NoCDI string `json:"no_cdi,omitempty"`
	// Readied: once somebody attached to it a container has its namespaces, and has
	// not begun; other engines make both at once.
	Readied bool `json:"readied,omitempty"`
}

// quirksOf judges by name and version. A version that cannot be read is taken for an old one.
func quirksOf(name, version string, specDirs []string) quirks {
	major, minor := numbers(version)
	if name == "podman" {
		q := quirks{Readied: true, Ulimits: true, SilentOOM: major < 5, NoisyAttach: true}
		if major < 5 || (major == 5 && minor < 4) {
			q.NoCDI = fmt.Sprintf("Podman %s accepts a request for a device through this API and drops it; 5.4 does not", version)
		}
		return q
	}
	var q quirks
	switch {
	case major < 25:
		q.NoCDI = fmt.Sprintf("Docker %s knows no CDI; 28 does", version)
	case len(specDirs) == 0:
		q.NoCDI = fmt.Sprintf("CDI is switched off in this Docker %s; its feature is called cdi", version)
	}
	return q
}

func numbers(version string) (major, minor int) {
	parts := strings.SplitN(version, ".", 3)
	major, _ = strconv.Atoi(parts[0])
	if len(parts) > 1 {
		minor, _ = strconv.Atoi(parts[1])
	}
	return major, minor
}

// ask finds out what the engine is.
func (d *Driver) ask(ctx context.Context) (*engineFacts, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	v, err := d.engine.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return nil, d.unanswered(err)
	}
	info, err := d.engine.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil, d.unanswered(err)
	}
	f := &engineFacts{
		Name: "docker", Version: v.Version, API: d.engine.ClientVersion(), ID: info.Info.ID,
		Root: info.Info.DockerRootDir, Storage: info.Info.Driver, Cgroup: info.Info.CgroupDriver + " v" + info.Info.CgroupVersion,
	}
	for _, c := range v.Components {
		if strings.Contains(strings.ToLower(c.Name), "podman") {
			f.Name = "podman"
		}
	}
	f.Rootless = slices.Contains(info.Info.SecurityOptions, "name=rootless")
	if path, ok := strings.CutPrefix(d.cfg.Host, "unix://"); ok { // not each says it
		peer := peerOf(path)
		f.Rootless = f.Rootless || peer != nil && peer.Uid != 0
	}
	f.quirks = quirksOf(f.Name, f.Version, info.Info.CDISpecDirs)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.facts = f
	return f, nil
}

// known is what the engine said last, or says now.
func (d *Driver) known(ctx context.Context) (*engineFacts, error) {
	d.mu.Lock()
	f := d.facts
	d.mu.Unlock()
	if f != nil {
		return f, nil
	}
	return d.ask(ctx)
}

// unansweredError is an engine that does not answer.
type unansweredError struct {
	host  string
	cause error
}

func (e *unansweredError) Error() string {
	return fmt.Sprintf("the container engine at %s does not answer: %v", e.host, e.cause)
}
func (e *unansweredError) Unwrap() error { return e.cause }

// Hint says what the node's operator can do.
func (e *unansweredError) Hint() string {
	return "start it (systemctl start docker, or podman.socket) and see its own log"
}

func (d *Driver) unanswered(err error) error {
	if client.IsErrConnectionFailed(err) || isLost(err) {
		return &unansweredError{host: d.cfg.Host, cause: err}
	}
	return err
}

// isLost reports whether an engine ended, or could not be reached, in the midst of an answer.
func isLost(err error) bool {
	var n net.Error
	return err != nil && (client.IsErrConnectionFailed(err) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) ||
		errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrNotExist) || errors.As(err, &n) || strings.HasSuffix(err.Error(), "EOF"))
}

// Fingerprint asks the engine.
func (d *Driver) Fingerprint(ctx context.Context) (runner.Fingerprint, error) {
	below, err := d.Driver.Fingerprint(ctx)
	if err != nil || !below.Healthy {
		return below, err
	}
	f, err := d.ask(ctx)
	if err != nil {
		return runner.Fingerprint{Reason: err.Error(), Facts: map[string]string{"host": d.cfg.Host}}, ctx.Err()
	}
	fp := runner.Fingerprint{Healthy: true, Version: f.Version, Facts: map[string]string{
		"engine": f.Name + " " + f.Version, "api": f.API, "host": d.cfg.Host, "storage": f.Storage, "cgroup": f.Cgroup, "root": f.Root,
		"isolation": "namespaces of the node's kernel, as " + f.Name + " makes them",
		"cdi":       "yes",
	}}
	if n := d.cfg.Hold.Network; n != nil {
		fp.Facts["network"], fp.Facts["network_beyond"] = "one of each container's own, deny by default, counted, held on the node's side too", n.Beyond()
	}
	if f.quirks.NoCDI != "" {
		fp.Facts["cdi"] = "no: " + f.quirks.NoCDI
	}
	if f.quirks.SilentOOM {
		fp.Facts["quirk.memory"] = "it does not tell what ended for want of memory; the kernel is asked"
	}
	if f.quirks.Ulimits {
		fp.Facts["quirk.ulimits"] = "its own defaults may be above what it may set; each container is given its own"
	}
	return fp, nil
}

// hardLimits are those of the engine's process, and of ours where it cannot be
// asked: a container's may be no higher.
func hardLimits(host string) map[string]int64 {
	path, ok := strings.CutPrefix(host, "unix://")
	limits := map[string]int64{"nofile": 1024, "nproc": 1024}
	pid := os.Getpid()
	if ok {
		if peer := peerOf(path); peer != nil && peer.Pid > 1 { // 1 listens in its place, with limits of its own
			pid = int(peer.Pid)
		}
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return limits
	}
	for line := range strings.Lines(string(data)) {
		for name, key := range map[string]string{"Max open files": "nofile", "Max processes": "nproc"} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				if f := strings.Fields(rest); len(f) > 1 {
					if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
						limits[key] = n
					} else if f[1] == "unlimited" {
						limits[key] = 1 << 20
					}
				}
			}
		}
	}
	return limits
}

// peerOf is who listens on a unix socket; nil if that is not told.
func peerOf(path string) *unix.Ucred {
	conn, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return nil
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil
	}
	var peer *unix.Ucred
	_ = raw.Control(func(fd uintptr) {
		if c, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			peer = c
		}
	})
	return peer
}

// short is a name for use within others.
func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

func isNotFound(err error) bool { return errdefs.IsNotFound(err) }
func isConflict(err error) bool { return errdefs.IsConflict(err) }
