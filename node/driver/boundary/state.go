//go:build linux

package boundary

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/claims"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Net is the network of one task.
type Net struct {
	Task placement.TaskID `json:"task"`
	// Path is the file of the namespace, for setns(2).
	Path   string `json:"path"`
	Policy Policy `json:"policy"`
	// Veth is the device on the node's side, Guest4 and Guest6 the task's own
	// addresses and Host4 and Host6 the node's; all empty if the task may reach nothing.
	Veth   string     `json:"veth,omitempty"`
	Host4  netip.Addr `json:"host4,omitzero"`
	Guest4 netip.Addr `json:"guest4,omitzero"`
	Host6  netip.Addr `json:"host6,omitzero"`
	Guest6 netip.Addr `json:"guest6,omitzero"`
	// Tap is the device of a machine in the namespace, at [MachineAddress]; empty if
	// the task is no machine.
	Tap string `json:"tap,omitempty"`
}

// state is what is known of a task's network, kept until it is forgotten.
type state struct {
	Net
	in   string    // the directory it was read from
	Made time.Time `json:"made"`
	// Ready: it was finished. What is there without is of a start that was cut off.
	Ready bool `json:"ready,omitempty"`
	// Renewing: its list is being replaced, and which one stands is not known.
	Renewing bool `json:"renewing,omitempty"`
	// Forwarding are devices of the node that began to forward for a task's sake.
	Forwarding []string `json:"forwarding,omitempty"`
	// Over: the namespace was removed, and what was counted is all there ever was.
	Over bool `json:"over,omitempty"`
	// What the rules inside refused, and what those on the node did.
	Inside  []runner.Denial `json:"inside,omitempty"`
	Outside []runner.Denial `json:"outside,omitempty"`
	// Earlier is what rules refused that stand no more: the list was renewed. It has
	// the connections to services too that nobody took.
	Earlier []runner.Denial `json:"earlier,omitempty"`
}

// name is the task's in file names, the same for ever.
func name(task placement.TaskID) string {
	sum := sha256.Sum256([]byte(task))
	return hex.EncodeToString(sum[:8])
}

func (b *Boundary) statePath(task placement.TaskID) string {
	return filepath.Join(b.cfg.Dir, name(task)+".json")
}

func (b *Boundary) nsPath(task placement.TaskID) string {
	return filepath.Join(b.cfg.Dir, name(task)+".net")
}

// maxState bounds a state file in bytes: two lists of destinations, and a policy.
const maxState = 4 << 20

// load reads a task's state; fs.ErrNotExist if there is none.
func load(path string) (state, error) {
	var s state
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// save replaces the state in one step, also for a machine that loses its power:
// what was made for a task is found again by it alone.
func (b *Boundary) save(s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := b.statePath(s.Task)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// lock is held while a task's state is read, changed and written: by this
// agent's goroutines, and by the supervisors that have a part in it. The wait for
// one that has it is bounded, and not the wait in a queue that goes on.
func (b *Boundary) lock() (unlock func(), err error) {
	if err := b.awaitTurn(); err != nil {
		return nil, err
	}
	free, err := claims.Lock(b.cfg.Dir, claims.Patience)
	if err != nil {
		<-b.turn
		return nil, fmt.Errorf("lock the networks of tasks: %w", err)
	}
	return func() {
		free()
		now := time.Now()
		b.handed.Store(&now)
		<-b.turn
	}, nil
}

// awaitTurn waits until nobody else of this agent has the turn. Turns of those who
// did not get the lock between processes are none: nothing went on by them.
func (b *Boundary) awaitTurn() error {
	timer := time.NewTimer(claims.Patience)
	defer timer.Stop()
	for {
		select {
		case b.turn <- struct{}{}:
			return nil
		case <-timer.C:
		}
		left := time.Duration(0)
		if handed := b.handed.Load(); handed != nil {
			left = claims.Patience - time.Since(*handed)
		}
		if left <= 0 {
			return fmt.Errorf("lock the networks of tasks: whoever changes another task's network of this agent has not finished for more than %s", claims.Patience)
		}
		timer.Reset(left)
	}
}

// List is every network that is there, known to the caller or not.
func (b *Boundary) List() ([]Net, error) {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the networks of tasks: %w", err)
	}
	var all []Net
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		s, err := load(filepath.Join(b.cfg.Dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) || (err == nil && s.Over) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s.Net)
	}
	return all, nil
}

// mounted reports whether the file is a namespace: after a boot it is not.
func mounted(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
