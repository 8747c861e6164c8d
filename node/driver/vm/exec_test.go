//go:build linux

package vm

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
)

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
