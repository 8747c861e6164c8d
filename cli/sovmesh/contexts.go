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
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
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

// addContexts writes entries under their names. What somebody else wrote is
// left alone and returned: the caller says so.
func addContexts(path string, add map[string]target) (left []string, err error) {
	c, err := readContexts(path)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(add)) {
		if old, ok := c.Contexts[name]; ok && (old.Owner == "" || old.Owner != add[name].Owner) {
			left = append(left, name)
			continue
		}
		c.Contexts[name] = add[name]
	}
	return left, writeContexts(path, c)
}

// removeContexts removes the entries of an owner.
func removeContexts(path, owner string) error {
	c, err := readContexts(path)
	if err != nil {
		return err
	}
	before := len(c.Contexts)
	maps.DeleteFunc(c.Contexts, func(_ string, t target) bool { return owner != "" && t.Owner == owner })
	if len(c.Contexts) == before {
		return nil
	}
	return writeContexts(path, c)
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
