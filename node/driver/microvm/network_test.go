//go:build linux

package microvm

import (
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/boundary/boundarytest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// TestAMachineIsHeldToItsList: on one boot, what the command reaches from its
// first instant, what it is refused, and that this is counted after its end too.
func TestAMachineIsHeldToItsList(t *testing.T) {
	needMachine(t)
	w := boundarytest.New(t)
	w.Serve(t, boundarytest.Far+":80", "far")
	w.Serve(t, boundarytest.Far+":81", "far")
	dir := t.TempDir()
	networks := filepath.Join(dir, "networks")
	d := newDriver(t, dir, func(c *Config) { c.Hold.Network = w.Boundary(t, networks) })
	s := spec(t, 40, "each", "dial 192.0.2.2:80", "dial 192.0.2.2:81", "dial 192.0.2.3:80", "dial 192.0.2.1:7443", "dial 198.19.0.1:5432")
	s.Connect = boundarytest.Service
	s.Setup = &placement.Setup{Network: &placement.Network{Allow: []string{boundarytest.Far + ":80", boundarytest.Node, "service:db"}}}
	h, err := start(t, d, s)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := d.Inspect(t.Context(), h); err == nil { // it may have ended already
		i := slices.IndexFunc(a.Boundary, func(b runner.Boundary) bool { return b.What == "network" })
		if b := a.Boundary[i]; !b.Holds || !strings.Contains(b.How, "192.0.2.2:80") {
			t.Errorf("%+v", b)
		}
	}
	exit, err := d.Wait(t.Context(), h)
	var text string
	if r, err := d.Logs(t.Context(), h, 0, true); err == nil {
		data, _ := io.ReadAll(r)
		_ = r.Close()
		text = string(data)
	}
	parts := strings.Split(text, "== ")
	if err != nil || exit.Code != 0 || len(parts) != 6 || strings.Contains(parts[1], "error") || strings.Contains(parts[5], "error") || strings.Count(text, "refused") != 3 {
		t.Fatalf("%+v, %v:\n%s", exit, err, text)
	}
	all, err := d.Denied(t.Context(), h)
	for _, at := range []string{"192.0.2.2:81/tcp", "192.0.2.3:80/tcp", "192.0.2.1:7443/tcp"} {
		if !slices.ContainsFunc(all, func(x runner.Denial) bool { return x.Destination == at && x.Packets > 0 }) {
			t.Errorf("%s is not counted: %+v, %v", at, all, err)
		}
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(networks, "*")); len(left) > 0 || len(w.Devices(t)) > 0 {
		t.Errorf("left: %v %v", left, w.Devices(t))
	}
}

func TestAListThatCannotBeHeldToIsNoStart(t *testing.T) {
	needMachine(t)
	d := newDriver(t, t.TempDir(), nil)
	s := spec(t, 41, "sleep")
	s.Setup = &placement.Setup{Network: &placement.Network{Allow: []string{boundarytest.Far}}}
	var refused *runner.StartError
	if _, err := start(t, d, s); !errors.As(err, &refused) || refused.Advice == "" {
		t.Errorf("%v", err)
	}
}
