package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Result is what one run of the command line gave.
type Result struct {
	Exit           int
	Stdout, Stderr string
}

// environment is that of every process of the world: nothing of a person's own
// contexts or tokens.
func (w *World) environment(more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.Dir, "XDG_CONFIG_HOME=" + filepath.Join(w.Dir, "config"), "TMPDIR=" + w.Dir,
	}, more...)
}

// Command runs the real command line, with the given variables beside the
// world's own, and input as its standard input. An exit code that is not zero
// is no error of this function.
func (w *World) Command(ctx context.Context, variables []string, input string, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, w.Program, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = w.Dir, w.environment(variables...), strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	res := Result{Exit: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errs.String()}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return res, fmt.Errorf("sovmesh %s: %w", strings.Join(args, " "), errors.Join(err, ctx.Err()))
	}
	return res, nil
}

// ask runs a command that must succeed and decodes its JSON document.
func (w *World) ask(ctx context.Context, variables []string, into any, args ...string) error {
	res, err := w.Command(ctx, variables, "", append(args, "--json")...)
	if err != nil {
		return err
	}
	if res.Exit != 0 {
		return fmt.Errorf("sovmesh %s: exit %d: %s", strings.Join(args, " "), res.Exit, strings.TrimSpace(res.Stderr))
	}
	if err := json.Unmarshal([]byte(res.Stdout), into); err != nil {
		return fmt.Errorf("sovmesh %s: %w in %q", strings.Join(args, " "), err, res.Stdout)
	}
	return nil
}
