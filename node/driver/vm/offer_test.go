//go:build linux

package vm

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/placement"
)

func anOffer() offer {
	return offer{
		Version: offerVersion, Key: "pc-q35-7.2 tcg max", Machine: "pc-q35-7.2", CPUs: 1, Memory: 192 * placement.MiB, Copy: "j.0",
		Boot: placement.BootDirect, Image: "sha256:00", Seed: "sha256:01", Disks: []offerDisk{{Name: "root", Size: 1 << 20}}, Devices: []string{"pvpanic-pci"},
	}
}

func TestOffersAreRead(t *testing.T) {
	whole, err := json.Marshal(anOffer())
	if err != nil {
		t.Fatal(err)
	}
	if o, err := parseOffer(whole); err != nil || o.differs(anOffer()) != nil {
		t.Errorf("%+v, %v", o, err)
	}
	for name, text := range map[string]string{
		"nothing":          "",
		"no JSON":          "offer",
		"two":              string(whole) + string(whole),
		"another version":  strings.Replace(string(whole), `"version":2`, `"version":1`, 1),
		"an unknown field": strings.Replace(string(whole), `"cpus"`, `"path":"/etc/shadow","cpus"`, 1),
		"no disks":         strings.Replace(string(whole), `[{"name":"root","size":1048576}]`, `[]`, 1),
		"many disks":       strings.Replace(string(whole), `{"name":"root","size":1048576}`, strings.Repeat(`{},`, 64)+`{}`, 1),
	} {
		if _, err := parseOffer([]byte(text)); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// Every field that two sides could differ in is compared.
func TestOffersAreCompared(t *testing.T) {
	for name, change := range map[string]func(*offer){
		"key":      func(o *offer) { o.Key = "pc-q35-7.2 kvm host-1" },
		"machine":  func(o *offer) { o.Machine = "pc-q35-7.1" },
		"cpus":     func(o *offer) { o.CPUs++ },
		"memory":   func(o *offer) { o.Memory++ },
		"copy":     func(o *offer) { o.Copy = "j.1" },
		"boot":     func(o *offer) { o.Boot = placement.BootUEFI },
		"image":    func(o *offer) { o.Image = "sha256:02" },
		"kernel":   func(o *offer) { o.Kernel = "sha256-02" },
		"initrd":   func(o *offer) { o.Initrd = "sha256-02" },
		"cmdline":  func(o *offer) { o.Cmdline = "init=/bin/sh" },
		"firmware": func(o *offer) { o.Firmware = "sha256:02" },
		"seed":     func(o *offer) { o.Seed = "sha256:02" },
		"inputs":   func(o *offer) { o.Inputs = "inputs-02.ext4" },
		"disks":    func(o *offer) { o.Disks[0].Size++ },
		"devices":  func(o *offer) { o.Devices = append(o.Devices, "vfio-pci,host=0000:01:00.0") },
	} {
		o := anOffer()
		change(&o)
		if err := o.differs(anOffer()); err == nil || !strings.Contains(err.Error(), "its "+name+" is") {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func TestMoveKeys(t *testing.T) {
	for version, want := range map[string]string{"7.2.22": "pc-q35-7.2", "10.0.3": "pc-q35-10.0", "7": plainMachine, "": plainMachine, "seven.two": plainMachine} {
		if got := machineType(version); got != want {
			t.Errorf("QEMU %s makes %s, want %s", version, got, want)
		}
	}
	key := func(a qemu.Accel, tap bool) string {
		k, err := moveKey(a, tap)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	tcg := qemu.Accel{Name: qemu.TCG, CPU: "max", Version: "7.2.22"}
	later, newer, odd := tcg, tcg, tcg
	later.Version, newer.Version, odd.Version = "7.2.23", "8.0.0", "?"
	kvm := qemu.Accel{Name: qemu.KVM, CPU: "host", Version: "7.2.22"}
	if key(tcg, false) != key(later, false) || key(tcg, false) == key(newer, false) || key(tcg, false) == key(tcg, true) || key(odd, false) != "" {
		t.Errorf("keys: %q %q %q %q", key(tcg, false), key(later, false), key(newer, false), key(odd, false))
	}
	if k := key(kvm, false); !strings.HasPrefix(k, "pc-q35-7.2 kvm host-") {
		t.Errorf("under KVM: %q", k)
	}
	if a, b := processor("vendor_id\t: A\nflags\t: x y\nbogomips\t: 1\n\nflags: q"), processor("vendor_id\t: A\nflags\t: x y\nbogomips\t: 2\n\n"); a != b || a == processor("vendor_id\t: A\nflags\t: x\n\n") {
		t.Errorf("processors are told apart by %s and %s", a, b)
	}
}

func TestALineIsBounded(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		_, _ = there.Write([]byte(strings.Repeat("x", 2*maxLine)))
		_ = there.Close()
	}()
	if _, err := newWire(here).line(); err == nil || !strings.Contains(err.Error(), "a line of more than") {
		t.Errorf("%v", err)
	}
}

func FuzzOffer(f *testing.F) {
	whole, err := json.Marshal(anOffer())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"version":1,"disks":[{}],"devices":[]}`))
	whole, err = json.Marshal(anOfferOf(aSnapshot("a"), aSnapshot("b")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, line []byte) {
		o, err := parseOffer(line)
		if err != nil {
			return
		}
		if len(o.Disks) == 0 || len(o.Disks) > maxDisks || o.Version != offerVersion {
			t.Errorf("taken: %+v", o)
		}
		if err := o.differs(anOffer()); err != nil && len(err.Error()) > 1<<14 {
			t.Errorf("a refusal of %d bytes", len(err.Error()))
		}
		for _, s := range o.Snapshots {
			if !placement.ValidDiskSnapshotName(s.Name) || len(s.Copies) > len(o.Disks) {
				t.Errorf("taken: %+v", s)
			}
		}
		if sum := copiesSize(o.Snapshots); sum < 0 || len(o.Snapshots) > mostSnapshots || (sum == 0) != (len(o.Snapshots) == 0) {
			t.Errorf("%d snapshots of %d bytes", len(o.Snapshots), sum)
		}
		if err := o.differs(o); err != nil {
			t.Errorf("it differs from itself: %v", err)
		}
	})
}
