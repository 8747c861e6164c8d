//go:build linux

package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// deaf is a guest's agent which hangs up on so many questions how a command does.
type deaf struct {
	mu    sync.Mutex
	times int  // guarded by mu
	ended bool // guarded by mu; it was told to kill the command
}

func (a *deaf) serve(c net.Conn) {
	defer c.Close()
	for in := bufio.NewScanner(c); in.Scan(); {
		var q struct {
			Execute   string
			Arguments struct {
				ID   int64
				Path string
			}
		}
		if json.Unmarshal(bytes.TrimLeft(in.Bytes(), "\xff"), &q) != nil {
			continue
		}
		a.mu.Lock()
		switch {
		case q.Execute == "guest-sync-delimited":
			fmt.Fprintf(c, "\xff"+`{"return": %d}`+"\n", q.Arguments.ID)
		case q.Execute == "guest-exec":
			a.ended = a.ended || q.Arguments.Path == "/bin/kill"
			fmt.Fprintln(c, `{"return": {"pid": 7}}`)
		case a.times > 0:
			a.times--
			_ = c.Close()
		default:
			fmt.Fprintln(c, `{"return": {"exited": true, "exitcode": 3}}`)
		}
		a.mu.Unlock()
	}
}

// A question that is lost is asked again; a command of which nobody says more, for
// its machine is over, is ended as far as that goes.
func TestALostAnswerIsAskedForAgain(t *testing.T) {
	for name, times := range map[string]int{"twice deaf": 2, "always deaf": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, t.TempDir(), nil)
			h := leftByReboot(t, d, testJob.Task(45, 1), nil)
			a := &deaf{times: times}
			l, err := process.ListenUnix(filepath.Join(d.TaskDir(h.Task), qemu.Home), agentSocket)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					a.serve(c)
				}
			})
			t.Cleanup(func() { _ = l.Close(); wg.Wait() })
			if times == 2 {
				runsAgain(t, d, h.Task)
			}
			exit, err := d.Exec(t.Context(), h, runner.ExecRequest{Command: []string{"true"}})
			a.mu.Lock()
			defer a.mu.Unlock()
			if times == 2 && (err != nil || exit.Code != 3 || a.ended) {
				t.Errorf("it ends with %+v, %v", exit, err)
			}
			if times > 2 && (err == nil || !a.ended) {
				t.Errorf("nobody hears of it any more: %+v, %v; told to end it: %v", exit, err, a.ended)
			}
		})
	}
}

// runsAgain makes this process the supervisor of a task that is laid out.
func runsAgain(t *testing.T, d *Driver, id placement.TaskID) {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	claim := fmt.Sprintf(`{"pid":%d,"start":%s,"boot":%q}`, os.Getpid(), fields[19], strings.TrimSpace(string(boot)))
	if err := os.WriteFile(filepath.Join(d.TaskDir(id), "claim"), []byte(claim), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err := d.Driver.Recover(t.Context(), runner.Handle{Task: id}); err != nil || o.State != runner.StateRunning {
		t.Fatalf("it is %s, %v", o.State, err)
	}
}

// executed runs commands by the agent of a whole guest.
func executed(ctx context.Context, t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	var out, problems bytes.Buffer
	exit, err := d.Exec(ctx, h, runner.ExecRequest{Command: []string{"sh", "-c", `cat; echo "$WORD"; echo oh >&2; exit 3`},
		Env: map[string]string{"WORD": "bonjour"}, Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &problems})
	if err != nil || exit.Code != 3 || out.String() != "in\nbonjour\n" || problems.String() != "oh\n" {
		t.Errorf("%+v, %v, %q, %q", exit, err, out.String(), problems.String())
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := d.Exec(short, h, runner.ExecRequest{Command: []string{"sleep", "4321"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("given up, it gives %v", err)
	}
	out.Reset()
	for ctx.Err() == nil { // the command ends with whoever waited for it
		exit, err = d.Exec(ctx, h, runner.ExecRequest{Command: []string{"pgrep", "-f", "^sleep 4321"}, Stdout: &out})
		if err != nil || exit.Code == 1 {
			break
		}
		pause(ctx, 200*time.Millisecond)
	}
	if err != nil || exit.Code != 1 {
		t.Errorf("it goes on: %+v, %v", exit, err)
	}
	for name, req := range map[string]runner.ExecRequest{
		"a terminal": {Command: []string{"sh"}, TTY: true}, "no program": {Command: []string{"/no/such/program"}},
		"too much to read": {Command: []string{"cat"}, Stdin: bytes.NewReader(make([]byte, mostInput+1))},
	} {
		var refused *runner.StartError
		if _, err := d.Exec(ctx, h, req); !errors.As(err, &refused) || refused.Advice == "" {
			t.Errorf("%s gives %v", name, err)
		}
	}
}
