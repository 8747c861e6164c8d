package mesh

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

const european = `{"kind":"fake","residency":"EU","type":"service","command":["sleep"]}`

// frenchLeave activates a law under which France is not in the Union any more.
func (m *Mesh) frenchLeave() {
	m.t.Helper()
	tables := residency.Embedded().Tables()
	for name, table := range tables {
		tables[name] = bytes.Replace(table, []byte("\nEU,FR,1958-01-01,,"), []byte("\nEU,FR,1958-01-01,2020-01-01,"), 1)
	}
	pack, err := m.At("fra-1").ImportLaw(m.t.Context(), tables)
	m.must(err)
	_, err = m.At("fra-1").ActivateLaw(m.t.Context(), pack.Hash)
	m.must(err)
}

// A law that is activated while a task is moved ends the move: nothing more of it goes
// to a node where it may not be, and what is there already is thrown away.
func TestALawThatChangesInAMoveEndsIt(t *testing.T) {
	for _, end := range []placement.NodeID{"n3", "n8"} { // a replica, and a worker
		t.Run("to "+string(end), func(t *testing.T) {
			Run(t, func(t *testing.T) {
				fleet := fake.NewFleet()
				var ended atomic.Bool
				reached := make(chan struct{})
				m := New(t, Spec{ID: "fra-1", Country: "FR", Nodes: 8, Machine: func(h *host) {
					h.world.Join(fleet, "7.2")
					h.world.OnMove(func(ctx context.Context, step string, _ placement.TaskID) error {
						if step != fake.StepSend || ended.Load() {
							return nil
						}
						close(reached)
						<-ctx.Done()
						ended.Store(true)
						return ctx.Err()
					})
				}})
				job := m.on("fra-1", "n2", european)
				old := m.taskOf("fra-1", job.ID)
				for _, h := range m.region("fra-1").hosts {
					if h.name != end && h.name != "n2" {
						_, err := m.At("fra-1").Cordon(t.Context(), h.name)
						m.must(err)
					}
				}
				_, err := m.At("fra-1").Drain(t.Context(), "n2", api.DrainRequest{})
				m.must(err)
				<-reached
				to := m.taskOf("fra-1", job.ID)
				m.frenchLeave()
				m.Within(8*time.Second, "the move is ended", ended.Load)
				m.Within(5*time.Second, "the ledger knows", func() bool {
					v := m.region("fra-1").newest()
					return v.MoveOf(old.ID) == nil && !v.Task(to.ID).Status.Live()
				})
				v := m.region("fra-1").newest()
				if now := v.Task(old.ID); now.MoveFails != 0 || now.MoveTrouble == "" {
					t.Errorf("the task remembers %d failures, %q", now.MoveFails, now.MoveTrouble)
				}
				if all := fleet.Running(job.ID); len(all) != 1 || all[0] != old.ID {
					t.Errorf("%v run, want %s", all, old.ID)
				}
				if m.host("fra-1", end).world.Disk(to.ID) != "" {
					t.Error("the target has something of it")
				}
			})
		})
	}
}

// A session that went along with a task ends when its bytes may not pass there any more.
func TestALawThatChangesEndsTheSessionsOfMovedTasks(t *testing.T) {
	for _, from := range []placement.NodeID{"n2", "n8"} {
		t.Run("from "+string(from), func(t *testing.T) {
			Run(t, func(t *testing.T) {
				fleet := fake.NewFleet()
				m := New(t, Spec{ID: "fra-1", Country: "FR", Nodes: 8, Machine: func(h *host) {
					h.world.Join(fleet, "7.2")
					h.world.Carry()
				}})
				job := m.on("fra-1", from, european)
				_, err := m.At("fra-1").Drain(t.Context(), from, api.DrainRequest{})
				m.must(err)
				m.Within(30*time.Second, "it is drained", m.drained("fra-1", from))
				here := m.host("fra-1", from).world.Session()
				there := m.host("fra-1", m.taskOf("fra-1", job.ID).Node).world.Session()
				if here == nil || there == nil {
					t.Fatal("no session went along")
				}
				time.Sleep(time.Minute)
				word := make([]byte, 5)
				go func() { _, _ = io.WriteString(here, "salut") }()
				if _, err := io.ReadFull(there, word); err != nil || string(word) != "salut" {
					t.Fatalf("it hears %q, %v", word, err)
				}
				m.frenchLeave()
				for name, end := range map[string]net.Conn{"where it came in": here, "where the task is": there} {
					_ = end.SetReadDeadline(time.Now().Add(10 * time.Second))
					_, err := end.Read(word)
					if late, ok := err.(net.Error); err == nil || ok && late.Timeout() {
						t.Errorf("%s: it goes on, %v", name, err)
					}
				}
			})
		})
	}
}
