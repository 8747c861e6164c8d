package api

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Keyring is the gossip keys of the region. It never enters a command, a
// snapshot or a leaf: nodes of the region hand it to each other.
type Keyring struct {
	// Version grows with every change.
	Version uint64 `json:"version,omitempty"`
	// Index is the removal after which the newest key was made.
	Index uint64 `json:"index,omitempty"`
	// Keys are the keys that packets are read with; the first seals.
	Keys [][]byte `json:"keys"`
	// Next is the key that a rotation brings in, one of Keys.
	Next []byte `json:"next,omitempty"`
}

// MaxKeys bounds a keyring: a rotation needs two, further removals during it more.
const MaxKeys = 8

// Validate says what is wrong with a keyring.
func (k Keyring) Validate() error {
	if len(k.Keys) == 0 || len(k.Keys) > MaxKeys {
		return fmt.Errorf("a keyring has 1 to %d keys, not %d", MaxKeys, len(k.Keys))
	}
	for i, key := range k.Keys {
		if n := len(key); n != 16 && n != 24 && n != 32 {
			return fmt.Errorf("a gossip key has 16, 24 or 32 bytes, not %d", n)
		}
		if k.index(key) != i {
			return errors.New("a gossip key is listed twice")
		}
	}
	if k.Next != nil && k.index(k.Next) < 0 {
		return errors.New("the keyring brings in a key that is not among its keys")
	}
	return nil
}

func (k Keyring) index(key []byte) int {
	return slices.IndexFunc(k.Keys, func(have []byte) bool { return bytes.Equal(have, key) })
}

// Clone shares nothing with k but the bytes of the keys, which nobody changes.
func (k Keyring) Clone() Keyring {
	k.Keys = slices.Clone(k.Keys)
	return k
}

// Equal reports whether both say the same.
func (k Keyring) Equal(o Keyring) bool {
	return k.Version == o.Version && k.Index == o.Index && bytes.Equal(k.Next, o.Next) && slices.EqualFunc(k.Keys, o.Keys, bytes.Equal)
}

// Join is newer than both and reads what either reads. It goes on towards the
// key that belongs to the later removal, in doubt that of the later version.
func (k Keyring) Join(o Keyring) Keyring {
	if o.Index > k.Index || o.Index == k.Index && o.Version > k.Version {
		k, o = o, k
	}
	if k.Version > o.Version && k.Next == nil {
		o.Keys = nil // finished: what the other still reads was dropped for good
	}
	out := k.Clone()
	out.Version = max(k.Version, o.Version) + 1
	for _, key := range o.Keys {
		if out.index(key) < 0 && len(out.Keys) < MaxKeys {
			out.Keys = append(out.Keys, key)
		}
	}
	if len(out.Keys) > 1 && out.Next == nil {
		out.Next = out.Keys[0]
	}
	return out
}

// Keyrings is the node's hold on the region's gossip keys.
type Keyrings interface {
	Ring() Keyring
	// Offer takes the keys if they are newer and gives those held afterwards.
	Offer(from placement.NodeID, ring Keyring) (Keyring, error)
}

// keyring hands the gossip keys to a node of the region. A replica that has not
// heard yet of the removal that the keys answer would hand them to the removed.
func keyring(s *Server, c *call) error {
	if s.cfg.Keyring == nil {
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node holds no gossip keys", "ask a voter: sovmesh node list")
	}
	ring := s.cfg.Keyring.Ring()
	if c.view.Index() < ring.Index {
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node is behind the removal that the keys answer", "ask again, or another voter").retry(time.Second)
	}
	return c.writeJSON(http.StatusOK, ring)
}

// offerKeyring takes the gossip keys that the leader hands out.
func offerKeyring(s *Server, c *call) error {
	if s.cfg.Keyring == nil || c.view != nil && c.caller.Role != placement.RoleVoter {
		return newProblem(http.StatusForbidden, CodeRole, fmt.Sprintf("node %s may not hand out gossip keys", c.caller.Node), "voters do")
	}
	var in Keyring
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	held, err := s.cfg.Keyring.Offer(c.caller.Node, in)
	if err != nil {
		return newProblem(http.StatusForbidden, CodeRole, "the gossip keys were not taken: "+err.Error(), "voters of the region hand them out")
	}
	return c.writeJSON(http.StatusOK, held)
}
