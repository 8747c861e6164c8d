package consensus

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// speak sends RPCs to a node over streams whose certificate is from's.
func (r *region) speak(from placement.NodeID) *raft.NetworkTransport {
	layer := &pipeLayer{f: r.net, self: from, in: make(chan arrival), done: make(chan struct{})}
	m := &mux{layer: layer, g: &Group{cfg: Config{Advertise: address(from)}}, stopped: make(chan struct{})}
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: &outgoing{m: m}, MaxPool: 1, Timeout: 5 * time.Second, Logger: hclogger(DefaultConfig().Log, "raft")})
	r.t.Cleanup(func() { close(m.stopped); t.CloseStreams(); t.Close() })
	return t
}

func header(id placement.NodeID, addr string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr)}
}

// A voter that speaks as another is refused, whichever RPC it tries, by the
// certificate on its stream; so is one that claims another's address, and a
// worker that speaks raft at all.
func TestAForgedVoterIsRefused(t *testing.T) {
	r := newRegion(t, 3, nil)
	l := r.leader()
	var victim, forger placement.NodeID
	for id, s := range r.nodes {
		if s != l {
			if victim == "" {
				victim = id
			} else {
				forger = id
			}
		}
	}
	out := r.speak(forger)
	to := at(raft.ServerID(victim), raft.ServerAddress(address(victim)))
	term := l.raft.Load().CurrentTerm()
	for _, tc := range []struct {
		name string
		head raft.RPCHeader
	}{
		{"as the leader", header(l.cfg.Self, address(l.cfg.Self))},
		{"as the leader from its own address", header(l.cfg.Self, address(forger))},
		{"as itself from the leader's address", header(forger, address(l.cfg.Self))},
		{"as nobody", header("", "")},
	} {
		var vote raft.RequestVoteResponse
		err := out.RequestVote("", to, &raft.RequestVoteRequest{RPCHeader: tc.head, Term: term + 50, LastLogIndex: 1 << 40, LastLogTerm: term + 49, LeadershipTransfer: true}, &vote)
		if err == nil || vote.Granted {
			t.Errorf("%s: a vote: %v, %+v", tc.name, err, vote)
		}
		var entries raft.AppendEntriesResponse
		if err := out.AppendEntries("", to, &raft.AppendEntriesRequest{RPCHeader: tc.head, Term: term + 50}, &entries); err == nil || entries.Success {
			t.Errorf("%s: a heartbeat: %v, %+v", tc.name, err, entries)
		}
		if err := out.AppendEntries("", to, &raft.AppendEntriesRequest{RPCHeader: tc.head, Term: term + 50, PrevLogEntry: 1}, &entries); err == nil || entries.Success {
			t.Errorf("%s: entries: %v, %+v", tc.name, err, entries)
		}
		var now raft.TimeoutNowResponse
		if err := out.TimeoutNow("", to, &raft.TimeoutNowRequest{RPCHeader: tc.head}, &now); err == nil {
			t.Errorf("%s: timeout now was taken", tc.name)
		}
		var install raft.InstallSnapshotResponse
		if err := out.InstallSnapshot("", to, &raft.InstallSnapshotRequest{RPCHeader: tc.head, Term: term + 50}, &install, strings.NewReader("")); err == nil {
			t.Errorf("%s: a snapshot was taken", tc.name)
		}
	}
	if got := r.at(victim).raft.Load().CurrentTerm(); got >= term+50 {
		t.Errorf("the victim's term went from %d to %d", term, got)
	}
	if _, err := l.Propose(timeout(t), r.job(), "tok"); err != nil {
		t.Errorf("the group is disturbed: %v", err)
	}
}

func TestAWorkerThatSpeaksRaftIsRefused(t *testing.T) {
	r := newRegion(t, 1, nil)
	r.join("n2")
	r.join("n3")
	l := r.leader()
	if _, err := l.Propose(timeout(t), state.SetRole{Node: "n3", Role: placement.RoleWorker}, "op"); err != nil {
		t.Fatal(err)
	}
	r.within("n3 is out", func() bool { return !l.Allowed("n3") })
	r.kill("n3")
	r.net.isolate("n3", false)
	out := r.speak("n3")
	var vote raft.RequestVoteResponse
	err := out.RequestVote("", at(raft.ServerID(l.cfg.Self), raft.ServerAddress(address(l.cfg.Self))), &raft.RequestVoteRequest{RPCHeader: header("n3", address("n3")), Term: 99}, &vote)
	if err == nil || vote.Granted {
		t.Errorf("a worker's request for a vote: %v, %+v", err, vote)
	}
}

