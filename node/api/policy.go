package api

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"

	"github.com/sovmesh/sovmesh/placement/residency"
)

// policyHash is what a grant binds: the SHA-256 of a policy's wire form, in hex.
func policyHash(wire string) string {
	sum := sha256.Sum256([]byte(wire))
	return hex.EncodeToString(sum[:])
}

// tagsMax bounds the cache; a region sees few distinct tags.
const tagsMax = 4096

// tags reads wire forms, each once per pack and day. Errors are not kept:
// hostile headers must not fill it.
type tags struct {
	mu   sync.RWMutex
	read map[tagKey]residency.Tag // guarded by mu
}

type tagKey struct {
	wire, pack string
	on         residency.Date
}

func (t *tags) parse(wire string, pack *residency.Pack, on residency.Date) (residency.Tag, error) {
	key := tagKey{wire, pack.Hash(), on}
	t.mu.RLock()
	tag, ok := t.read[key]
	t.mu.RUnlock()
	if ok {
		return tag, nil
	}
	tag, err := residency.ParseWire(wire, pack, on)
	if err != nil {
		return tag, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read == nil || len(t.read) >= tagsMax {
		t.read = make(map[tagKey]residency.Tag)
	}
	t.read[key] = tag
	return tag, nil
}
