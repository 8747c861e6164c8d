//go:build linux

package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sovmesh/sovmesh/node/runner"
)

// Passthrough gives a device of the node to a machine, by VFIO. What it costs:
// the machine's memory is held in place, and it cannot be moved while it runs.
// https://docs.kernel.org/driver-api/vfio.html

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)

// passthrough finds the bus addresses of the task's devices, and makes sure that
// the node can part with them.
func (d *Driver) passthrough(s runner.Spec) ([]string, error) {
	if len(s.Devices) == 0 {
		return nil, nil
	}
	if d.cfg.PCI == nil {
		return nil, refuse(s, "run it as a process or a container, or set the node up for passthrough", "it has devices, and this node hands none to machines")
	}
	var all []string
	for _, uuid := range s.Devices {
		address, err := d.cfg.PCI(uuid)
		if err == nil {
			err = viable(d.cfg.Sysfs, address)
		}
		if err != nil {
			return nil, refuse(s, "bind every device of its IOMMU group to vfio-pci on the node", "device %s cannot be handed to a machine: %v", uuid, err)
		}
		all = append(all, address)
	}
	return all, nil
}

// viable reports why a device cannot be handed on: it and all that it shares its
// IOMMU group with must be bound to vfio-pci, bridges aside, for the group is what
// the hardware keeps apart.
func viable(sysfs, address string) error {
	if !pciAddress.MatchString(address) {
		return fmt.Errorf("%q is no address of a PCI device", address)
	}
	members, err := group(sysfs, address)
	if err != nil {
		return err
	}
	var problems []error
	for _, m := range members {
		class, err := os.ReadFile(filepath.Join(sysfs, "bus/pci/devices", m, "class"))
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(class), "0x0604") { // a bridge
			continue
		}
		driver, err := os.Readlink(filepath.Join(sysfs, "bus/pci/devices", m, "driver"))
		if name := filepath.Base(driver); err != nil || name != "vfio-pci" {
			if err != nil {
				name = "no driver"
			}
			problems = append(problems, fmt.Errorf("%s of its IOMMU group is bound to %s", m, name))
		}
	}
	return errors.Join(problems...)
}

// group are the addresses of the devices in one's IOMMU group.
func group(sysfs, address string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(sysfs, "bus/pci/devices", address, "iommu_group/devices"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is in no IOMMU group: switch the IOMMU on in the firmware and the kernel (intel_iommu=on or amd_iommu=on)", address)
	}
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all, nil
}

// iommu says in words whether devices can be handed to machines here.
func iommu(sysfs string) string {
	entries, err := os.ReadDir(filepath.Join(sysfs, "kernel/iommu_groups"))
	if err != nil || len(entries) == 0 {
		return "absent: devices cannot be handed to machines"
	}
	ready := 0
	found, _ := filepath.Glob(filepath.Join(sysfs, "bus/pci/drivers/vfio-pci/*"))
	for _, f := range found {
		if pciAddress.MatchString(filepath.Base(f)) {
			ready++
		}
	}
	return fmt.Sprintf("%d groups; %d devices bound to vfio-pci", len(entries), ready)
}