// A leader whose clock is a month off proposes nothing and gives the lead away;
// a command stamped by such a clock is refused by any other leader.
func TestAWrongClock(t *testing.T) {
	r := newRegion(t, 3, nil)
	old := r.leader()
	r.skew.Store(old.cfg.Self, 30*24*time.Hour)
	r.within("another leads", func() bool { l := r.leader(); return l != old })
	l := r.leader()
	job := r.job()
	raw, err := state.Encode(state.Head{Version: 1, Time: time.Now().Add(30 * 24 * time.Hour), Salt: [16]byte{1}, Actor: "x"}, job)
	if err != nil {
		t.Fatal(err)
	}
	var clock *WrongClock
	if _, err := l.ProposeRaw(timeout(t), raw); !errors.As(err, &clock) || clock.Hint() == "" {
		t.Errorf("a stamp a month ahead: %v", err)
	}
	if _, err := old.Propose(timeout(t), job, "tok"); !errors.As(err, &clock) {
		t.Errorf("a proposer a month ahead: %v", err)
	}
	if _, err := l.Propose(timeout(t), r.job(), "tok"); err != nil {
		t.Errorf("the others: %v", err)
	}
	if at := l.View().Time(); at.After(time.Now().Add(time.Minute)) {
		t.Errorf("ledger time is %s", at)
	}
}

