package runner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// spying sees the specs that a driver is given.
type spying struct {
	runner.Driver
	spec chan runner.Spec
}

func (s spying) Start(ctx context.Context, spec runner.Spec) (runner.Handle, error) {
	s.spec <- spec
	return s.Driver.Start(ctx, spec)
}

func (b *bed) secret(dir string, open func(context.Context, placement.TaskID, *placement.Job) (map[string][]byte, error)) (chan runner.Spec, func(*runner.Want)) {
	specs := make(chan runner.Spec, 8)
	b.change = func(c *runner.Config) {
		c.Secrets, c.SecretsDir = open, dir
		c.Drivers = map[string]runner.Driver{"fake": spying{b.world.Driver(), specs}}
	}
	return specs, func(w *runner.Want) {
		w.Job.Spec.Setup = &placement.Setup{Secrets: map[string]string{"PASSWORD": "sealed:v1:xyz"}}
	}
}

func TestSecretsAreThereWhileTheTaskRunsAndNoLonger(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	run(t, func(b *bed) {
		specs, with := b.secret(dir, func(context.Context, placement.TaskID, *placement.Job) (map[string][]byte, error) {
			return map[string][]byte{"PASSWORD": []byte("hunter2")}, nil
		})
		b.agent()
		id := b.region.assign(0, with, "sleep")
		synctest.Wait()
		spec := <-specs
		if len(spec.Setup.Secrets) != 0 {
			b.Errorf("the driver is told %v", spec.Setup.Secrets)
		}
		path := filepath.Join(spec.SecretsDir, "PASSWORD")
		got, err := os.ReadFile(path)
		if err != nil || string(got) != "hunter2" || !strings.HasPrefix(path, dir+"/") {
			b.Errorf("%s holds %q, %v", path, got, err)
		}
		for p, want := range map[string]os.FileMode{spec.SecretsDir: 0o700, path: 0o400} {
			if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
				b.Errorf("%s: %v, %v", p, info, err)
			}
		}
		b.kill()
		if err := os.MkdirAll(filepath.Join(dir, "a task that is gone"), 0o700); err != nil {
			b.Fatal(err)
		}
		b.agent()
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			b.Errorf("an agent that comes back leaves %v", entries)
		}
		b.world.Finish(id, 0)
		synctest.Wait()
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			b.Errorf("after the end: %v", err)
		}
	})
}

func TestATaskWhoseSecretsCannotBeHadIsNotStarted(t *testing.T) {
	for name, open := range map[string]func(context.Context, placement.TaskID, *placement.Job) (map[string][]byte, error){
		"cannot be opened": func(context.Context, placement.TaskID, *placement.Job) (map[string][]byte, error) {
			return nil, errors.New("cannot be opened")
		},
		"no directory in memory": nil,
	} {
		dir := t.TempDir()
		run(t, func(b *bed) {
			_, with := b.secret(dir, open)
			b.agent()
			id := b.region.assign(0, with, "sleep")
			synctest.Wait()
			if s := b.status(id); s.Status != placement.TaskFailed || !strings.Contains(s.Reason, name) {
				b.Errorf("%s: it is %s: %s", name, s.Status, s.Reason)
			}
			b.runs()
		})
	}
}
