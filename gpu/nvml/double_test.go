//go:build linux && cgo

package nvml

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/gpu/probe"
	"github.com/sovmesh/sovmesh/placement"
)

// TestMain makes this test program the child that the supervisor starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildCommand {
		os.Exit(Child(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// double builds the stand-in for the driver's library and returns its folder.
func double(t *testing.T, flags ...string) string {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler on this machine to build the double of the driver's library")
	}
	header, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml/pkg/nvml").Output()
	if err != nil {
		t.Skip("the go tool, which says where the binding's header is, does not run here: ", err)
	}
	dir := t.TempDir()
	args := append([]string{"-shared", "-fPIC", "-w", "-fvisibility=hidden", "-I", strings.TrimSpace(string(header)), "-o", filepath.Join(dir, Library), filepath.Join("testdata", "double.c")}, flags...)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("build the double: %v\n%s", err, out)
	}
	return dir
}

// machine is one that has the double for its driver.
type machine struct {
	t      *testing.T
	dir    string // where the double is
	env    []string
	change func(*probe.Config)
	log    lockedBuffer

	mu      sync.Mutex
	updates []gpu.Update // guarded by mu
	end     func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (m *machine) supervisor() *probe.Supervisor {
	m.t.Helper()
	cfg := probe.DefaultConfig()
	cfg.Command = []string{os.Args[0], ChildCommand, "--every", "50ms"}
	cfg.Env = append([]string{"LD_LIBRARY_PATH=" + m.dir}, m.env...)
	cfg.Start, cfg.Silence, cfg.Pause, cfg.PauseMax = 10*time.Second, time.Second, 10*time.Millisecond, 50*time.Millisecond
	cfg.Log = slog.New(slog.NewTextHandler(&m.log, nil))
	if m.change != nil {
		m.change(&cfg)
	}
	s, err := probe.New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *machine) read() (gpu.Reading, error) { return m.supervisor().Read(m.t.Context()) }

func (m *machine) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	s := m.supervisor()
	go func() {
		defer close(over)
		_ = s.Watch(ctx, func(u gpu.Update) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.updates = append(m.updates, u)
		})
	}()
	m.end = func() { cancel(); <-over }
	m.t.Cleanup(m.end)
}

// until waits for an update that is as wanted and comes after the last such.
func (m *machine) until(what string, is func(gpu.Update) bool) gpu.Update {
	m.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		m.mu.Lock()
		for i, u := range m.updates {
			if is(u) {
				m.updates = m.updates[i+1:]
				m.mu.Unlock()
				return u
			}
		}
		m.mu.Unlock()
	}
	m.t.Fatalf("no update: %s; the log says\n%s", what, m.log.String())
	return gpu.Update{}
}

func sound(u gpu.Update) bool {
	return u.Reading != nil && len(u.Reading.Devices) > 0 && !u.Reading.Devices[0].Facts.Lost
}

func down(u gpu.Update) bool { return u.Down != "" }

func text(r gpu.Reading) string {
	var b strings.Builder
	fmt.Fprintf(&b, "driver %s cuda %s missing %d\n", r.DriverVersion, r.CUDA, len(r.Missing))
	for _, d := range r.Devices {
		fmt.Fprintf(&b, "%s %s %s %s %s %s index %d numa %q island %q fabric %q parent %q profile %q cut %v cc %v %+v\n",
			d.UUID, d.Vendor, d.Model, d.Memory, d.Architecture, d.PCI, d.Index, d.NUMA, d.Island, d.Fabric, d.Parent, d.Profile, d.Partitioned, d.Confidential, d.Facts)
	}
	return b.String()
}

