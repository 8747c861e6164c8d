//go:build linux

package qemu

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProbeVsockSaysWhatIsMissing(t *testing.T) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("this kernel has no vsock: %v", err)
	}
	_ = unix.Close(fd)
	device := filepath.Join(t.TempDir(), "vhost-vsock")
	if err := ProbeVsock(device); err == nil || !strings.Contains(err.Error(), device) {
		t.Errorf("without the device: %v", err)
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ProbeVsock(device); err != nil {
		t.Errorf("with it: %v", err)
	}
	if v, err := openVsock(device); err == nil {
		t.Errorf("a file gives the CID %d", v.CID)
	}
}

func TestNoTwoMachinesHaveOneCID(t *testing.T) {
	taken := map[uint64]bool{}
	draws := 0
	set := func(cid uint64) error {
		if draws++; draws%3 != 0 || taken[cid] { // two of three draws are another machine's
			return unix.EADDRINUSE
		}
		taken[cid] = true
		return nil
	}
	for range 100 {
		cid, err := drawCID(set)
		if err != nil || !taken[uint64(cid)] || cid < firstCID {
			t.Fatalf("CID %d, %v", cid, err)
		}
	}
	if len(taken) != 100 || draws != 300 {
		t.Errorf("%d machines have CIDs after %d draws", len(taken), draws)
	}
	for want, most := range map[unix.Errno]int{unix.EADDRINUSE: mostDraws, unix.EPERM: 1} {
		draws = 0
		if _, err := drawCID(func(uint64) error { draws++; return want }); !errors.Is(err, want) || draws != most {
			t.Errorf("%v: %v after %d draws", want, err, draws)
		}
	}
}

func TestArgvNamesTheCIDAndItsDescriptor(t *testing.T) {
	m := Machine{Binary: "qemu", Type: "microvm", Args: []string{"-device", "vhost-vsock-device,guest-cid=@cid@,vhostfd=@#vsock@"}}
	got := strings.Join(m.argv("x", map[string]int{vsockFile: 7}, map[string]int{"console": 4, "monitor": 5}, 123456), " ")
	if !strings.HasSuffix(got, "-device vhost-vsock-device,guest-cid=123456,vhostfd=7") {
		t.Error(got)
	}
}

func TestFileWithATail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("shared "), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := File{Path: path, Tail: []byte("own")}.open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != "shared own" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "shared " {
		t.Errorf("what is shared became %q, %v", got, err)
	}
}
