//go:build linux

package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/node/userdata"
	"github.com/sovmesh/sovmesh/placement"
)

func TestSeed(t *testing.T) {
	s := runner.Spec{Task: testJob.Task(2, 7), Name: "My Database!", Service: true, Setup: &placement.Setup{
		CloudInit: "#cloud-config\nusers: [{name: ops}]\n", CloudNetwork: "version: 2\n",
	}}
	data, err := seed(s)
	if err != nil {
		t.Fatal(err)
	}
	image, err := iso9660.OpenImage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	label, err := image.Label()
	if err != nil || label != "cidata" {
		t.Errorf("the label is %q, %v", label, err)
	}
	root, err := image.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	files, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, f := range files {
		text, err := io.ReadAll(f.Reader())
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name()] = string(text)
	}
	if got["user-data"] != s.Setup.CloudInit || got["network-config"] != "version: 2\n" || len(got) != 3 {
		t.Errorf("it holds %q", got)
	}
	if want := `{"instance-id":"` + string(testJob) + `.2","local-hostname":"my-database-2"}` + "\n"; got["meta-data"] != want {
		t.Errorf("meta-data is %q, want %q", got["meta-data"], want)
	}
	before := seedDigest(s)
	s.Task = testJob.Task(2, 8)
	if seedDigest(s) != before {
		t.Error("a machine that is moved finds another seed")
	}
	s.Setup.CloudNetwork += "#"
	if seedDigest(s) == before {
		t.Error("another seed has the same digest")
	}
}

func TestUserDataThatIsNone(t *testing.T) {
	for text, says := range map[string]string{
		"":                              "",
		"#!/bin/sh\n[":                  "",
		"#cloud-config\n":               "",
		"#cloud-config\n{\"a\": [1]}\n": "",
		"#cloud-config\na: &x [1]\nb: [*x, *x]\n": "",
		"users: []\n":                                          "first line",
		"#cloud-config\n- a\n":                                 "line 2",
		"#cloud-config\na: 1\nb: [\n":                          "3",
		"#cloud-config\njust words\n":                          "line 2",
		"#cloud-config\n" + strings.Repeat("#", userdata.Most): "bytes",
	} {
		_, err := seed(runner.Spec{Task: testJob.Task(0, 1), Setup: &placement.Setup{CloudInit: text}})
		var refused *runner.StartError
		if (says == "") != (err == nil) || (err != nil && (!errors.As(err, &refused) || !strings.Contains(err.Error(), says))) {
			t.Errorf("%.40q: %v; want %q", text, err, says)
		}
	}
}

// sysfs makes a tree with one IOMMU group: address to driver and class.
func sysfs(t *testing.T, members map[string][2]string) string {
	t.Helper()
	dir := t.TempDir()
	group := filepath.Join(dir, "kernel/iommu_groups/7/devices")
	for address, m := range members {
		at := filepath.Join(dir, "bus/pci/devices", address)
		err := errors.Join(os.MkdirAll(at, 0o755), os.MkdirAll(filepath.Join(group, address), 0o755),
			os.WriteFile(filepath.Join(at, "class"), []byte(m[1]+"\n"), 0o644),
			os.Symlink(filepath.Join(dir, "kernel/iommu_groups/7"), filepath.Join(at, "iommu_group")))
		if m[0] != "" {
			driver := filepath.Join(dir, "bus/pci/drivers", m[0])
			err = errors.Join(err, os.MkdirAll(driver, 0o755), os.Symlink(driver, filepath.Join(at, "driver")), os.Symlink(at, filepath.Join(driver, address)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPassthrough(t *testing.T) {
	const gpu, sound, bridge = "0000:65:00.0", "0000:65:00.1", "0000:64:00.0"
	ready := map[string][2]string{gpu: {"vfio-pci", "0x030200"}, sound: {"vfio-pci", "0x040300"}, bridge: {"pcieport", "0x060400"}}
	for name, test := range map[string]struct {
		members map[string][2]string
		address string
		says    string
	}{
		"whole group":       {ready, gpu, ""},
		"another is in use": {map[string][2]string{gpu: ready[gpu], sound: {"snd_hda_intel", "0x040300"}}, gpu, "snd_hda_intel"},
		"it is in use":      {map[string][2]string{gpu: {"nvidia", "0x030200"}}, gpu, "nvidia"},
		"bound to nothing":  {map[string][2]string{gpu: {"", "0x030200"}}, gpu, "no driver"},
		"no IOMMU":          {nil, gpu, "no IOMMU group"},
		"no address":        {ready, "../../etc", "no address"},
		"an argument":       {ready, "0000:65:00.0,x=y", "no address"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, t.TempDir(), func(c *Config) {
				c.Sysfs, c.PCI = sysfs(t, test.members), func(string) (string, error) { return test.address, nil }
			})
			got, err := d.passthrough(runner.Spec{Task: testJob.Task(0, 1), Devices: []string{"GPU-1"}})
			if (test.says == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), test.says)) {
				t.Fatalf("%v, %v; want %q", got, err, test.says)
			}
			if err == nil {
				var m qemu.Machine
				layout{pci: got, disks: []disk{{Name: "root", Format: Qcow2}}}.machine(runner.Spec{Task: testJob.Task(0, 1)}, &m)
				if !strings.Contains(strings.Join(m.Args, " "), "-device vfio-pci,host="+gpu) {
					t.Errorf("the machine has %v", m.Args)
				}
				if text := iommu(d.cfg.Sysfs); text != "1 groups; 2 devices bound to vfio-pci" {
					t.Errorf("the fingerprint says %q", text)
				}
			}
		})
	}
}

func TestWhatIsAskedForIsGivenOrRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.raw"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs, c.Firmware = []string{dir}, nil })
	needQEMU(t)
	for says, change := range map[string]func(*runner.Spec){
		"cannot hold a machine to a list": func(s *runner.Spec) { s.Setup.Network = &placement.Network{Allow: []string{"192.0.2.7:443"}} },
		"does not give":                   func(s *runner.Spec) { s.Setup.Network = &placement.Network{Host: true} },
		"no firmware":                     func(s *runner.Spec) { s.Setup.Boot = placement.BootUEFI },
		"no such file":                    func(s *runner.Spec) { s.Setup.Boot = placement.BootDirect },
		"smaller than its image":          func(s *runner.Spec) { s.Setup.RootSize = 512 << 10 },
		"more than a disk":                func(s *runner.Spec) { s.Setup.RootSize = 1 << 60 },
		"hands none to machines":          func(s *runner.Spec) { s.Devices = []string{"GPU-1"} },
		`disk "../x"`:                     func(s *runner.Spec) { s.Setup.Disks = []placement.Disk{{Name: "../x", Size: 1 << 20}} },
		`disk "root"`:                     func(s *runner.Spec) { s.Setup.Disks = []placement.Disk{{Name: "root", Size: 1 << 20}} },
		"has the digest":                  func(s *runner.Spec) { s.Setup.ImageDigest = "sha256:" + sum256(nil) },
		"it is not YAML":                  func(s *runner.Spec) { s.Setup.CloudInit = "#cloud-config\na: [\n" },
	} {
		s := runner.Spec{Task: testJob.Task(0, 1), Image: "./a.raw", Setup: &placement.Setup{}, Keep: func(runner.Handle) error { return nil }}
		change(&s)
		_, err := d.Start(t.Context(), s)
		var refused *runner.StartError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, says) || refused.Hint() == "" {
			t.Errorf("want %q, got %v", says, err)
		}
	}
	if all, err := d.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}
