//go:build linux

package microvm

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
)

// TestControlIsVsockOnlyWhereAskedForAndThere: the operator's word, the host's device
// and the guests' kernel have all three to have it; else the port is taken.
func TestControlIsVsockOnlyWhereAskedForAndThere(t *testing.T) {
	dir := t.TempDir()
	there, missing := filepath.Join(dir, "vhost-vsock"), filepath.Join(dir, "none")
	with, without := guestKernel{modules: filepath.Join(dir, "with")}, guestKernel{modules: filepath.Join(dir, "without")}
	builtin := guestKernel{modules: filepath.Join(dir, "builtin")}
	for path, text := range map[string]string{
		there: "", filepath.Join(with.modules, "kernel/net/vmw_vsock", vsockModule+".ko.xz"): "",
		filepath.Join(without.modules, "modules.builtin"): "kernel/drivers/block/virtio_blk.ko\n",
		filepath.Join(builtin.modules, "modules.builtin"): "kernel/net/vmw_vsock/" + vsockModule + ".ko\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := qemu.ProbeVsock(there); err != nil {
		t.Skipf("this kernel has no vsock: %v", err)
	}
	says := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	able := says("able", `echo 'name "vhost-vsock-device", bus virtio-bus'`)
	other := says("other", `echo 'name "vhost-user-vsock-device", bus virtio-bus'`)
	broken := says("broken", "exit 1")
	for name, tt := range map[string]struct {
		asked        bool
		binary       string
		device       string
		k            guestKernel
		control, why string
	}{
		"not asked for":           {false, able, there, with, controlSerial, ""},
		"all of it":               {true, able, there, with, controlVsock, ""},
		"built in":                {true, able, there, builtin, controlVsock, ""},
		"no device":               {true, able, missing, with, controlSerial, missing},
		"no module in the guests": {true, able, there, without, controlSerial, vsockModule},
		"not in QEMU":             {true, other, there, with, controlSerial, "built without vhost-vsock-device"},
		"QEMU does not say":       {true, broken, there, with, controlSerial, "ask QEMU for its devices"},
	} {
		d := newDriver(t, t.TempDir(), func(c *Config) { c.Vsock, c.VsockDevice, c.Binary = tt.asked, tt.device, tt.binary })
		kind, why := d.control(t.Context(), tt.k)
		if kind != tt.control || (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) {
			t.Errorf("%s: %s, %q", name, kind, why)
		}
	}
	if DefaultConfig().Vsock {
		t.Error("it is on without being asked for")
	}
	d := newDriver(t, t.TempDir(), func(c *Config) {
		c.Vsock, c.VsockDevice, c.Probe = true, missing, func(context.Context, string) (qemu.Accel, error) { return qemu.Accel{}, nil }
	})
	fp, err := d.Fingerprint(t.Context())
	if got := fp.Facts["control"]; err != nil || !strings.HasPrefix(got, "virtio-serial: vsock was asked for, but") || !strings.Contains(got, missing) {
		t.Errorf("the node says %q, %v", got, err)
	}
}

func TestMachineHasOneControlChannel(t *testing.T) {
	d := newDriver(t, t.TempDir(), func(c *Config) { c.VsockDevice = "/dev/some" })
	made := func(kind string) (*qemu.Machine, []byte) {
		m := &qemu.Machine{Files: []qemu.File{{Name: "kernel"}, {Name: initramfsFile}}}
		token, err := d.speak(kind, m)
		if err != nil {
			t.Fatal(err)
		}
		return m, token
	}
	m, token := made(controlSerial)
	if args := strings.Join(m.Args, " "); token != nil || m.Vsock != "" || !slices.Equal(m.Channels, []string{channel}) || strings.Contains(args, "vsock") || len(m.Files[1].Tail) > 0 {
		t.Errorf("%+v, %x", m, token)
	}
	m, token = made(controlVsock)
	if args := strings.Join(m.Args, " "); len(token) != wire.TokenSize || m.Vsock != "/dev/some" || len(m.Channels) > 0 || strings.Contains(args, "serial") ||
		!strings.Contains(args, "vhost-vsock-device,guest-cid=@cid@,vhostfd=@#vsock@") || len(m.Files[0].Tail) > 0 || len(m.Files[1].Tail) == 0 {
		t.Errorf("%+v, %x", m, token)
	}
	if strings.Contains(strings.Join(m.Args, " "), string(token)) {
		t.Error("the token is on the command line, which everybody on the node reads")
	}
	if _, other := made(controlVsock); string(other) == string(token) {
		t.Error("two machines have one token")
	}
}

func TestGuestsHaveTheModulesOfTheirChannel(t *testing.T) {
	k, err := findKernel("", "", DefaultConfig().KernelRoots)
	if err != nil {
		t.Skipf("no kernel for guests: %v", err)
	}
	if !k.has(vsockModule) {
		t.Fatalf("kernel %s has no %s", k.version, vsockModule)
	}
	names := func(more string) (all []string) {
		modules, err := k.load(append(slices.Clone(wantedModules), more))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range modules {
			all = append(all, m.name)
		}
		return all
	}
	if got := names(serialModule); slices.ContainsFunc(got, func(n string) bool { return strings.Contains(n, "vsock") }) {
		t.Errorf("a guest with a port has %v", got)
	}
	got := names(vsockModule)
	at := func(name string) int { return slices.Index(got, name) }
	if at("vsock") < 0 || at("vmw_vsock_virtio_transport_common") < at("vsock") || at(vsockModule) < at("vmw_vsock_virtio_transport_common") || at(serialModule) >= 0 {
		t.Errorf("a guest with vsock has %v", got)
	}
}