func TestEnumerationThroughTheRealChild(t *testing.T) {
	dir, old := double(t), double(t, "-DOLD")
	tests := []struct {
		name string
		dir  string
		env  []string
		want []string
		not  string
	}{
		{"two sound devices", dir, nil, []string{"driver 580.65.06 cuda 13.1 missing 0",
			`GPU-0 nvidia NVIDIA H100 80GB HBM3 81559MiB hopper 00000000:10:00.0 index 0 numa "0" island "" fabric "" parent "" profile "" cut false cc false`,
			`GPU-1 nvidia NVIDIA H100 80GB HBM3 81559MiB hopper 00000000:11:00.0 index 1 numa "1"`}, "Lost:true"},
		{"NVLink pairs", dir, []string{"DOUBLE_GPUS=4", "DOUBLE_LINKS=pair"}, []string{`GPU-1 nvidia NVIDIA H100 80GB HBM3 81559MiB hopper 00000000:11:00.0 index 1 numa "0" island "nvlink-0"`, `GPU-2 nvidia NVIDIA H100 80GB HBM3 81559MiB hopper 00000000:12:00.0 index 2 numa "1" island "nvlink-2"`, "NVLinks:18"}, ""},
		{"NVLink switches", dir, []string{"DOUBLE_GPUS=8", "DOUBLE_LINKS=switch"}, []string{`GPU-7 nvidia NVIDIA H100 80GB HBM3 81559MiB hopper 00000000:17:00.0 index 7 numa "1" island "nvlink-0"`}, "nvlink-1"},
		{"a fabric", dir, []string{"DOUBLE_FABRIC=1"}, []string{`fabric "abababababababababababababababab/7"`}, ""},
		{"MIG instances", dir, []string{"DOUBLE_MIG=7"}, []string{
			`GPU-0 nvidia NVIDIA H100 80GB HBM3 81559MiB hopper 00000000:10:00.0 index 0 numa "0" island "" fabric "" parent "" profile "" cut true`,
			`MIG-6 nvidia NVIDIA H100 80GB HBM3 9984MiB hopper 00000000:10:00.0 index 0 numa "0" island "" fabric "" parent "GPU-0" profile "1g.10gb" cut false`,
			`GPU-1 nvidia NVIDIA H100 80GB HBM3 81559MiB hopper 00000000:11:00.0 index 1 numa "1" island "" fabric "" parent "" profile "" cut false`}, ""},
		{"confidential computing", dir, []string{"DOUBLE_CC=on"}, []string{"cc true"}, "cc false"},
		{"confidential computing with developers' tools is none", dir, []string{"DOUBLE_CC=dev"}, []string{"cc false"}, "cc true"},
		{"a lost device is listed as lost", dir, []string{"DOUBLE_MEMORY=15"}, []string{"GPU-1", "Lost:true"}, ""},
		{"what fails otherwise is said", dir, []string{"DOUBLE_MEMORY=3"}, []string{"Unreadable:its memory: Not Supported"}, "Lost:true"},
		{"remaps and throttling", dir, []string{"DOUBLE_PENDING=1", "DOUBLE_FAILED=1", "DOUBLE_THROTTLE=64"}, []string{"RemapPending:true RemapFailed:true Throttle:64"}, ""},
		{"an old driver lacks most", old, nil, []string{"driver  cuda  missing 3", "GPU-0 nvidia NVIDIA H100 80GB HBM3 81559MiB", `GPU-1`}, "hopper"},
		{"a device that lies about its memory is dropped", dir, []string{"DOUBLE_LIE=memory", "DOUBLE_GPUS=3"}, []string{"GPU-0", "GPU-1"}, "GPU-2"},
		{"devices that share a UUID are dropped", dir, []string{"DOUBLE_LIE=uuid", "DOUBLE_GPUS=3"}, []string{"GPU-0"}, "GPU-1"},
		{"what the driver asks for", dir, []string{"DOUBLE_RECOVERY=4"}, []string{"Recovery:drain-and-reset}"}, ""},
		{"no devices", dir, []string{"DOUBLE_GPUS=0"}, []string{"driver 580.65.06"}, "GPU-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{t: t, dir: tt.dir, env: tt.env}
			r, err := m.read()
			if err != nil {
				t.Fatalf("%v\n%s", err, m.log.String())
			}
			got := text(r)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
			if tt.not != "" && strings.Contains(got, tt.not) {
				t.Errorf("%q in\n%s", tt.not, got)
			}
		})
	}
}

func TestALibraryThatCannotBeUsed(t *testing.T) {
	dir, without := double(t), double(t, "-DNO_UUID")
	for _, tt := range []struct{ name, dir, env, want string }{
		// Without the probe of symbols this child dies of a symbol lookup error.
		{"a missing function is an error, not a death", without, "", "libnvidia-ml.so.1 has no nvmlDeviceGetUUID"},
		{"a driver that is not loaded", dir, "DOUBLE_INIT=9", "Driver Not Loaded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{t: t, dir: tt.dir, env: []string{tt.env}}
			_, err := m.read()
			var f *probe.Failure
			if !errors.As(err, &f) || f.None || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			m.watch()
			if u := m.until("the devices are unknown", down); !strings.Contains(u.Down, tt.want) {
				t.Errorf("down: %s", u.Down)
			}
		})
	}
}

