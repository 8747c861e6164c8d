package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

// A roster says at every moment, and each of its copies for ever, what a sorted
// map of the same nodes would.
func TestRosterIsASortedMapThatCanBeCopied(t *testing.T) {
	type frozen struct {
		r    roster
		want []placement.Node
	}
	for seed := range uint64(20) {
		dice := rand.New(rand.NewPCG(seed, 1))
		r, want := newRoster(), map[placement.NodeID]*placement.Node{}
		var kept []frozen
		for range 3000 {
			id := placement.NodeID(fmt.Sprintf("n%04d", dice.IntN(400)))
			switch dice.IntN(10) {
			case 0:
				r.delete(string(id))
				delete(want, id)
			case 1:
				if len(kept) < 50 {
					kept = append(kept, frozen{r.snapshot(), sorted(want)})
				}
			case 2: // an assign that is refused goes back to the copy it made
				before := r.snapshot()
				r.put(string(id), &placement.Node{ID: id})
				r.delete("n0001")
				r = before
			case 3:
				r.values()
			default:
				n := &placement.Node{ID: id, State: placement.NodeReady, Contact: placement.ContactAlive, Used: placement.Usage{Tasks: dice.IntN(2)},
					Role: []placement.NodeRole{placement.RoleVoter, placement.RoleStandby, placement.RoleWorker}[dice.IntN(3)]}
				if dice.IntN(3) == 0 {
					n.State = placement.NodeCordoned
				} else if dice.IntN(3) == 0 {
					n.Contact = placement.ContactUnknown
				}
				r.put(string(id), n)
				want[id] = n
			}
			if got, ok := r.get(string(id)); ok != (want[id] != nil) || got != want[id] {
				t.Fatalf("seed %d: %s is %v, want %v", seed, id, got, want[id])
			}
		}
		checkRoster(t, r, sorted(want))
		for _, f := range kept {
			checkRoster(t, f.r, f.want)
		}
	}
}

func sorted(m map[placement.NodeID]*placement.Node) (out []placement.Node) {
	for _, n := range m {
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b placement.Node) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

func checkRoster(t *testing.T, r roster, want []placement.Node) {
	t.Helper()
	same := func(a placement.Node, b *placement.Node) bool {
		return a.ID == b.ID && a.State == b.State && a.Contact == b.Contact && a.Used.Tasks == b.Used.Tasks && a.Role == b.Role
	}
	if !slices.EqualFunc(want, r.values(), same) || r.len() != len(want) {
		t.Fatalf("it has %d nodes in a row and counts %d, want %d", len(r.values()), r.len(), len(want))
	}
	var working, voters, standbys int
	var held []placement.NodeID
	for i := range want {
		n := &want[i]
		if n.State != placement.NodeCordoned {
			working++
		}
		switch n.Role {
		case placement.RoleVoter:
			voters++
		case placement.RoleStandby:
			standbys++
		}
		if !n.Offers() && n.Used.Tasks > 0 {
			held = append(held, n.ID)
		}
	}
	if r.r.working != working || !slices.Equal(r.r.held, held) {
		t.Fatalf("%d work and %v are held, want %d and %v", r.r.working, r.r.held, working, held)
	}
	if r.r.voters != voters || r.r.standbys != standbys {
		t.Fatalf("%d voters and %d standbys, want %d and %d", r.r.voters, r.r.standbys, voters, standbys)
	}
	at := 0
	if len(want) > 0 {
		at = len(want) / 2
		r.ascend(string(want[at].ID), func(id string, n *placement.Node) bool {
			if id != string(want[at].ID) || n.ID != want[at].ID {
				t.Fatalf("%s comes in the place of %s", id, want[at].ID)
			}
			at++
			return true
		})
		if last, ok := r.last(); !ok || last != string(want[len(want)-1].ID) {
			t.Fatalf("the last is %s", last)
		}
	}
	if at != len(want) {
		t.Fatalf("a walk ended at %d of %d", at, len(want))
	}
	for _, c := range r.r.chunks {
		if len(c.nodes) == 0 || len(c.nodes) > rosterChunkMax {
			t.Fatalf("a chunk of %d", len(c.nodes))
		}
	}
}
