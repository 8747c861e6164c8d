package mesh

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/witness"
	"github.com/sovmesh/sovmesh/placement"
)

// checkpoint is the newest one as a foreign reader finds it.
func (m *Mesh) checkpoint(id placement.RegionID) (*ledger.SignedCheckpoint, []byte) {
	m.t.Helper()
	status, body := m.Fetch(id, m.region(id).hosts[0].name, api.Prefix+"/ledger/checkpoint")
	if status != http.StatusOK {
		return nil, nil
	}
	c, err := ledger.ParseSignedCheckpoint(body)
	m.must(err)
	return c, body
}

// cosigned reports whether the newest checkpoint covers the whole log and has
// the cosignatures of all other regions.
func (m *Mesh) cosigned(id placement.RegionID) func() bool {
	return func() bool {
		v := m.region(id).newest()
		all := v.Checkpoints()
		if len(all) == 0 || all[0].Size != v.LedgerSize() {
			return false
		}
		for _, r := range m.regions {
			if r.spec.ID != id && !slices.Contains(all[0].Witnesses, state.WitnessName(r.spec.ID, Domain)) {
				return false
			}
		}
		return true
	}
}

// policyOf is what an auditor would be handed: the region's log, and all of the
// given regions as witnesses.
func (m *Mesh) policyOf(id placement.RegionID, witnesses ...placement.RegionID) *ledger.Policy {
	m.t.Helper()
	v := m.region(id).newest()
	key, err := ledger.ParseVerifier(v.LogKey())
	m.must(err)
	spec := ledger.PolicySpec{Logs: []ledger.PolicyLog{{Key: key}}, Quorum: "all"}
	group := ledger.PolicyGroup{Name: "all", Need: len(witnesses)}
	for _, w := range witnesses {
		k, err := ledger.ParseVerifier(v.Region(w).WitnessKey)
		m.must(err)
		spec.Witnesses = append(spec.Witnesses, ledger.PolicyWitness{Name: string(w), Key: k})
		group.Members = append(group.Members, string(w))
	}
	spec.Groups = []ledger.PolicyGroup{group}
	policy, err := ledger.NewPolicy(spec)
	m.must(err)
	return policy
}

// Every region's log is signed by its leader and cosigned by both others; the
// secret keys are on voters' disks alone, and in no other file of theirs.
func TestEveryLogIsWitnessedByTheOtherRegions(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 4), Region("ber-1", "DE", 1), Region("waw-1", "PL", 1))
		m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
		for _, id := range []placement.RegionID{"fra-1", "ber-1", "waw-1"} {
			m.Within(30*time.Second, string(id)+" is witnessed by both others", m.cosigned(id))
		}
		_, note := m.checkpoint("fra-1")
		c, err := ledger.VerifyCheckpoint(m.policyOf("fra-1", "ber-1", "waw-1"), note)
		if err != nil {
			t.Fatal(err)
		}
		if v := m.region("fra-1").newest(); c.Origin() != "fra-1."+Domain+"/ledger" || c.Head().Root != v.LedgerRoot() {
			t.Errorf("the checkpoint speaks of %s: %+v", c.Origin(), c.Head())
		}
		status, err := m.At("fra-1").Status(t.Context())
		m.must(err)
		if s := status.Signing; s == nil || s.Problem != "" || s.Unsigned != 0 || len(s.Witnesses) != 2 || s.Witnesses[0].Size != s.Size {
			t.Errorf("status shows %+v", s)
		}
		m.Within(30*time.Second, "the voters hold the keys", func() bool {
			n := 0
			for _, h := range m.region("fra-1").hosts {
				if h.has("ledger.keys") {
					n++
				}
			}
			return n == 3
		})
		m.findSecrets("fra-1")

		// A leader made to sign what was never committed is refused by Apply.
		leader := m.host("fra-1", m.Leader("fra-1"))
		secret, err := os.ReadFile(filepath.Join(leader.dir, "ledger.keys"))
		m.must(err)
		signer, err := ledger.ParseSigner(strings.Split(string(secret), "\n")[0])
		m.must(err)
		r := m.rogue(m.stolen("fra-1", leader.name), outside(1))
		res, err := r.propose(m.peer("fra-1", leader.name), state.MarkLog{}, time.Now())
		m.must(err)
		head := leader.node.View().LogMarks()
		mark := head[len(head)-1]
		mark.Root[0] ^= 1
		line, err := signer.Sign(ledger.Checkpoint{Origin: signer.Verifier().Name(), Size: mark.Size, Root: mark.Root})
		m.must(err)
		lie, err := ledger.NewSignedCheckpoint(ledger.Checkpoint{Origin: signer.Verifier().Name(), Size: mark.Size, Root: mark.Root}, line)
		m.must(err)
		res, err = r.propose(m.peer("fra-1", leader.name), state.SignLog{Size: mark.Size, Note: string(lie.Encode())}, time.Now())
		if err != nil || res.Refused == nil || res.Refused.Code != "checkpoint.root" {
			t.Errorf("another root, signed: %+v, %v", res.Refused, err)
		}
	})
}

