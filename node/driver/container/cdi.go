//go:build linux

package container

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
)

// cdiPrefix stands before a device's UUID in its CDI name.
const cdiPrefix = "nvidia.com/gpu="

// maxCDISpec bounds one specification, in bytes.
const maxCDISpec = 4 << 20

// cdiSpec is the part of a CDI specification that says which device nodes a
// device brings. https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
type cdiSpec struct {
	Kind    string `yaml:"kind"`
	Devices []struct {
		Name           string   `yaml:"name"`
		ContainerEdits cdiEdits `yaml:"containerEdits"`
	} `yaml:"devices"`
	ContainerEdits cdiEdits `yaml:"containerEdits"`
}

type cdiEdits struct {
	DeviceNodes []struct {
		Path     string `yaml:"path"`
		HostPath string `yaml:"hostPath"`
	} `yaml:"deviceNodes"`
}

// parseCDI reads a specification, JSON or YAML, and gives for each of its
// devices, by full name, the paths of its nodes in the container.
func parseCDI(data []byte) (map[string][]string, error) {
	if len(data) > maxCDISpec {
		return nil, fmt.Errorf("larger than %d bytes", maxCDISpec)
	}
	var s cdiSpec
	if err := yaml.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	all := make(map[string][]string)
	for _, d := range s.Devices {
		nodes := []string{}
		for _, edits := range []cdiEdits{d.ContainerEdits, s.ContainerEdits} {
			for _, n := range edits.DeviceNodes {
				if filepath.IsAbs(n.Path) {
					nodes = append(nodes, filepath.Clean(n.Path))
				}
			}
		}
		all[s.Kind+"="+d.Name] = nodes
	}
	return all, nil
}

// cdiDevices are the devices that this node's specifications name.
func cdiDevices(dirs []string) (map[string][]string, []error) {
	all := make(map[string][]string)
	var problems []error
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // engines look there too, and find nothing
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); e.IsDir() || (ext != ".json" && ext != ".yaml") {
				continue
			}
			devices, err := readCDI(filepath.Join(dir, e.Name()))
			if err != nil {
				problems = append(problems, err)
				continue
			}
			maps.Copy(all, devices)
		}
	}
	return all, problems
}

func readCDI(file string) (map[string][]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCDISpec+1))
	if err != nil {
		return nil, err
	}
	devices, err := parseCDI(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return devices, nil
}

// addDevices asks for the task's devices by their CDI names.
func (d *Driver) addDevices(t *told, s *runner.Spec, f *engineFacts) error {
	if len(s.Devices) == 0 {
		return nil
	}
	if f.quirks.NoCDI != "" {
		return refuse(s, "this node's container engine cannot give a container its devices: "+f.quirks.NoCDI, "let the job run on a node whose engine can, or as a process")
	}
	known, problems := cdiDevices(d.cfg.CDIDirs)
	t.Devices = make(map[string][]string, len(s.Devices))
	var names []string
	for _, uuid := range s.Devices {
		name := cdiPrefix + uuid
		nodes, ok := known[name]
		if !ok {
			reason := fmt.Sprintf("no CDI specification of this node names %s (in %s)", name, strings.Join(d.cfg.CDIDirs, ", "))
			if len(problems) > 0 {
				reason += fmt.Sprintf("; one cannot be read: %v", problems[0])
			}
			return refuse(s, reason, "its operator makes them: nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml")
		}
		t.Devices[name] = nodes
		names = append(names, name)
	}
	t.Limits.DeviceRequests = []container.DeviceRequest{{Driver: "cdi", DeviceIDs: names}}
	return nil
}

// cdiNames are the devices that a container was made with.
func cdiNames(hc *container.HostConfig) map[string]bool {
	all := make(map[string]bool)
	for _, r := range hc.DeviceRequests {
		if r.Driver == "cdi" {
			for _, id := range r.DeviceIDs {
				all[id] = true
			}
		}
	}
	return all
}

// verify compares what runs with what was asked for. An engine that accepts a
// request and drops it is found out here, and the task fails.
func (w *work) verify(c container.InspectResponse) error {
	fail := func(format string, args ...any) error {
		return &runner.StartError{Task: w.spec.Task, Reason: "the engine did not do as it was asked: " + fmt.Sprintf(format, args...), Advice: "use an engine that does, or a later version of it"}
	}
	if c.HostConfig == nil || c.State == nil {
		return fail("it says nothing of the container")
	}
	got, want := c.HostConfig, w.told.Limits
	if c.Image != w.told.Image.ID && "sha256:"+c.Image != w.told.Image.ID {
		return fail("the image is %s and not %s", c.Image, w.told.Image.ID)
	}
	if got.NetworkMode != want.NetworkMode || got.Privileged || got.ReadonlyRootfs != want.ReadonlyRootfs {
		return fail("network %s, privileged %v, read-only root %v", got.NetworkMode, got.Privileged, got.ReadonlyRootfs)
	}
	if got.Memory != want.Memory || value(got.PidsLimit) != value(want.PidsLimit) {
		return fail("it bounds memory to %d bytes and processes to %d", got.Memory, value(got.PidsLimit))
	}
	return w.verifyDevices(c, fail)
}

// verifyDevices looks for the devices in what the engine says, and in the
// container itself.
func (w *work) verifyDevices(c container.InspectResponse, fail func(string, ...any) error) error {
	has := cdiNames(c.HostConfig)
	for _, name := range slices.Sorted(maps.Keys(w.told.Devices)) {
		if !has[name] {
			return fail("the device %s is not in the container", name)
		}
		if !c.State.Running || c.State.Pid == 0 {
			continue // over already
		}
		for _, node := range w.told.Devices[name] {
			var st unix.Stat_t
			err := unix.Stat(fmt.Sprintf("/proc/%d/root%s", c.State.Pid, node), &st)
			if err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
				if _, gone := os.Stat(fmt.Sprintf("/proc/%d/root", c.State.Pid)); gone != nil {
					break
				}
				return fail("the device %s is said to be in the container, but its %s is not there", name, node)
			}
		}
	}
	return nil
}