func TestForeignAndDamagedDirectories(t *testing.T) {
	r := newRegion(t, 1, nil)
	dirpath := string(r.dirs["n1"].(dir))
	for range 20 {
		if _, err := r.leader().Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
	r.kill("n1")
	run := func(id placement.NodeID, region placement.RegionID) error {
		cfg := DefaultConfig()
		cfg.Self, cfg.Region, cfg.Advertise, cfg.Layer, cfg.Storage = id, region, address(id), newFabric().layer(id), Dir(dirpath)
		g, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return g.Run(ctx)
	}
	var foreign *Foreign
	if err := run("n1", "ber-1"); !errors.As(err, &foreign) || !strings.Contains(err.Error(), "belongs to node n1 of region fra-1") {
		t.Errorf("another region's directory: %v", err)
	}
	segments, _ := filepath.Glob(filepath.Join(dirpath, "raft", "*.wal"))
	if len(segments) == 0 {
		t.Fatal("no segment")
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := 32; i < 4096; i++ {
		data[i] ^= 0xa5
	}
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *Corrupt
	if err := run("n1", "fra-1"); !errors.As(err, &corrupt) || strings.Contains(err.Error(), "\n") {
		t.Errorf("a damaged log: %v", err)
	}
}

// A replica on whose disk something rotted says what and what to do, and neither
// panics nor leaves the reason to the log.
func TestARottenDirectoryIsNamed(t *testing.T) {
	r := newRegion(t, 1, func(c *Config) { c.SnapshotThreshold, c.SnapshotInterval, c.Trailing = 20, 20*time.Millisecond, 1 })
	whole := string(r.dirs["n1"].(dir))
	for range 60 {
		if _, err := r.leader().Propose(timeout(t), r.job(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
	r.within("a compacted log", func() bool {
		at, err := strconv.ParseUint(r.leader().raft.Load().Stats()["last_snapshot_index"], 10, 64)
		return err == nil && at > 40
	})
	r.kill("n1")
	junk := func(data []byte) []byte {
		for i := range data {
			data[i] = byte(i*7 + 1)
		}
		return data
	}
	none := func([]byte) []byte { return nil }
	cut := func(data []byte) []byte { return data[:2*os.Getpagesize()] } // behind its two heads
	tests := []struct {
		name, file string
		change     func([]byte) []byte
		says       string
	}{
		{"the index of the log is empty", "raft/wal-meta.db", none, "the raft log is damaged"},
		{"the index of the log is cut", "raft/wal-meta.db", cut, "the raft log is damaged"},
		{"what a snapshot is of cannot be read", "snapshots/*/meta.json", junk, "no snapshot that can be read"},
		{"a snapshot rotted", "snapshots/*/state.bin", junk, "the raft log is damaged: its snapshots"},
		{"the ledger's tree rotted", "ledger/hashes.0", junk, "the ledger file hashes.0 is damaged"},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "n1")
		if err := os.CopyFS(path, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(filepath.Join(path, tt.file))
		if len(files) == 0 {
			t.Fatalf("%s: no file %s", tt.name, tt.file)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, tt.change(data), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		cfg := DefaultConfig()
		cfg.Self, cfg.Region, cfg.Advertise, cfg.Layer, cfg.Storage = "n1", "fra-1", address("n1"), newFabric().layer("n1"), Dir(path)
		g, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err = g.Run(ctx)
		cancel()
		var hint interface{ Hint() string }
		if err == nil || !strings.Contains(err.Error(), tt.says) || !errors.As(err, &hint) {
			t.Errorf("%s: %v, want %q and what to do", tt.name, err, tt.says)
		}
	}
}

// fullDisk is a storage whose writes can be made to fail.
type fullDisk struct {
	Storage
	full atomic.Bool
}

func (d *fullDisk) Open(id Identity, log *slog.Logger) (*Stores, error) {
	s, err := d.Storage.Open(id, log)
	if err != nil {
		return nil, err
	}
	s.Log, s.Stable = &fullLog{s.Log.(monotonicLog), d}, &fullStable{s.Stable, d}
	return s, nil
}

type monotonicLog interface {
	raft.LogStore
	raft.MonotonicLogStore
}

type fullLog struct {
	monotonicLog
	d *fullDisk
}

func (l *fullLog) StoreLogs(e []*raft.Log) error {
	if l.d.full.Load() {
		return syscall.ENOSPC
	}
	return l.monotonicLog.StoreLogs(e)
}

type fullStable struct {
	raft.StableStore
	d *fullDisk
}

func (s *fullStable) SetUint64(k []byte, v uint64) error {
	if s.d.full.Load() {
		return syscall.ENOSPC
	}
	return s.StableStore.SetUint64(k, v)
}

func (s *fullStable) Set(k, v []byte) error {
	if s.d.full.Load() {
		return syscall.ENOSPC
	}
	return s.StableStore.Set(k, v)
}

// A full disk takes a replica out of the group, not the group or the process,
// and it comes back by itself when there is room again.
func TestAFullDisk(t *testing.T) {
	disks := map[placement.NodeID]*fullDisk{}
	r := newRegion(t, 3, func(c *Config) {
		if disks[c.Self] == nil {
			disks[c.Self] = &fullDisk{Storage: c.Storage}
		}
		c.Storage = disks[c.Self]
	})
	old := r.leader()
	disks[old.cfg.Self].full.Store(true)
	job := r.job()
	if _, err := old.Propose(timeout(t), job, "tok"); err != nil {
		t.Fatalf("a submit through the node with the full disk: %v", err)
	}
	if l := r.leader(); l == old {
		t.Error("a node that cannot write still leads")
	}
	r.within("it says so", func() bool { return errors.Is(old.Health(), syscall.ENOSPC) })
	disks[old.cfg.Self].full.Store(false)
	if _, err := r.leader().Propose(timeout(t), r.job(), "tok"); err != nil {
		t.Fatal(err)
	}
	r.within("it follows again", func() bool { return old.View().LedgerRoot() == r.leader().View().LedgerRoot() && old.Health() == nil })
}

// Replicas that are equal go on; one whose digest is not what the log says the
// leader's was stops and says so.
func TestADivergedReplicaStops(t *testing.T) {
	r := newRegion(t, 3, nil)
	l := r.leader()
	res, err := l.Propose(timeout(t), state.MarkDigest{}, "op")
	if err != nil {
		t.Fatal(err)
	}
	size := res.Leaf + 1
	r.within("the leader tells its digest", func() bool { return l.View().LedgerSize() > size })
	if _, err := l.Propose(timeout(t), r.job(), "tok"); err != nil {
		t.Fatalf("after an honest comparison: %v", err)
	}
	if _, err := l.Propose(timeout(t), state.CompareDigest{Size: size, Digest: strings.Repeat("0", 64)}, "op"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-l.done:
		var d *Diverged
		if !errors.As(err, &d) || d.Size != size || d.Hint() == "" {
			t.Errorf("it stopped with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}

func TestACommandOfANewerProgramStopsTheReplica(t *testing.T) {
	r := newRegion(t, 1, nil)
	l := r.leader()
	raw, _ := state.Encode(state.Head{Version: state.MaxVersion + 1, Time: time.Now(), Salt: [16]byte{7}}, state.MarkDigest{})
	if _, err := l.ProposeRaw(timeout(t), raw); err == nil {
		t.Fatal("such a command was let in")
	}
	// A newer leader would have let it in.
	_, _ = l.commit(timeout(t), raw)
	err := <-l.done
	if err == nil || !strings.Contains(err.Error(), "upgrade this node") {
		t.Errorf("it stopped with %v", err)
	}
}

func TestGarbageOnAStream(t *testing.T) {
	r := newRegion(t, 1, nil)
	layer := &pipeLayer{f: r.net, self: "n1", in: make(chan arrival), done: make(chan struct{})}
	for _, data := range []string{"", "X", "R\xff\xff\xff", "R\x00garbage that is no message", "C", "Rgarbage"} {
		conn, err := layer.Dial(timeout(t), "n1", address("n1"))
		if err != nil {
			t.Fatal(err)
		}
		go func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }(conn)
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(data))
		conn.Close()
	}
	if _, err := r.leader().Propose(timeout(t), r.job(), "tok"); err != nil {
		t.Error(err)
	}
}

func FuzzBatch(f *testing.F) {
	f.Add(encodeBatch([]*proposal{{raw: []byte("a")}, {raw: nil}}))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		raws, err := decodeBatch(data)
		if err != nil {
			return
		}
		all := make([]*proposal, len(raws))
		for i := range raws {
			all[i] = &proposal{raw: raws[i]}
		}
		if string(encodeBatch(all)) != string(data) {
			t.Fatalf("%x has another encoding", data)
		}
	})
}