// findSecrets looks for the secret keys of a region on all of its disks: they
// may stand in one file alone.
func (m *Mesh) findSecrets(id placement.RegionID) {
	m.t.Helper()
	var needles [][]byte
	for _, h := range m.region(id).hosts {
		if data, err := os.ReadFile(filepath.Join(h.dir, "ledger.keys")); err == nil {
			keys, err := witness.ParseKeys(data)
			m.must(err)
			if text := fmt.Sprintf("%v %+v %s %#v", keys, keys, keys, keys); strings.Contains(text, "PRIVATE") {
				m.t.Errorf("printing the keys shows them: %s", text)
			}
			for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
				parts := strings.SplitN(line, "+", 5)
				needles = append(needles, []byte(parts[len(parts)-1]))
			}
		}
	}
	if len(needles) == 0 {
		m.t.Fatal("no keys to look for")
	}
	for _, h := range m.region(id).hosts {
		m.must(filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "ledger.keys" {
				return err
			}
			data, err := os.ReadFile(path)
			for _, needle := range needles {
				if bytes.Contains(data, needle) {
					m.t.Errorf("%s holds a secret key of the ledger", path)
				}
			}
			return err
		}))
	}
}

// An hour without any witness: the region signs and places on, and catches up by
// itself with one proof.
func TestARegionCutOffFromItsWitnessesCatchesUp(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("ber-1", "DE", 1), Region("waw-1", "PL", 1))
		m.Within(30*time.Second, "it is witnessed", m.cosigned("fra-1"))
		m.Isolate("fra-1")
		before := m.region("fra-1").newest().Checkpoints()[0].Size
		for range 6 {
			job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
			m.Within(10*time.Second, "it runs and ends", job.Exited(0))
			time.Sleep(10 * time.Minute)
		}
		c := m.region("fra-1").newest().Checkpoints()[0]
		if c.Size < before+6 || len(c.Witnesses) != 0 || c.Size != m.region("fra-1").newest().LedgerSize() {
			t.Errorf("alone it signed %d leaves, after %d, cosigned by %v", c.Size, before, c.Witnesses)
		}
		m.Heal()
		m.Within(3*time.Minute, "it is witnessed again", m.cosigned("fra-1"))
		_, note := m.checkpoint("fra-1")
		if _, err := ledger.VerifyCheckpoint(m.policyOf("fra-1", "ber-1", "waw-1"), note); err != nil {
			t.Error(err)
		}
	})
}

// Yesterday's backup over today's ledger: the region's own key has signed more
// than it knows. It places on, signs nothing, says so in one line, and the
// witnesses cosign no checkpoint that goes on from the backup.
func TestAnOldBackupIsNotSigned(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1), Region("ber-1", "DE", 1), Region("waw-1", "PL", 1))
		h := m.host("fra-1", "n1")
		m.Within(30*time.Second, "it is witnessed", m.cosigned("fra-1"))
		h.end(false)
		backup := filepath.Join(m.dir, "backup")
		m.must(os.CopyFS(backup, os.DirFS(h.dir)))
		h.start()
		h.waitReady()
		for range 3 {
			job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
			m.Within(10*time.Second, "it runs and ends", job.Exited(0))
		}
		m.Within(30*time.Second, "it is witnessed", m.cosigned("fra-1"))
		seen := m.region("ber-1").newest().Witnessed("fra-1." + Domain + "/ledger").Size

		h.end(false)
		m.must(os.RemoveAll(h.dir))
		m.must(os.CopyFS(h.dir, os.DirFS(backup)))
		h.start()
		h.waitReady()
		restored := m.region("fra-1").newest().LedgerSize()
		if restored >= seen {
			t.Fatalf("the backup has %d leaves, and %d were witnessed: nothing was set back", restored, seen)
		}
		m.Within(30*time.Second, "it says that it signs nothing", func() bool {
			status, err := m.At("fra-1").Status(t.Context())
			return err == nil && status.Signing != nil && strings.Contains(status.Signing.Problem, "set back")
		})
		signed := m.region("fra-1").newest().Checkpoints()[0].Size
		for range 8 {
			job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
			m.Within(10*time.Second, "placement goes on", job.Exited(0))
		}
		time.Sleep(2 * time.Minute)
		if c := m.region("fra-1").newest().Checkpoints()[0]; c.Size != signed {
			t.Errorf("it signed %d leaves of the other history", c.Size)
		}
		if m.region("fra-1").newest().LedgerSize() <= seen {
			t.Errorf("the test did not grow the log beyond what was witnessed")
		}
		if got := m.region("ber-1").newest().Witnessed("fra-1." + Domain + "/ledger").Size; got != seen {
			t.Errorf("the witness went from %d to %d", seen, got)
		}
		if n := m.log.count("fra-1/n1", "signs nothing more"); n == 0 {
			t.Error("its log does not say so")
		}
	})
}
