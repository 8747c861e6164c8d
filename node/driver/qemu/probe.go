//go:build linux

package qemu

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// The accelerators.
const (
	KVM = "kvm"
	TCG = "tcg" // QEMU's own interpreter
)

// Accel is what a machine of this node runs on.
type Accel struct {
	Name string `json:"name"`
	// KVM says how KVM is here: absent, native, or emulated, which is a device
	// that opens and interprets what a kernel does, slower than QEMU would.
	KVM string `json:"kvm"`
	// Why explains what KVM is not.
	Why string `json:"why,omitempty"`
	// CPU is the model that guests see.
	CPU string `json:"cpu"`
	// Version is QEMU's.
	Version string `json:"version"`
}

// arg is the accelerator on the command line. A translation cache of its
// default size, a GiB, would not fit what the machine's cgroup has for it.
func (a Accel) arg() string {
	if a.Name == TCG {
		return "tcg,thread=multi,tb-size=128"
	}
	return a.Name
}

// Facts are what a fingerprint says of it.
func (a Accel) Facts() map[string]string {
	facts := map[string]string{"vm.accel": a.Name, "vm.kvm": a.KVM, "vm.cpu": a.CPU, "qemu.version": a.Version}
	if a.Why != "" {
		facts["vm.kvm.why"] = a.Why
	}
	return facts
}

// probeLoop and probeLimit: a processor takes about a millisecond for that many
// turns, an interpreter more than a second.
const (
	probeLoop  = 1_000_000
	probeLimit = 200 * time.Millisecond
)

// Probe tries what machines will need: QEMU itself, and KVM by a loop in the
// most privileged ring, where a guest's kernel runs. It takes at most a second
// more than QEMU needs to say its version. An error is about QEMU.
func Probe(ctx context.Context, binary string) (Accel, error) {
	a := Accel{Name: TCG, CPU: "max"}
	path, err := exec.LookPath(binary)
	if err != nil {
		return a, fmt.Errorf("QEMU is not installed (%w): install qemu-system-x86", err)
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return a, fmt.Errorf("ask QEMU for its version: %w", err)
	}
	a.Version = version(string(out))
	took, err := fastest(func() (time.Duration, error) { return loopInKVM(probeLoop, probeLimit) })
	switch {
	case err != nil:
		a.KVM, a.Why = "absent", err.Error()
	case took > probeLimit:
		a.KVM, a.Why = "emulated", fmt.Sprintf("it does not get through a loop of %d turns in %v", probeLoop, probeLimit)
	default:
		a.KVM, a.Name, a.CPU = "native", KVM, "host"
	}
	return a, nil
}

// HasDevice reports whether machines of a type can have a device: distributions
// build QEMU without some.
func HasDevice(ctx context.Context, binary, machine, device string) (bool, error) {
	out, err := exec.CommandContext(ctx, binary, "-M", machine, "-device", "help").Output()
	if err != nil {
		return false, fmt.Errorf("ask QEMU for its devices: %w", err)
	}
	return strings.Contains(string(out), fmt.Sprintf("name %q,", device)), nil
}

// probeSamples are taken at most: a machine that is busy for a moment is slow once,
// an interpreter always.
const probeSamples = 3

// fastest is the first sample within the limit, or the fastest of all.
func fastest(sample func() (time.Duration, error)) (best time.Duration, err error) {
	for n := range probeSamples {
		took, err := sample()
		if err != nil {
			return 0, err
		}
		if n == 0 || took < best {
			best = took
		}
		if best <= probeLimit {
			break
		}
	}
	return best, nil
}

// version is the number in "QEMU emulator version 7.2.22 (Debian ...)".
func version(line string) string {
	line, _, _ = strings.Cut(line, "\n")
	_, v, found := strings.Cut(line, "version ")
	if !found {
		return strings.TrimSpace(line)
	}
	v, _, _ = strings.Cut(v, " ")
	return v
}