func TestNoLibraryAtAll(t *testing.T) {
	if Present("") {
		t.Skip("this machine has the library")
	}
	m := &machine{t: t, dir: t.TempDir()}
	r, err := m.read()
	if err != nil || len(r.Devices) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// tell appends a line to the file of events.
func tell(t *testing.T, path, line string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
}

func TestXIDsArriveAndADeviceFallsOffTheBus(t *testing.T) {
	events := filepath.Join(t.TempDir(), "events")
	m := &machine{t: t, dir: double(t), env: []string{"DOUBLE_MIG=2", "DOUBLE_GPUS=3", "DOUBLE_EVENTS=" + events}}
	m.watch()
	m.until("a first reading", sound)
	for _, tt := range []struct {
		line, uuid string
		xid        uint64
	}{{"1 63", "GPU-1", 63}, {"0 31 1", "MIG-1", 31}, {"2 79", "GPU-2", 79}} {
		tell(t, events, tt.line)
		u := m.until(tt.line, func(u gpu.Update) bool { return u.Event != nil })
		if u.Event.UUID != tt.uuid || u.Event.XID != tt.xid || time.Since(u.Event.At) > time.Minute {
			t.Errorf("%s gives %+v", tt.line, u.Event)
		}
	}
	u := m.until("a reading with the lost device", func(u gpu.Update) bool {
		return u.Reading != nil && len(u.Reading.Devices) == 5 && u.Reading.Devices[4].Facts.Lost
	})
	if d := u.Reading.Devices[4]; d.UUID != "GPU-2" {
		t.Errorf("lost is %+v", d)
	}
}

func TestSamples(t *testing.T) {
	m := &machine{t: t, dir: double(t), env: []string{"DOUBLE_MIG=1"}}
	m.watch()
	u := m.until("samples", func(u gpu.Update) bool { return len(u.Samples) > 0 })
	if len(u.Samples) != 3 {
		t.Fatalf("%d samples", len(u.Samples))
	}
	s, mig := u.Samples[0], u.Samples[1]
	if *s.Utilization != 37 || *s.MemoryBusy != 12 || *s.Power != 412345 || *s.Energy != 123456789 || *s.Temperature != 54 || *s.ClockSM != 1980 ||
		*s.MemoryTotal != int64(81559*placement.MiB) || *s.MemoryUsed != *s.MemoryTotal/4 || *s.Throttle != 1 || s.PCIeReplays != nil {
		t.Errorf("sample %+v", s)
	}
	if mig.UUID != "MIG-0" || mig.Utilization != nil || mig.MemoryUsed == nil {
		t.Errorf("sample of an instance %+v", mig)
	}
}

// What GPUs can be cut into, what their links count, and what the driver wants
// when it says that it wants something else.
func TestWhatIsPossibleAndWhatIsAskedFor(t *testing.T) {
	events := filepath.Join(t.TempDir(), "events")
	m := &machine{t: t, dir: double(t), env: []string{"DOUBLE_MIG=1", "DOUBLE_LINKS=pair", "DOUBLE_RECOVERY=2", "DOUBLE_EVENTS=" + events}}
	m.watch()
	u := m.until("a first reading", sound)
	for _, d := range u.Reading.Devices {
		want := "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb"
		if d.Parent != "" {
			want = ""
		}
		if got := strings.Join(d.Profiles, " "); got != want {
			t.Errorf("%s can be cut into %q, want %q", d.UUID, got, want)
		}
	}
	u = m.until("samples", func(u gpu.Update) bool { return len(u.Samples) > 0 })
	if n := u.Samples[0].LinkErrors; n == nil || *n != 18 {
		t.Errorf("errors of links: %v", n)
	}
	tell(t, events, "1 154")
	if u := m.until("an XID", func(u gpu.Update) bool { return u.Event != nil }); u.Event.Recovery != gpu.RecoverReboot {
		t.Errorf("it asks for %q", u.Event.Recovery)
	}
	for action, want := range []gpu.Recovery{gpu.RecoverNone, gpu.RecoverReset, gpu.RecoverReboot, gpu.RecoverDrainP2P, gpu.RecoverDrain, gpu.RecoverFabric, gpu.RecoverReset, gpu.RecoverReboot, gpu.RecoverReset} {
		if got := recoveryOf(uint32(action)); got != want {
			t.Errorf("action %d is %s", action, got)
		}
	}
}

// A device whose handle fails for a while, a mode that cannot be asked and an
// instance without a name stay in every reading, with what failed.
func TestWhatCannotBeReadForAWhileIsStillListed(t *testing.T) {
	shut, blind := filepath.Join(t.TempDir(), "shut"), filepath.Join(t.TempDir(), "blind")
	failing := func(n int, id, what string) func(gpu.Update) bool {
		return func(u gpu.Update) bool {
			if u.Reading == nil || len(u.Reading.Devices) != n {
				return false
			}
			for _, d := range u.Reading.Devices {
				if d.UUID == id {
					return strings.Contains(d.Facts.Unreadable, what) && !d.Facts.Lost
				}
			}
			return false
		}
	}
	lib := double(t)
	m := &machine{t: t, dir: lib, env: []string{"DOUBLE_GPUS=3", "DOUBLE_SHUT=" + shut}}
	m.watch()
	m.until("a first reading", sound)
	tell(t, shut, "")
	m.until("a device without a handle is listed", failing(3, "GPU-2", "its handle"))
	m.end()
	// A child that never saw it open cannot say which it is, and says so.
	if r, err := m.read(); err != nil || len(r.Devices) != 2 || !strings.Contains(strings.Join(r.Missing, ";"), "devices that cannot be opened: 2") {
		t.Errorf("%v %v", text(r), err)
	}

	m = &machine{t: t, dir: lib, env: []string{"DOUBLE_MIG=2", "DOUBLE_BLIND=" + blind}}
	m.watch()
	m.until("a first reading", sound)
	tell(t, blind, "")
	m.until("a GPU whose mode cannot be asked says so", failing(2, "GPU-0", "its MIG mode"))
	m.end()
	if err := os.Remove(blind); err != nil {
		t.Fatal(err)
	}
	m = &machine{t: t, dir: lib, env: []string{"DOUBLE_MIG=1", "DOUBLE_BLIND=" + blind}}
	m.watch()
	m.until("a first reading", sound)
	tell(t, blind, "")
	m.until("an instance without a name is listed", failing(3, "MIG-0", "its UUID"))
}

func TestADriverThatHangsTakesNothingDown(t *testing.T) {
	hang := filepath.Join(t.TempDir(), "hang")
	m := &machine{t: t, dir: double(t), env: []string{"DOUBLE_HANG=" + hang}}
	m.watch()
	m.until("a first reading", sound)
	tell(t, hang, "")
	if u := m.until("the devices are unknown", down); !strings.Contains(u.Down, "did not answer within 1s") {
		t.Errorf("down: %s", u.Down)
	}
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	m.until("a reading after the hang", sound)
}

func TestADriverThatCrashesTakesNothingDown(t *testing.T) {
	crash := filepath.Join(t.TempDir(), "crash")
	m := &machine{t: t, dir: double(t), env: []string{"DOUBLE_CRASH=" + crash}}
	m.watch()
	m.until("a first reading", sound)
	tell(t, crash, "")
	if u := m.until("a crash is said", func(u gpu.Update) bool { return u.Reading != nil || down(u) }); u.Down != "" {
		t.Errorf("down: %s", u.Down)
	}
	if err := os.Remove(crash); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.updates = nil
	m.mu.Unlock()
	m.until("a reading after the crash", sound)
	if said := m.log.String(); !strings.Contains(said, "aborted") && !strings.Contains(said, "SIGABRT") {
		t.Errorf("the log does not say that it crashed:\n%s", said)
	}
}

// The child must not outlive its agent, even from within a call that hangs.
func TestTheChildEndsWithItsAgent(t *testing.T) {
	hang := filepath.Join(t.TempDir(), "hang")
	tell(t, hang, "")
	child := exec.Command(os.Args[0], ChildCommand, "--every", "20ms")
	child.Env = append(os.Environ(), "LD_LIBRARY_PATH="+double(t), "DOUBLE_HANG="+hang)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- child.Wait() }()
	_ = in.Close()
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		_ = child.Process.Kill()
		t.Error("it lives on")
	}
}

