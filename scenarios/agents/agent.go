package agents

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Agent is one node: a directory, a port for UDP and TCP, and a process while
// it runs.
type Agent struct {
	Name   string
	Region string
	Data   string // the node's data directory
	Config string // path of its agent.yaml
	Log    string // path of what it wrote to stdout and stderr, over all its starts
	Addr   string // 127.0.0.1:port, UDP and TCP
	API    string // https://127.0.0.1:port

	world *World

	mu      sync.Mutex
	process *exec.Cmd     // guarded by mu; of the last start
	ended   chan struct{} // guarded by mu; closed when that process is gone
	failure error         // guarded by mu; how it ended
}

// add lays an agent out: a directory and a port, nothing else.
func (w *World) add(region, name string) (*Agent, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(w.Dir, region, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Agent{
		Name: name, Region: region, world: w,
		Data: filepath.Join(dir, "data"), Config: filepath.Join(dir, "agent.yaml"), Log: filepath.Join(dir, "agent.log"),
		Addr: "127.0.0.1:" + strconv.Itoa(port),
	}
	a.API = "https://" + a.Addr
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agents = append(w.agents, a)
	return a, nil
}

// Launch starts the process and does not wait for anything.
func (a *Agent) Launch() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended != nil {
		select {
		case <-a.ended:
		default:
			return fmt.Errorf("agent %s runs already", a.Name)
		}
	}
	log, err := os.OpenFile(a.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(a.world.Program, "agent", "--config", a.Config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = a.world.environment()
	// A world whose owner is killed takes its agents with it.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start agent %s: %w", a.Name, err)
	}
	ended := make(chan struct{})
	a.process, a.ended, a.failure = cmd, ended, nil
	go func() {
		err := cmd.Wait()
		a.mu.Lock()
		a.failure = err
		a.mu.Unlock()
		close(ended)
	}()
	return nil
}

// Start starts the process and returns once it takes requests.
func (a *Agent) Start(ctx context.Context) error {
	if err := a.Launch(); err != nil {
		return err
	}
	return a.Ready(ctx)
}

// Ready returns once the agent takes requests; its end is an error at once.
func (a *Agent) Ready(ctx context.Context) error {
	a.mu.Lock()
	ended := a.ended
	a.mu.Unlock()
	asked, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-ended:
			stop(fmt.Errorf("its process ended: %s", a.LastWords()))
		case <-asked.Done():
		}
	}()
	client := readiness()
	defer client.CloseIdleConnections()
	err := Until(asked, func(ctx context.Context) string { return notReady(ctx, client, a.API) })
	if err != nil {
		return fmt.Errorf("agent %s is not ready: %w", a.Name, err)
	}
	return nil
}

// readiness asks one thing of a node that nobody can verify yet: a region's CA
// is known only after it was founded.
func readiness() *http.Client {
	return &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // #nosec G402: nothing is sent or believed
}

func notReady(ctx context.Context, client *http.Client, base string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
	if err != nil {
		return err.Error()
	}
	res, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "readyz answers " + res.Status
	}
	return ""
}

// PID is the process of the last start, 0 if there was none.
func (a *Agent) PID() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.process == nil {
		return 0
	}
	return a.process.Process.Pid
}

// Kill ends the agent as kill -9 does and returns once its process is gone. It
// is no error if it is gone already.
func (a *Agent) Kill() error { return a.end(context.Background(), unix.SIGKILL) }

// Stop asks the agent to end, as a service manager does, and waits for it.
func (a *Agent) Stop(ctx context.Context) error { return a.end(ctx, unix.SIGTERM) }

func (a *Agent) end(ctx context.Context, sig os.Signal) error {
	a.mu.Lock()
	cmd, ended := a.process, a.ended
	a.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end agent %s: %w", a.Name, err)
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("agent %s does not end: %w", a.Name, ctx.Err())
	}
}

// Exit waits for the process to end by itself and returns its exit code.
func (a *Agent) Exit(ctx context.Context) (int, error) {
	a.mu.Lock()
	cmd, ended := a.process, a.ended
	a.mu.Unlock()
	if cmd == nil {
		return 0, fmt.Errorf("agent %s was never started", a.Name)
	}
	select {
	case <-ended:
		return cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("agent %s still runs: %w", a.Name, ctx.Err())
	}
}

// Output is everything the agent has written.
func (a *Agent) Output() string {
	data, err := os.ReadFile(a.Log)
	if err != nil {
		return ""
	}
	return string(data)
}

// LastWords are the last lines that the agent wrote, for an error.
func (a *Agent) LastWords() string {
	lines := strings.Split(strings.TrimSpace(a.Output()), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], " | ")
}

// Memory is the resident memory of the process in bytes (VmRSS).
func (a *Agent) Memory() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", a.PID())
}

// CPU is the processor time that the process has used since its start, to the
// kernel's tick of 10 ms.
func (a *Agent) CPU() (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.PID()))
	if err != nil {
		return 0, err
	}
	// The program's name, in parentheses, may hold anything; fields 14 and 15
	// of proc_pid_stat(5) are user and system time.
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("process %d has no times", a.PID())
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}
