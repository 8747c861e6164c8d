package mesh

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/node"
)

// fullLedger is a disk on which the files of the ledger find no room, once it
// is full; raft's own log has room of its own.
type fullLedger struct {
	consensus.Storage
	full *atomic.Bool
}

func (d fullLedger) Open(id consensus.Identity, log *slog.Logger) (*consensus.Stores, error) {
	s, err := d.Storage.Open(id, log)
	if err == nil {
		s.Ledger = fullFiles{s.Ledger, d.full}
	}
	return s, err
}

type fullFiles struct {
	store.Files
	full *atomic.Bool
}

func (f fullFiles) Open(name string) (store.File, error) {
	file, err := f.Files.Open(name)
	return fullFile{file, f.full}, err
}

func (f fullFiles) Replace(name string, data []byte) error {
	if f.full.Load() {
		return syscall.ENOSPC
	}
	return f.Files.Replace(name, data)
}

type fullFile struct {
	store.File
	full *atomic.Bool
}

func (f fullFile) WriteAt(p []byte, at int64) (int, error) {
	if f.full.Load() {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(p, at)
}

// A full disk stops signing before it stops placing, and says so: in the log, in
// status, and in the metric that the alert SovmeshLedgerUnsigned reads. With
// room again everything is signed.
func TestAFullDiskStopsSigningBeforePlacing(t *testing.T) {
	Run(t, func(t *testing.T) {
		var full atomic.Bool
		fra := Region("fra-1", "FR", 1)
		fra.Tune = func(c *node.Config) { c.MetricsOpen = true }
		fra.Storage = func(dir string) consensus.Storage {
			return fullLedger{consensus.Dir(filepath.Join(dir, "raft")), &full}
		}
		m := New(t, fra, Region("ber-1", "DE", 1))
		m.Within(30*time.Second, "it is witnessed", m.cosigned("fra-1"))
		full.Store(true)
		first := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
		m.Within(10*time.Second, "it runs", first.Exited(0))
		m.Within(30*time.Second, "status says that nothing is signed, and why", func() bool {
			status, err := m.At("fra-1").Status(t.Context())
			return err == nil && status.Signing != nil && strings.Contains(status.Signing.Problem, "no room to write the ledger file") &&
				strings.Contains(status.Signing.Problem, "make room on its disk")
		})
		signed := m.region("fra-1").newest().Checkpoints()[0].Size
		for range 5 {
			job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
			m.Within(10*time.Second, "placement goes on", job.Exited(0))
		}
		time.Sleep(2 * time.Minute)
		v := m.region("fra-1").newest()
		if got := v.Checkpoints()[0].Size; got != signed {
			t.Errorf("it signed %d leaves, after %d, on a full disk", got, signed)
		}
		status, err := m.At("fra-1").Status(t.Context())
		m.must(err)
		if status.Signing.Unsigned < 5 {
			t.Errorf("status counts %d leaves that are not signed", status.Signing.Unsigned)
		}
		if _, text := m.scrape("fra-1", "n1", m.region("fra-1").token); !strings.Contains(text, fmt.Sprintf("sovmesh_ledger_unsigned_leaves{region=\"fra-1\"} %d\n", status.Signing.Unsigned)) {
			t.Errorf("the metric does not count %d leaves", status.Signing.Unsigned)
		}
		if m.log.line("fra-1/n1", "the log is not signed for now; placement goes on", "no room") == "" {
			t.Error("the log does not say that nothing is signed")
		}
		if m.log.line("fra-1/n1", "the ledger cannot be written; no snapshot is taken meanwhile") == "" {
			t.Error("the log does not say that the ledger is not written")
		}
		full.Store(false)
		m.Within(time.Minute, "with room again all is signed and witnessed", m.cosigned("fra-1"))
		m.Within(10*time.Second, "and nothing is said any more", func() bool {
			status, err := m.At("fra-1").Status(t.Context())
			return err == nil && status.Signing.Problem == "" && status.Signing.Unsigned == 0
		})
		m.CheckInvariants()
	})
}