// On a machine with a driver this reads the real devices through the child, and
// names what that driver lacks.
func TestTheDriverOfThisMachine(t *testing.T) {
	if !Present(os.Getenv("LD_LIBRARY_PATH")) {
		t.Skip("no " + Library + " on this machine: the double stands in for it in the other tests")
	}
	m := &machine{t: t, dir: os.Getenv("LD_LIBRARY_PATH")}
	r, err := m.read()
	if err != nil {
		t.Skipf("this machine's NVML cannot be used: %v", err)
	}
	t.Logf("driver %s, CUDA %s, missing: %s", r.DriverVersion, r.CUDA, strings.Join(r.Missing, "; "))
	tracker := gpu.NewTracker(gpu.Memory{})
	tracker.Read(r, time.Now())
	if err := gpu.Check(tracker.Devices()); err != nil {
		t.Errorf("the driver's own devices are not accepted: %v", err)
	}
	for _, d := range r.Devices {
		if d.Simulated || d.Memory == 0 || d.PCI == "" || d.Architecture == "" {
			t.Errorf("real device %+v", d)
		}
		t.Logf("%+v", d)
	}
	if len(r.Devices) == 0 {
		return
	}
	m.watch()
	u := m.until("samples", func(u gpu.Update) bool { return len(u.Samples) > 0 })
	if u.Samples[0].MemoryTotal == nil || u.Samples[0].Power == nil {
		t.Errorf("real sample %+v", u.Samples[0])
	}
}
