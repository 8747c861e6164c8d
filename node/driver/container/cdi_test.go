//go:build linux

package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/runner"
)

const gpu = "GPU-00000000-1111-2222-3333-444444444444"

// specFile is a CDI specification with one device of two nodes, of which there
// is one on every machine under other names.
const specFile = `
cdiVersion: "0.6.0"
kind: nvidia.com/gpu
devices:
  - name: ` + gpu + `
    containerEdits:
      deviceNodes:
        - {path: /dev/nvidia0, hostPath: /dev/null}
containerEdits:
  deviceNodes:
    - {path: /dev/nvidiactl, hostPath: /dev/zero}
`

// withGPU makes a driver before a double that claims to know CDI.
func withGPU(t *testing.T, e *enginetest.Engine) (*Driver, *double) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cdi"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cdi", "nvidia.yaml"), []byte(specFile), 0o644); err != nil {
		t.Fatal(err)
	}
	x := newDouble(t, e)
	x.response = func(path string, v map[string]any) bool {
		switch {
		case strings.HasSuffix(path, "/version"):
			v["Version"] = "28.2.2"
			for _, c := range v["Components"].([]any) {
				c.(map[string]any)["Name"] = "Engine"
			}
		case strings.HasSuffix(path, "/info"):
			v["CDISpecDirs"] = []string{"/etc/cdi"}
		default:
			return false
		}
		return true
	}
	return newDriver(t, e, dir, func(c *Config) { c.Host, c.Ulimits = x.host, ownLimits }), x
}

// TestDevicesThatAreDropped has an engine accept a request for a device and
// drop it, as Podman 4.3 does: the task fails and nothing is left.
func TestDevicesThatAreDropped(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d, x := withGPU(t, e)
		x.request = func(_ string, body []byte) []byte { return withoutRequest(t, body, nil) }
		s := task(0, func(s *runner.Spec) { s.Devices = []string{gpu} }, app("sleep")...)
		_, err := d.Start(within(t), s)
		refused(t, err, gpu, "is not in the container")
		if err := d.Destroy(within(t), runner.Handle{Task: s.Task}); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, d)
		// It says that the device is there, and yet it is not.
		x.mu.Lock()
		version := x.response
		x.response = func(path string, v map[string]any) bool {
			return version(path, v) || pretend(path, v)
		}
		x.mu.Unlock()
		s = task(1, func(s *runner.Spec) { s.Devices = []string{gpu} }, app("sleep")...)
		_, err = d.Start(within(t), s)
		refused(t, err, gpu, "/dev/nvidia0 is not there")
		if err := d.Destroy(within(t), runner.Handle{Task: s.Task}); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, d)
	})
}

// TestDevicesThatAreGiven has a double do what an engine with CDI does with the
// specification: the container gets the device nodes.
func TestDevicesThatAreGiven(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d, x := withGPU(t, e)
		x.request = func(_ string, body []byte) []byte {
			return withoutRequest(t, body, []any{
				map[string]any{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nvidia0", "CgroupPermissions": "rwm"},
				map[string]any{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/nvidiactl", "CgroupPermissions": "rwm"},
			})
		}
		version := x.response
		x.response = func(path string, v map[string]any) bool { return version(path, v) || pretend(path, v) }
		h := start(t, d, task(0, func(s *runner.Spec) { s.Devices = []string{gpu} }, app("each", "stat /dev/nvidia0", "stat /dev/nvidiactl", "env", "listen 127.0.0.1:1")...))
		awaitOutput(t, d, h, "NVIDIA_VISIBLE_DEVICES="+gpu)
		if a, err := d.Inspect(within(t), h); err != nil || !slices.Equal(a.Devices, []string{gpu}) {
			t.Errorf("%+v, %v", a.Devices, err)
		}
		r, err := d.Logs(within(t), h, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		// A device that no specification names.
		_, err = d.Start(within(t), task(1, func(s *runner.Spec) { s.Devices = []string{"GPU-other"} }, app("sleep")...))
		refused(t, err, "no CDI specification", "GPU-other", "nvidia-ctk")
	})
}

// TestDevicesAreNotAskedOfWhoDropsThem asks the real engines, neither of which knows CDI.
func TestDevicesAreNotAskedOfWhoDropsThem(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		fp, err := d.Fingerprint(within(t))
		if err != nil || !fp.Healthy {
			t.Fatalf("%+v, %v", fp, err)
		}
		if fp.Facts["cdi"] == "yes" {
			t.Skipf("%s knows CDI: there is nothing to refuse", fp.Facts["engine"])
		}
		_, err = d.Start(within(t), task(0, func(s *runner.Spec) { s.Devices = []string{gpu} }, app("sleep")...))
		refused(t, err, "cannot give a container its devices")
		nothingLeft(t, d)
	})
}

// withoutRequest takes the request for devices out, and puts plain ones in its place.
func withoutRequest(t *testing.T, body []byte, devices []any) []byte {
	var v map[string]any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Error(err)
		return body
	}
	hc := v["HostConfig"].(map[string]any)
	if hc["DeviceRequests"] == nil {
		t.Error("no device was asked for")
	}
	delete(hc, "DeviceRequests")
	if devices != nil {
		hc["Devices"] = devices
	}
	body, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return body
}

// pretend has an engine say that the container has the device.
func pretend(path string, v map[string]any) bool {
	hc, ok := v["HostConfig"].(map[string]any)
	if ok && strings.HasSuffix(path, "/json") {
		hc["DeviceRequests"] = []any{map[string]any{"Driver": "cdi", "DeviceIDs": []string{cdiPrefix + gpu}}}
	}
	return ok
}

func TestQuirks(t *testing.T) {
	for _, test := range []struct {
		name, version string
		dirs          []string
		cdi, oom      bool
	}{
		{"docker", "20.10.24+dfsg1", nil, false, false},
		{"docker", "28.2.2", []string{"/etc/cdi"}, true, false},
		{"docker", "28.2.2", nil, false, false},
		{"docker", "dev", []string{"/etc/cdi"}, false, false},
		{"podman", "4.3.1", nil, false, true},
		{"podman", "5.3.9", nil, false, false},
		{"podman", "5.4.0", nil, true, false},
		{"podman", "10.0.0", nil, true, false},
	} {
		q := quirksOf(test.name, test.version, test.dirs)
		if (q.NoCDI == "") != test.cdi || q.SilentOOM != test.oom || q.Ulimits != (test.name == "podman") {
			t.Errorf("%s %s: %+v", test.name, test.version, q)
		}
	}
}

func TestEngineWordsAreNoOutput(t *testing.T) {
	const noise = "Error: read unixpacket @->/proc/self/fd/12/attach: read: connection reset by peer\n"
	for want, parts := range map[string][]string{
		"one\ntwo\n":          {"one\n", "two\n", noise},
		"one\n" + noise + "a": {"one\n", noise, "a"},
		"Error: mine\n":       {"Error: mine\n"},
	} {
		var out strings.Builder
		w := &withoutLast{out: &out}
		for _, p := range parts {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Error(n, err)
			}
		}
		if out.String() != want {
			t.Errorf("%q gives %q", parts, out.String())
		}
	}
}

func FuzzParseCDI(f *testing.F) {
	f.Add([]byte(specFile))
	f.Add([]byte(`{"cdiVersion":"0.5.0","kind":"a/b","devices":[{"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/../etc/passwd"}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseCDI(data)
		if err != nil {
			return
		}
		for name, nodes := range all {
			for _, n := range nodes {
				if !filepath.IsAbs(n) || n != filepath.Clean(n) {
					t.Errorf("%s has the node %q", name, n)
				}
			}
		}
	})
}
