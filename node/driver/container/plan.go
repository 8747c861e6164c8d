//go:build linux

package container

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// The labels of our containers.
const (
	labelInstance = "sovmesh.instance"
	labelTask     = "sovmesh.task"
	labelJob      = "sovmesh.job"
	labelTenant   = "sovmesh.tenant"
	labelRegion   = "sovmesh.region"
	labelTag      = "sovmesh.tag"
	labelImage    = "sovmesh.image"
	labelSpec     = "sovmesh.spec" // hash of what the container was made from
)

// told is what a supervisor is told: all that is left to do is to ask the engine.
type told struct {
	Host   string                `json:"host"`
	API    string                `json:"api"`
	Engine string                `json:"engine"`
	Name   string                `json:"name"`
	Image  image                 `json:"image"`
	Config *container.Config     `json:"config"`
	Limits *container.HostConfig `json:"limits"`
	// Devices are asked for by CDI names; each makes the device nodes named.
	Devices map[string][]string `json:"devices,omitempty"`
	Health  *placement.Health   `json:"health,omitempty"`
	Quirks  quirks              `json:"quirks"`
	// Net is what the container's network is held to; nil where nothing holds one.
	Net *heldNet `json:"net,omitempty"`
}

// handleData is the driver's own part of a handle: enough to find the container
// without any directory of ours.
type handleData struct {
	Engine     string `json:"engine"`    // its kind and id
	Container  string `json:"container"` // by name, which is made from the task's
	Image      string `json:"image"`     // id
	Digest     string `json:"digest,omitempty"`
	Generation string `json:"generation"` // hash of what the container is made from
}

// plan decides everything about a task's container; only volumes and outputs touch the disk.
func (d *Driver) plan(s *runner.Spec, f *engineFacts, img image) (*told, error) {
	setup := s.Setup
	if setup == nil {
		setup = &placement.Setup{}
	}
	t := &told{Host: d.cfg.Host, API: f.API, Engine: f.Name, Name: d.containerName(s.Task), Image: img, Quirks: f.quirks}
	if setup.Health != nil {
		h := setup.Health.Defaults()
		t.Health = &h
	}
	t.Config = &container.Config{
		Image: img.ID, Env: environment(s), User: setup.User, WorkingDir: setup.WorkDir, Labels: d.labels(s, img),
		// The image's own check would be run by an engine that has systemd and by
		// no other; a job's is run by its supervisor.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	if len(s.Command) > 0 { // it stands in the place of all that the image would run
		t.Config.Entrypoint, t.Config.Cmd = s.Command, nil
	}
	if setup.WorkDir != "" && !path.IsAbs(setup.WorkDir) {
		return nil, refuse(s, fmt.Sprintf("workdir %q is not an absolute path", setup.WorkDir), "write it from the container's root on")
	}
	if err := d.bound(t, s, setup); err != nil {
		return nil, err
	}
	if err := addOutputs(t.Limits, s, setup, noOutputs(os.Geteuid(), f)); err != nil {
		return nil, err
	}
	if err := d.connect(t, s, setup); err != nil {
		return nil, err
	}
	if err := d.addDevices(t, s, f); err != nil {
		return nil, err
	}
	t.Config.Labels[labelSpec] = generation(t)
	return t, nil
}

// bound is what holds the container in.
func (d *Driver) bound(t *told, s *runner.Spec, setup *placement.Setup) error {
	pids := int64(setup.Pids)
	if pids <= 0 {
		pids = placement.DefaultPids
	}
	h := &container.HostConfig{
		ReadonlyRootfs: !setup.WritableRoot, SecurityOpt: []string{"no-new-privileges"}, CapDrop: []string{"ALL"},
		NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}, // the supervisor keeps it
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		IpcMode:       "private",
	}
	t.Limits = h
	h.PidsLimit = &pids
	h.Memory, h.MemorySwap = int64(s.Resources.Memory), int64(s.Resources.Memory)
	h.NanoCPUs = int64(s.Resources.CPU) * 1e6
	if !setup.WritableRoot {
		h.Tmpfs = map[string]string{"/tmp": "rw,nosuid,nodev,mode=1777"}
	}
	for _, c := range setup.Capabilities {
		name := strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		if !slices.Contains(d.cfg.Capabilities, name) {
			return refuse(s, "this node lets no job keep the capability "+name,
				"its operator allows: "+strings.Join(d.cfg.Capabilities, ", "))
		}
		h.CapAdd = append(h.CapAdd, name)
	}
	if n := setup.Network; n != nil && n.Host {
		if !d.cfg.AllowHostNetwork {
			return refuse(s, "this node gives no job its own network", "leave network.host out and name what is to be reached, or ask the node's operator to allow it")
		}
		h.NetworkMode = "host"
	}
	limits := d.cfg.Ulimits
	if len(limits) == 0 && t.Quirks.Ulimits {
		limits = hardLimits(d.cfg.Host)
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		h.Ulimits = append(h.Ulimits, &container.Ulimit{Name: name, Soft: limits[name], Hard: limits[name]})
	}
	return d.addVolumes(h, s, setup)
}

