//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/boundary/boundarytest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// TestAMachineIsHeldToItsList: on one boot, what its guest reaches and what it is
// refused, what of that is counted and told, how it is reached, and what is left.
func TestAMachineIsHeldToItsList(t *testing.T) {
	w := boundarytest.New(t)
	w.Serve(t, boundarytest.Far+":80", "far")
	w.Serve(t, boundarytest.Far+":81", "far")
	w.Serve(t, boundarytest.Node+":7443", "the node's door")
	images, dir := smallGuest(t), t.TempDir()
	networks := filepath.Join(dir, "networks")
	agent := func() *Driver {
		return newDriver(t, dir, func(c *Config) { c.ImageDirs, c.Hold.Network = []string{images}, w.Boundary(t, networks) })
	}
	d := agent()
	open, err := net.Listen("tcp4", "127.0.0.1:0") // a port that is free, most likely
	if err != nil {
		t.Fatal(err)
	}
	host := open.Addr().(*net.TCPAddr).Port
	_ = open.Close()
	h := start(t, d, spec(21, "serve held 192.0.2.2:80 192.0.2.2:81 192.0.2.3:80 192.0.2.1:7443 198.18.0.1:22 198.19.0.1:80", func(s *runner.Spec) {
		s.Setup.Network = &placement.Network{Allow: []string{boundarytest.Far + ":80", boundarytest.Node, "service:db"}}
		s.Connect = boundarytest.Service
		s.Setup.Ports = []placement.Port{{Port: 7, Host: host}}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	awaits(t, d, h, "serving\n")
	text := printed(t, d, h)
	if strings.Count(text, "reached") != 2 || !strings.Contains(text, "reached 192.0.2.2:80") || !strings.Contains(text, "reached 198.19.0.1:80") || strings.Count(text, "at once no") != 4 {
		t.Errorf("the guest says:\n%s", text)
	}
	d = agent() // the agent comes back
	all, err := d.Denied(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"192.0.2.2:81/tcp", "192.0.2.3:80/tcp", "192.0.2.1:7443/tcp", "198.18.0.1:22/tcp"} {
		if !slices.ContainsFunc(all, func(x runner.Denial) bool { return x.Destination == at && x.Packets > 0 }) {
			t.Errorf("%s is not counted: %+v", at, all)
		}
	}
	if err := echo(ctx, d, h); err != nil {
		t.Errorf("a port by the mesh: %v", err)
	}
	if err := echoAt(fmt.Sprintf("127.0.0.1:%d", host)); err != nil {
		t.Errorf("a port on the node: %v", err)
	}
	a, err := d.Inspect(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(a.Boundary, func(b runner.Boundary) bool { return b.What == "network" })
	if b := a.Boundary[i]; !b.Holds || !strings.Contains(b.How, "192.0.2.2:80") || !strings.Contains(b.How, "refused") {
		t.Errorf("%+v", b)
	}
	// Whoever takes QEMU over is where the guest was.
	mine, err := os.Readlink("/proc/self/ns/net")
	its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", d.PID(h.Task)))
	if err != nil || err2 != nil || mine == its {
		t.Errorf("QEMU runs in the network %s, the test in %s: %v, %v", its, mine, err, err2)
	}
	if err := d.Destroy(ctx, h); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(networks, "*")); len(left) > 0 || len(w.Devices(t)) > 0 {
		t.Errorf("left: %v %v", left, w.Devices(t))
	}
}

// echoAt is [echo] at an address.
func echoAt(address string) error {
	c, err := net.DialTimeout("tcp4", address, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	word := []byte("bonjour")
	if _, err := c.Write(word); err != nil {
		return err
	}
	got := bytes.Clone(word)
	clear(got)
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, word) {
		return fmt.Errorf("got %q, %w", got, err)
	}
	return nil
}
