package mesh

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// A command that this program does not know would stop every replica that
// applies it (package consensus tests that), so no voter is made to log one by
// another that runs something newer, or something else.
func TestACommandOfANewerProgramIsNotLogged(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		r := m.rogue(m.stolen("fra-1", "n2"), outside(1))
		to := m.peer("fra-1", m.Leader("fra-1"))
		head := state.Head{Version: 1, Time: time.Now(), Actor: "node:n2"}
		_, _ = rand.Read(head.Salt[:])
		good, err := state.Encode(head, state.CordonNode{Node: "n3"})
		m.must(err)
		newer := bytes.Clone(good)
		newer[0] = state.MaxVersion + 1
		for name, raw := range map[string][]byte{
			"a newer version": newer, "an unknown kind": bytes.Replace(good, []byte("cordon"), []byte("zordon"), 1),
			"half of one": good[:len(good)/2], "nothing": {}, "noise": bytes.Repeat([]byte{0xff}, 4096),
		} {
			if bytes.Equal(raw, good) {
				t.Fatalf("%s is the command itself", name)
			}
			if res, err := r.mesh.Propose(t.Context(), to, raw); err == nil && res.Refused == nil {
				t.Errorf("%s was taken: %+v", name, res)
			}
		}
		time.Sleep(5 * time.Second)
		for _, h := range m.region("fra-1").hosts {
			select {
			case <-h.done:
				t.Errorf("%s has stopped: %v", h.name, h.err)
			default:
			}
			if h.node.View().Node("n3").State != placement.NodeReady {
				t.Error("a broken command took effect")
			}
		}
		if _, err := r.mesh.Propose(t.Context(), to, good); err != nil {
			t.Errorf("the command itself: %v", err)
		}
		m.CheckInvariants()
	})
}
