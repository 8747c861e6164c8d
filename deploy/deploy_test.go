// Package deploy checks what stands beside it: the unit file and the program
// that is shipped. The rules and the dashboard are checked in node/metrics.
package deploy

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sizeMax is what a stripped program may have, in bytes.
const sizeMax = 60_000_000

// A static program runs on any Linux: in an empty image, on another C library.
func TestTheStaticProgramIsStaticAndSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the linker takes many seconds")
	}
	out := filepath.Join(t.TempDir(), "sovmesh")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "../cli/sovmesh")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it asks for a dynamic linker")
		}
	}
	if libs, _ := f.ImportedLibraries(); len(libs) != 0 { // a static program has no such section
		t.Errorf("it needs %v", libs)
	}
	if f.Section(".debug_info") != nil || f.Section(".symtab") != nil {
		t.Error("it is not stripped")
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB", float64(info.Size())/1e6)
	if info.Size() > sizeMax {
		t.Errorf("it has %d bytes, more than %d", info.Size(), sizeMax)
	}
}

// unit reads a unit file's settings; one given twice has both values.
func unit(t *testing.T, path string) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = append(settings[key], value)
		}
	}
	return settings
}

// Law 7: healthy work is left alone. Each of these settings ends tasks, or takes
// their cgroups or devices, if it says otherwise.
func TestTheUnitLeavesTasksAlone(t *testing.T) {
	settings := unit(t, "systemd/sovmesh.service")
	for key, want := range map[string]string{
		"KillMode": "process", "OOMPolicy": "continue", "Type": "notify", "TimeoutStartSec": "infinity", "TasksMax": "infinity",
		"Restart": "always", "ExecStart": "/usr/local/bin/sovmesh agent --config /etc/sovmesh/agent.yaml",
	} {
		if got := settings[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %v, want %s", key, got, want)
		}
	}
	for _, key := range []string{
		"ProtectControlGroups", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectClock", "DeviceAllow", "DevicePolicy", "ProtectSystem",
		"ProtectHome", "ProtectKernelLogs", "ProtectKernelModules", "ProtectHostname", "RuntimeMaxSec", "MemoryMax", "MemoryDenyWriteExecute", "NoNewPrivileges",
	} {
		if got, ok := settings[key]; ok {
			t.Errorf("%s is set to %v", key, got)
		}
	}
}

// systemd's own reading of the file, where systemd is.
func TestSystemdAcceptsTheUnit(t *testing.T) {
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze on this machine")
	}
	data, err := os.ReadFile("systemd/sovmesh.service")
	if err != nil {
		t.Fatal(err)
	}
	// It looks for the program, which is not installed here.
	path := filepath.Join(t.TempDir(), "sovmesh.service")
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), "ExecStart=/usr/local/bin/sovmesh", "ExecStart="+os.Args[0], 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(verify, "verify", path).CombinedOutput()
	if err != nil || len(said) != 0 {
		t.Errorf("%v\n%s", err, said)
	}
}
