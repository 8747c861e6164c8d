package mesh

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// exported is a pack of a region, from one of its nodes.
func (m *Mesh) exported(c *api.Client, f evidence.Filter) []byte {
	m.t.Helper()
	body, err := c.Export(m.t.Context(), f)
	m.must(err)
	defer body.Close()
	data, err := io.ReadAll(body)
	m.must(err)
	return data
}

// sealedAt are the sizes and times of a pack's checkpoints: when the first
// witness cosigned.
func sealedAt(t *testing.T, pack []byte) (all []store.Kept) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(pack))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(h.Name, "/checkpoints/") {
			continue
		}
		note, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		k, err := store.NewKept(note, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if k.Witnesses > 0 {
			all = append(all, k)
		}
	}
}

// An hour after, the state has long forgotten the checkpoints of the first
// minutes. A pack of those minutes still has every leaf between cosignatures that
// are at most a minute and the interval apart, and so has one from a replica that
// had lost its archive and took it from a peer again.
func TestOldTimesStayBounded(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3), Region("ber-1", "DE", 1))
		m.Within(30*time.Second, "it is witnessed", m.cosigned("fra-1"))
		begin := time.Now()
		work := func(every, span time.Duration) {
			for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(every) {
				m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
			}
		}
		work(10*time.Second, 6*time.Minute)
		lost := m.host("fra-1", m.follower("fra-1"))
		lost.end(false)
		m.must(os.Remove(filepath.Join(lost.dir, "raft", "ledger", "checkpoints")))
		work(15*time.Second, 4*time.Minute)
		lost.start()
		lost.waitReady()
		work(2*time.Minute, 50*time.Minute)
		for _, c := range m.region("fra-1").newest().Checkpoints() {
			if c.At.Before(begin.Add(6 * time.Minute)) {
				t.Fatalf("the state still has the checkpoint of %s: the test shows nothing", c.At)
			}
		}
		for _, name := range []placement.NodeID{lost.name, m.Leader("fra-1")} {
			f := evidence.Filter{From: begin.Add(time.Minute), To: begin.Add(5 * time.Minute)}
			pack := m.exported(m.AtNode("fra-1", name).Client, f)
			seals := sealedAt(t, pack)
			leaves := 0
			rep, err := evidence.Verify(m.policyOf("fra-1", "ber-1"), bytes.NewReader(pack), evidence.Options{Now: time.Now(), Leaf: func(_ string, index uint64, l *ledger.Leaf) {
				if l.Time.Before(f.From) || l.Time.After(f.To) {
					return // around what was asked for
				}
				leaves++
				bounded(t, string(name), seals, index, l)
			}})
			m.must(err)
			for _, v := range []string{evidence.Integrity, evidence.Consistency, evidence.Completeness, evidence.Freshness, evidence.Time} {
				if got := rep.Verdict(v); got.State != evidence.Holds {
					t.Errorf("%s: %s is %s: %q", name, v, got.State, got.Findings)
				}
			}
			if leaves < 40 {
				t.Errorf("%s: only %d leaves are of these minutes", name, leaves)
			}
		}
	})
}

// bounded asks for a cosignature before and one after a leaf, at most 60 s and
// an interval of the archive apart from it.
func bounded(t *testing.T, node string, seals []store.Kept, index uint64, l *ledger.Leaf) {
	t.Helper()
	const most = 60*time.Second + time.Minute
	var before, after time.Time
	for _, s := range seals {
		if s.Size <= index {
			before = s.At
		} else if after.IsZero() {
			after = s.At
		}
	}
	if before.IsZero() || after.IsZero() || l.Time.Sub(before) > most || after.Sub(l.Time) > most {
		t.Errorf("%s: leaf %d of %s lies between cosignatures of %s and %s", node, index, l.Time, before, after)
	}
}