// addVolumes gives the container directories of its job, made here if need be.
func (d *Driver) addVolumes(h *container.HostConfig, s *runner.Spec, setup *placement.Setup) error {
	for _, v := range setup.Volumes {
		if !isName(v.Name) {
			return refuse(s, fmt.Sprintf("volume %q has no plain name", v.Name), "use letters, digits, '-', '_' and '.', at most 64, and begin with a letter or a digit")
		}
		target := path.Clean(v.Path)
		if !path.IsAbs(v.Path) || target == "/" || slices.ContainsFunc(placement.KernelPlaces(), func(p string) bool { return placement.Within(target, p) }) {
			return refuse(s, fmt.Sprintf("volume %s cannot be at %q", v.Name, v.Path), "give an absolute path that is not the root, /proc, /sys or /dev")
		}
		dir := d.volume(s.Job, v.Name)
		if err := makeVolume(dir, setup.User); err != nil {
			return startError(s.Task, fmt.Errorf("make volume %s: %w", v.Name, err))
		}
		keep.Touch(filepath.Dir(dir))
		h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: dir, Target: target, ReadOnly: v.ReadOnly})
	}
	if s.InputsDir != "" {
		h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: s.InputsDir, Target: runner.InputsPath, ReadOnly: true})
	}
	if s.SecretsDir == "" {
		return nil
	}
	if err := openSecrets(s.SecretsDir); err != nil {
		return startError(s.Task, fmt.Errorf("hand over the job's secrets: %w", err))
	}
	h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: s.SecretsDir, Target: runner.SecretsPath, ReadOnly: true})
	return nil
}

// openSecrets lets whoever the image runs as read them: its name is known to the
// image alone. On the node nobody else enters the directory that they lie below.
func openSecrets(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o444)
	})
}

func (d *Driver) volume(job placement.JobID, name string) string {
	return filepath.Join(d.cfg.Dir, "volumes", strings.ReplaceAll(string(job), "/", "_"), name)
}

// isName reports whether s is a plain name: no path, nothing hidden.
func isName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || (c != '-' && c != '_' && c != '.')) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func (d *Driver) labels(s *runner.Spec, img image) map[string]string {
	all := map[string]string{
		labelInstance: d.cfg.Instance, labelTask: string(s.Task), labelJob: string(s.Job), labelTenant: string(s.Tenant),
		labelRegion: string(s.Region), labelTag: s.Tag, labelImage: img.Digest,
	}
	maps.DeleteFunc(all, func(_, v string) bool { return v == "" })
	return all
}

func environment(s *runner.Spec) []string {
	env := maps.Clone(s.Env)
	if env == nil {
		env = make(map[string]string)
	}
	maps.Copy(env, s.DeviceEnv())
	if s.InputsDir != "" {
		env[runner.InputsEnv] = runner.InputsPath
	}
	if s.SecretsDir != "" {
		env[runner.SecretsEnv] = runner.SecretsPath
	}
	if s.OutputsDir != "" {
		env[runner.OutputsEnv] = runner.OutputsPath
	}
	env["SOVMESH_TASK"], env["SOVMESH_JOB"] = string(s.Task), string(s.Job)
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

// generation is a hash of what a container is made from.
func generation(t *told) string {
	data, _ := json.Marshal([]any{t.Config, t.Limits, t.Devices})
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

func refuse(s *runner.Spec, reason, advice string) error {
	return &runner.StartError{Task: s.Task, Reason: reason, Advice: advice}
}
