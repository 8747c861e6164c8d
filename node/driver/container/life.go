//go:build linux

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/sovmesh/sovmesh/node/driver/keep"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Start decides what the container is made from and gives the task its
// supervisor, which does the rest.
func (d *Driver) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	f, err := d.known(ctx)
	if err != nil {
		return runner.Handle{}, startError(s.Task, err)
	}
	img, err := d.image(ctx, &s)
	if err != nil {
		return runner.Handle{}, d.imageError(ctx, &s, err)
	}
	t, err := d.plan(&s, f, img)
	if err != nil {
		return runner.Handle{}, err
	}
	data, err := json.Marshal(handleData{
		Engine: f.Name + " " + f.ID, Container: t.Name, Image: img.ID, Digest: img.Digest, Generation: t.Config.Labels[labelSpec],
	})
	if err != nil {
		return runner.Handle{}, err
	}
	if err := d.gateCommand(ctx, t); err != nil {
		return runner.Handle{}, startError(s.Task, err)
	}
	h, err := d.StartWork(ctx, s, process.Order{Told: t, Data: data, Fill: t.Net.fill})
	if err != nil && !errors.As(err, new(*runner.ExistsError)) {
		d.forgetEngine()
		d.images.lost()
	}
	return h, err
}

// forgetEngine makes the next start ask the engine anew what it is.
func (d *Driver) forgetEngine() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.facts = nil
}

// Recover reads what the task's directory says, and adds what is known of its container.
func (d *Driver) Recover(ctx context.Context, h runner.Handle) (runner.Observed, error) {
	o, err := d.Driver.Recover(ctx, h)
	if err == nil {
		d.describe(&o)
	}
	return o, err
}

// describe adds to what a directory tells of a task.
func (d *Driver) describe(o *runner.Observed) {
	delete(o.Facts, "pid") // a supervisor's, if any
	delete(o.Facts, "cgroups")
	m, err := d.made(o.Handle.Task)
	if err != nil {
		return
	}
	o.Facts["engine"], o.Facts["container"], o.Facts["image"] = m.Engine, m.ID, m.Image.ID
	o.Facts["image_digest"] = m.Image.Digest
	if m.PID > 0 && o.State == runner.StateRunning {
		o.Facts["pid"] = fmt.Sprint(m.PID)
	}
	if data, err := os.ReadFile(filepath.Join(d.TaskDir(o.Handle.Task), healthFile)); err == nil {
		o.Facts["health"] = string(data)
	}
}

// made is what the task's supervisor wrote down of its container.
func (d *Driver) made(id placement.TaskID) (made, error) {
	var m made
	data, err := os.ReadFile(filepath.Join(d.TaskDir(id), madeFile))
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, err
}

// List is every task that has a directory, and every container of this agent's
// that has none: those are strays, which Destroy ends. An engine that does not
// answer hides strays alone, so what is known is told together with the error.
func (d *Driver) List(ctx context.Context) ([]runner.Observed, error) {
	all, err := d.Driver.List(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[placement.TaskID]bool, len(all))
	for i := range all {
		have[all[i].Handle.Task] = true
		d.describe(&all[i])
	}
	found, err := d.engine.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", labelInstance+"="+d.cfg.Instance),
	})
	if err != nil {
		return all, fmt.Errorf("list containers: %w", d.unanswered(err))
	}
	for _, c := range found.Items {
		task := placement.TaskID(c.Labels[labelTask])
		if task == "" || have[task] {
			continue
		}
		all = append(all, d.stray(task, c))
	}
	return all, nil
}

// stray is a container of ours whose task nobody knows.
func (d *Driver) stray(task placement.TaskID, c container.Summary) runner.Observed {
	data, _ := json.Marshal(handleData{Container: d.containerName(task), Image: c.ImageID, Digest: c.Labels[labelImage], Generation: c.Labels[labelSpec]})
	o := runner.Observed{
		Handle: runner.Handle{Version: 1, Driver: d.Name(), Task: task, Data: data},
		State:  runner.StateGone, StartedAt: time.Unix(c.Created, 0),
		Facts: map[string]string{"container": c.ID, "stray": "no supervisor of ours knows it"},
	}
	switch c.State {
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		o.State = runner.StateRunning
	case container.StateCreated:
		o.State = runner.StateAbsent
	}
	return o
}

// Stop has the supervisor end the task. What runs without one is removed.
func (d *Driver) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	seen, err := d.Driver.Recover(ctx, h)
	if err != nil {
		return err
	}
	if err := d.Driver.Stop(ctx, h, grace); err != nil {
		return err
	}
	if seen.State == runner.StateGone || seen.State == runner.StateAbsent {
		return d.remove(ctx, h.Task)
	}
	return nil
}

// Destroy ends the task and removes its container, then its directory: as long
// as the engine does not answer, the task is still known.
func (d *Driver) Destroy(ctx context.Context, h runner.Handle) error {
	if _, err := os.Stat(d.TaskDir(h.Task)); err == nil {
		if err := d.Stop(ctx, h, 0); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.remove(ctx, h.Task); err != nil {
		return err
	}
	if err := d.Driver.Destroy(ctx, h); err != nil {
		return err
	}
	keep.Touch(filepath.Dir(d.volume(h.Task.Job(), "v"))) // it was in use until now
	d.collectSometimes(ctx)
	return nil
}

// remove removes a task's container, running or not.
func (d *Driver) remove(ctx context.Context, id placement.TaskID) error {
	for {
		_, err := d.engine.ContainerRemove(ctx, d.containerName(id), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case err == nil || isNotFound(err):
			return nil
		case !isConflict(err): // in the midst of being removed
			return fmt.Errorf("remove the container of task %s: %w", id, d.unanswered(err))
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
