//go:build linux

package microvm

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovmesh/sovmesh/node/driver/microvm/wire"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
)

// What a guest needs for its control channel, by its kind.
const (
	serialModule = "virtio_console"
	vsockModule  = "vmw_vsock_virtio_transport"
)

// The kinds of control channel.
const (
	controlSerial = "virtio-serial"
	controlVsock  = "vsock"
)

// control is the kind of control channel that guests are given, and why it is not
// the one that was asked for. Without vsock a guest has the port: no start fails.
func (d *Driver) control(ctx context.Context, k guestKernel) (kind, why string) {
	if !d.cfg.Vsock {
		return controlSerial, ""
	}
	device := d.cfg.VsockDevice
	if device == "" {
		device = qemu.VsockDevice
	}
	if err := qemu.ProbeVsock(device); err != nil {
		return controlSerial, err.Error()
	}
	if !k.has(vsockModule) {
		return controlSerial, "the guests' kernel has no module " + vsockModule
	}
	if why := d.deviceless(ctx); why != "" {
		return controlSerial, why
	}
	return controlVsock, ""
}

// vsockDevice is QEMU's name of what gives a machine vsock.
const vsockDevice = "vhost-vsock-device"

// deviceless says why QEMU gives machines no vsock, if it gives none. It is asked
// once for each time that it is probed.
func (d *Driver) deviceless(ctx context.Context) string {
	d.probing.Lock()
	defer d.probing.Unlock()
	if d.vsock != nil {
		return *d.vsock
	}
	why := ""
	switch has, err := qemu.HasDevice(ctx, d.cfg.Binary, machineType, vsockDevice); {
	case err != nil:
		return err.Error()
	case !has:
		why = "QEMU was built without " + vsockDevice
	}
	d.vsock = &why
	return why
}

// controlOf is the kind that a machine was given.
func controlOf(m *qemu.Machine) string {
	if m.Vsock != "" {
		return controlVsock
	}
	return controlSerial
}

// has reports whether a kernel has a driver, as a module or built in.
func (k guestKernel) has(name string) bool {
	for _, spelt := range []string{name, strings.ReplaceAll(name, "_", "-")} {
		if found, _ := filepath.Glob(filepath.Join(k.modules, "kernel/*/*", spelt+".ko*")); len(found) > 0 {
			return true
		}
	}
	builtin, _ := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	for l := range strings.Lines(string(builtin)) {
		if moduleName(strings.TrimSpace(l)) == name {
			return true
		}
	}
	return false
}

// speak plugs the control channel in. With vsock the guest is given a token, which
// its supervisor is told as well.
func (d *Driver) speak(kind string, m *qemu.Machine) (token []byte, err error) {
	if kind == controlSerial {
		m.Channels = append(m.Channels, channel)
		m.Args = append(m.Args, "-device", "virtio-serial-device", "-device", "virtserialport,chardev="+channel+",name="+wire.Port)
		return nil, nil
	}
	token = make([]byte, wire.TokenSize)
	_, _ = rand.Read(token) // it never fails
	if m.Vsock = d.cfg.VsockDevice; m.Vsock == "" {
		m.Vsock = qemu.VsockDevice
	}
	m.Args = append(m.Args, "-device", vsockDevice+",guest-cid=@cid@,vhostfd=@#vsock@")
	for i := range m.Files {
		if m.Files[i].Name == initramfsFile {
			m.Files[i].Tail, err = tokenArchive(token)
		}
	}
	return token, err
}

// tokenArchive is what the kernel unpacks after an initramfs.
func tokenArchive(token []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	c := &cpio{out: z}
	c.add(wire.TokenFile, 0o100400, token, 0, 0)
	err := errors.Join(c.close(), z.Close())
	return out.Bytes(), err
}

// reach is the supervisor's end of the control channel: the port, or by vsock a
// connection to the guest that is tried until the guest listens. Gone is closed when
// the machine has ended.
func reach(r *qemu.Running, o order, gone <-chan struct{}, dial func(ctx context.Context, cid, port uint32, token []byte) (wire.Vsock, error)) error {
	if r.Vsock == nil {
		return nil
	}
	defer r.Vsock.Release()
	late := fmt.Errorf("not within %v", o.Boot)
	ctx, cancel := context.WithTimeoutCause(context.Background(), o.Boot, late)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-gone:
			end(errors.New("its machine ended"))
		case <-over:
		}
	}()
	conn, err := dial(ctx, r.Vsock.CID, wire.VsockPort, o.Token)
	if err != nil {
		return err
	}
	r.Channels[channel] = conn
	return nil
}
