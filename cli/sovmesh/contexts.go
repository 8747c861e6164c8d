package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// target is how one region is reached: a named one stands in contexts.yaml.
type target struct {
	Addr  string `yaml:"addr"`
	Token string `yaml:"token,omitempty"`
	CA    string `yaml:"ca,omitempty"` // path of a PEM file
	// Owner says which program wrote the entry; only that one may replace or
	// remove it. Empty is a person's own.
	Owner string `yaml:"owner,omitempty"`
}

// contexts is the file contexts.yaml:
//
//	contexts:
//	  fra-1: {addr: "https://127.0.0.1:7443", token: sm_..., ca: /path/ca.pem}
type contexts struct {
	Contexts map[string]target `yaml:"contexts"`
}

func (c contexts) names() []string { return slices.Sorted(maps.Keys(c.Contexts)) }

// readContexts reads the file; one that is not there has no contexts.
func readContexts(path string) (contexts, error) {
	c := contexts{Contexts: map[string]target{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, inputFile(err, "make it readable for you alone: chmod 600 "+path)
	}
	v, err := decodeYAML(data, path, "input.context")
	if err != nil {
		return c, err
	}
	r := keyReader{name: path, code: "input.context"}
	r.each(v, "", []string{"contexts"}, func(_ string, v residency.Value) {
		for _, f := range r.mapping(v, "contexts") {
			var t target
			r.each(f.Value, "contexts."+f.Name, []string{"addr", "token", "ca", "owner"}, func(key string, v residency.Value) {
				*map[string]*string{"addr": &t.Addr, "token": &t.Token, "ca": &t.CA, "owner": &t.Owner}[key] = r.text(v, key)
			})
			c.Contexts[f.Name] = t
		}
	})
	return c, r.err()
}

// writeContexts replaces the file in one step; it holds secrets, so it is for
// its owner alone.
func writeContexts(path string, c contexts) error {
	data, err := yaml.MarshalWithOptions(c, yaml.Indent(2))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, data, 0o600)
}

// writeFile replaces a file in one step: readers see the old or the new one.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// changeContexts reads the file, lets change it, and replaces it, while no other
// program does the same: two that start at once would else each write what the
// other had not yet written.
func changeContexts(path string, change func(contexts) (changed bool)) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := readContexts(path)
	if err != nil || !change(c) {
		return err
	}
	if len(c.Contexts) == 0 {
		return os.Remove(path) // nothing of anybody's is left in it
	}
	return writeContexts(path, c)
}

const (
	// lockWithin bounds the wait for another program, which holds the lock for
	// one reading and one writing of a small file.
	lockWithin = 10 * time.Second
	lockAgain  = 5 * time.Millisecond
)

// lockDir keeps other programs of ours from changing what lies in a directory.
// The lock is on the directory itself, so no file of its own is left, and it
// ends with the process, however that ends.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockWithin); ; time.Sleep(lockAgain) {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = d.Close() }, nil // closing unlocks
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
		case time.Now().After(until):
			return nil, errors.Join(fmt.Errorf("another program has held the lock of %s for %s; end it", dir, lockWithin), d.Close())
		}
	}
}

// addContexts writes entries under their names. What somebody else wrote is
// left alone; such an entry gets the first free name that other makes of it, or
// none where other is nil. It returns the names as they stand in the file, by
// the names that were asked for.
func addContexts(path string, add map[string]target, other func(name string, n int) string) (map[string]string, error) {
	added := map[string]string{}
	err := changeContexts(path, func(c contexts) bool {
		free := func(name string, t target) bool {
			old, taken := c.Contexts[name]
			return !taken || old.Owner != "" && old.Owner == t.Owner
		}
		for _, name := range slices.Sorted(maps.Keys(add)) {
			as := name
			for n := 1; other != nil && !free(as, add[name]) && n < 100; n++ {
				as = other(name, n)
			}
			if free(as, add[name]) {
				c.Contexts[as], added[name] = add[name], as
			}
		}
		return len(added) > 0
	})
	return added, err
}

// removeContexts removes the entries of an owner.
func removeContexts(path, owner string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return changeContexts(path, func(c contexts) bool {
		before := len(c.Contexts)
		maps.DeleteFunc(c.Contexts, func(_ string, t target) bool { return owner != "" && t.Owner == owner })
		return len(c.Contexts) != before
	})
}

// find is the context of that name, or an error that says which there are.
func (c contexts) find(name, path string) (target, error) {
	if t, ok := c.Contexts[name]; ok {
		return t, nil
	}
	hint := "there is none yet in " + path + "; give --addr, --token and --ca"
	if all := c.names(); len(all) > 0 {
		hint = "the contexts are: " + strings.Join(all, ", ")
		if near := nearest(name, all); near != "" {
			hint = "did you mean " + near + "? " + hint
		}
	}
	return target{}, &api.InputError{Code: "input.context", Message: "there is no context " + quoteWord(name), Help: hint}
}