// TestReachEndsWithTheMachine: a machine that ends before its init listens is not
// waited for until the bound of its boot.
func TestReachEndsWithTheMachine(t *testing.T) {
	r := running(t, nil, &said{})
	if err := reach(r, order{}, nil, nil); err != nil {
		t.Errorf("a machine with a port: %v", err)
	}
	r.Vsock = &qemu.Vsock{CID: 77}
	until := func(ctx context.Context, cid, port uint32, token []byte) (wire.Vsock, error) {
		if cid != 77 || port != wire.VsockPort || string(token) != "secret" {
			t.Errorf("it connects to %d:%d with %q", cid, port, token)
		}
		<-ctx.Done()
		return wire.Vsock{}, context.Cause(ctx)
	}
	gone := make(chan struct{})
	close(gone)
	if err := reach(r, order{Boot: time.Hour, Token: []byte("secret")}, gone, until); err == nil || !strings.Contains(err.Error(), "machine ended") {
		t.Errorf("after the machine's end: %v", err)
	}
	if err := reach(r, order{Boot: time.Nanosecond, Token: []byte("secret")}, nil, until); err == nil || !strings.Contains(err.Error(), "not within") {
		t.Errorf("after the bound of its boot: %v", err)
	}
	var host net.Conn = wire.Vsock{}
	err := reach(r, order{Boot: time.Hour}, nil, func(context.Context, uint32, uint32, []byte) (wire.Vsock, error) { return wire.Vsock{}, nil })
	if err != nil || r.Channels[channel] != host {
		t.Errorf("the channel is %v, %v", r.Channels[channel], err)
	}
}

// TestVsockInAGuest runs wire's own tests of vsock as the first program of a guest,
// whose kernel has a loopback for it: both ends of the channel are tried with the
// sockets themselves, whatever the host has.
func TestVsockInAGuest(t *testing.T) {
	needMachine(t)
	k := must(t, func() (guestKernel, error) { return findKernel("", "", DefaultConfig().KernelRoots) })
	if !k.has("vsock_loopback") {
		t.Skipf("kernel %s has no module vsock_loopback", k.version)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "wire.test")
	build := exec.Command("go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/sovmesh/sovmesh/node/driver/microvm/wire")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := testStore(t)
	first, err := s.initramfs(t.Context(), k, program, vsockModule, "vsock_loopback")
	if err != nil {
		t.Fatal(err)
	}
	accel, err := qemu.Probe(t.Context(), DefaultConfig().Binary)
	if err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(dir, "whole") // as a machine has it, with its token
	tail, err := tokenArchive(make([]byte, wire.TokenSize))
	data, err2 := os.ReadFile(s.path(first))
	if err := errors.Join(err, err2, os.WriteFile(whole, append(data, tail...), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), boots)
	defer cancel()
	out, err := exec.CommandContext(ctx, DefaultConfig().Binary, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "microvm", "-m", "192",
		"-accel", accel.Name, "-cpu", accel.CPU, "-serial", "stdio", "-kernel", k.file, "-initrd", whole, "-append", kernelLine(accel)).CombinedOutput()
	text := string(out)
	if err != nil || !strings.Contains(text, "--- PASS: TestVsockLoopback") || !strings.Contains(text, "the guest's tests end with 0, <nil>") {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestOverVsock is a whole machine over vsock, where the host has it.
func TestOverVsock(t *testing.T) {
	needMachine(t)
	if err := qemu.ProbeVsock(qemu.VsockDevice); err != nil {
		t.Skipf("NO MACHINE IS BOOTED OVER VSOCK HERE: %v", err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) { c.Vsock = true })
	var all []runner.Handle
	for n := range 2 { // beside each other
		h, err := start(t, d, spec(t, 80+n, "tick", "200"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	for _, h := range all {
		o, err := d.Recover(t.Context(), h)
		if err != nil || o.Facts["control"] != controlVsock || o.Facts["boot_id"] == "" {
			t.Errorf("%+v, %v", o, err)
		}
		text := strings.Repeat("0123456789", 100_000) // more than a window, both ways
		if out, exit := execIn(t, d, h, runner.ExecRequest{Command: []string{"/workload", "stdin"}, Stdin: strings.NewReader(text)}); out != text || exit.Code != 0 {
			t.Errorf("%d bytes come back of %d, %+v", len(out), len(text), exit)
		}
		if err := d.Stop(t.Context(), h, boots); err != nil {
			t.Fatal(err)
		}
		if exit, err := d.Wait(t.Context(), h); err != nil || !exit.Stopped || exit.Killed || exit.Code != 0 {
			t.Errorf("%+v, %v", exit, err)
		}
	}
}
