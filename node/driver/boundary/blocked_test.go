//go:build linux

package boundary

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

// TestWhatOthersDropIsNoSilentLoss: beside rules as those of a Docker on the node.
func TestWhatOthersDropIsNoSilentLoss(t *testing.T) {
	w := newWorld(t)
	w.serve(w.outside, farther+":80", "far")
	w.serve(w.host, nodeOut+":80", "node")
	nft := func(rules string) {
		w.do(w.host, func() error {
			out, err := exec.Command("nft", rules).CombinedOutput()
			if errors.Is(err, exec.ErrNotFound) {
				t.Skip("the program nft is missing (package nftables)")
			}
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	nft("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }")
	list := func(task placement.TaskID, address string) (*Net, error) {
		p, err := Parse(&placement.Network{Allow: []string{address}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.b.Up(t.Context(), task, p)
	}
	var lost *BlockedError
	if _, err := list("a.far/0.1", farther+":80"); !errors.As(err, &lost) || lost.Chain != "ip filter FORWARD" || lost.Hint() == "" {
		t.Errorf("%v", err)
	}
	if all, err := w.b.List(); err != nil || len(all) != 0 {
		t.Errorf("left: %+v, %v", all, err)
	}
	facts, err := w.b.Probe()
	if err != nil || strings.HasPrefix(facts["network_beyond"], "nothing that is looked at") {
		t.Errorf("%v, %v", facts, err)
	}
	n, err := list("a.near/0.1", nodeOut+":80")
	if err != nil {
		t.Fatal(err)
	}
	w.reaches(n, "tcp", nodeOut+":80", "node")
	nft(`insert rule ip filter FORWARD iifname "smv*" accept`)
	nft(`insert rule ip filter FORWARD oifname "smv*" accept`)
	if n, err = list("a.far/0.2", farther+":80"); err != nil {
		t.Fatal(err)
	}
	w.reaches(n, "tcp", farther+":80", "far")
	nft("table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }")
	if _, err := list("a.far/0.3", "["+farther6+"]:80"); !errors.As(err, &lost) || lost.Chain != "ip6 filter FORWARD" {
		t.Errorf("by IPv6: %v", err)
	}
	if n, err = list("a.far/0.4", farther+":80"); err != nil {
		t.Errorf("by IPv4, which that chain does not see: %v", err)
	}
}
