package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/controller"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// pipes join the three replicas of one process.
type pipes map[placement.NodeID]*pipeLayer

type pipeLayer struct {
	all  pipes
	self placement.NodeID
	in   chan arrival
	done chan struct{}
	once sync.Once
}

type arrival struct {
	net.Conn
	from placement.NodeID
}

func (l *pipeLayer) Accept() (net.Conn, placement.NodeID, error) {
	select {
	case a := <-l.in:
		return a.Conn, a.from, nil
	case <-l.done:
		return nil, "", net.ErrClosed
	}
}

func (l *pipeLayer) Close() error { l.once.Do(func() { close(l.done) }); return nil }

func (l *pipeLayer) Dial(ctx context.Context, node placement.NodeID, _ string) (net.Conn, error) {
	to := l.all[node]
	if to == nil {
		return nil, fmt.Errorf("%s is a name without a program", node)
	}
	here, there := net.Pipe()
	select {
	case to.in <- arrival{there, l.self}:
		return here, nil
	case <-to.done:
	case <-ctx.Done():
	}
	return nil, errors.Join(errors.New("refused"), here.Close(), there.Close())
}

// crowd is a region of three replicas with raft logs on disk, and of many more
// nodes that are in its ledger and nowhere else.
type crowd struct {
	b      *testing.B
	groups []*consensus.Group
	leader *consensus.Group
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

func newCrowd(b *testing.B, nodes int) *crowd {
	c := &crowd{b: b}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	all := pipes{}
	for i := range 3 {
		name := nodeName(i)
		all[name] = &pipeLayer{all: all, self: name, in: make(chan arrival), done: make(chan struct{})}
	}
	var disks [3]string
	for i := range disks { // before the cleanup that stops who writes there: the last is done first
		disks[i] = b.TempDir()
	}
	b.Cleanup(func() { cancel(); c.ended.Wait() })
	for i := range 3 {
		name := nodeName(i)
		cfg := consensus.DefaultConfig()
		cfg.Self, cfg.Region, cfg.Advertise, cfg.Layer, cfg.Storage = name, "fra-1", addressOf(i), all[name], consensus.Dir(disks[i])
		cfg.DigestInterval = 0
		cfg.Forward = func(ctx context.Context, to consensus.Member, raw []byte) (state.Result, error) {
			return c.groups[0].ProposeRaw(ctx, raw)
		}
		g, err := consensus.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		c.groups = append(c.groups, g)
		c.ended.Go(func() { _ = g.Run(ctx) })
		if i == 0 {
			c.found(ctx)
			continue
		}
		c.join(ctx, i)
	}
	c.until("three votes", func() bool {
		votes := 0
		for _, m := range c.leader.Peers() {
			if m.Voter {
				votes++
			}
		}
		return votes == 3
	})
	var wg sync.WaitGroup
	var next atomic.Int64
	next.Store(2)
	for range 64 {
		wg.Go(func() {
			for i := int(next.Add(1)); i < nodes; i = int(next.Add(1)) {
				c.join(ctx, i)
			}
		})
	}
	wg.Wait()
	return c
}

func nodeName(i int) placement.NodeID { return placement.NodeID(fmt.Sprintf("n%05d", i)) }
func addressOf(i int) string          { return fmt.Sprintf("10.%d.%d.%d:7000", i>>16, i>>8&255, i&255) }

// machine is a node with eight devices, as the ledger has it.
func machine(i int) placement.Node {
	n := placement.Node{ID: nodeName(i), QUIC: addressOf(i), API: "https://" + addressOf(i), Inventory: placement.Inventory{
		Version: 1, CPU: 64_000, Memory: 512 * placement.GiB, Drivers: []string{string(placement.KindFake)}, States: state.MaxVersion}}
	for d := range 8 {
		n.Inventory.Devices = append(n.Inventory.Devices, placement.Device{UUID: fmt.Sprintf("SIM-%05d-%d", i, d), Model: "NVIDIA H100 80GB HBM3",
			Memory: 80 * placement.GiB, Health: placement.DeviceOK, Simulated: true})
	}
	return n
}

func (c *crowd) found(ctx context.Context) {
	c.leader = c.groups[0]
	first := machine(0)
	if _, err := c.leader.Bootstrap(ctx, state.InitRegion{Region: placement.Region{ID: "fra-1", Mesh: "mesh.example",
		Facts: placement.RegionFacts{Country: country, Operator: placement.Operator{Home: country, Parent: "none"}}, LogKey: benchLogKey()},
		LawPack: residency.Embedded().Tables(), Node: first}, "bench"); err != nil {
		c.b.Fatal(err)
	}
	c.until("a leader", c.leader.IsLeader)
}

func (c *crowd) join(ctx context.Context, i int) {
	sum := sha256.Sum256([]byte(nodeName(i)))
	hash := hex.EncodeToString(sum[:])
	for _, cmd := range []state.Command{state.CreateJoinToken{Hash: hash, Expires: time.Now().Add(time.Hour)}, state.JoinNode{TokenHash: hash, Node: machine(i)}} {
		if _, err := c.leader.Propose(ctx, cmd, "bench"); err != nil {
			c.b.Errorf("%s: %v", nodeName(i), err)
			return
		}
	}
}

func (c *crowd) until(what string, cond func() bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !cond(); <-tick.C {
		if time.Now().After(end) {
			c.b.Fatalf("not within a minute: %s", what)
		}
	}
}

// ledgerOf is the controller's log that notes when each job was placed.
type ledgerOf struct {
	*consensus.Group
	mu       sync.Mutex
	accepted map[placement.JobID]time.Time // guarded by mu: of those not placed
	early    map[placement.JobID]struct{}  // guarded by mu: placed before their submit was answered
	placed   int                           // guarded by mu
	lags     []time.Duration               // guarded by mu: from a submit's answer to the assignment's; 0 if that came first
}

func (l *ledgerOf) Propose(ctx context.Context, cmd state.Command, actor string) (state.Result, error) {
	res, err := l.Group.Propose(ctx, cmd, actor)
	if a, ok := cmd.(state.Assign); ok && err == nil && res.Refused == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, one := range a.Assignments {
			l.placed++
			if at, ok := l.accepted[one.Job]; ok {
				l.lags = append(l.lags, time.Since(at))
				delete(l.accepted, one.Job)
			} else {
				l.lags = append(l.lags, 0)
				l.early[one.Job] = struct{}{}
			}
		}
	}
	return res, err
}

func (l *ledgerOf) wasAccepted(id placement.JobID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.early[id]; ok {
		delete(l.early, id)
		return
	}
	l.accepted[id] = time.Now()
}

// benchLogKey is the public key of a ledger that nobody signs here.
func benchLogKey() string {
	s, err := ledger.NewSigner("fra-1.mesh.example/ledger", [ledger.SeedSize]byte{5})
	if err != nil {
		panic(err)
	}
	return s.Verifier().String()
}

// calm is a pool that doubts nobody.
type calm struct{}

func (calm) Alive(placement.NodeID) (alive, known bool) { return true, true }
func (calm) Suspect(placement.NodeID) bool              { return false }

// number is the environment's word, or another.
func number(b *testing.B, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("%s=%s is no number of at least 1", name, text)
	}
	return n
}

// BenchmarkDecide has 64 clients (SOVMESH_CLIENTS) submit as fast as they are
// answered, while the leader's controller places what they submit among 10,000
// nodes (SOVMESH_CROWD), through raft.
// One round is b.N submits; it says how far placing lags behind accepting.
func BenchmarkDecide(b *testing.B) {
	nodes, submitters := number(b, "SOVMESH_CROWD", 10_000), number(b, "SOVMESH_CLIENTS", 64)
	c := newCrowd(b, nodes)
	l := &ledgerOf{Group: c.leader, accepted: map[placement.JobID]time.Time{}, early: map[placement.JobID]struct{}{}}
	cfg := controller.DefaultConfig()
	cfg.Self, cfg.Region, cfg.Log, cfg.Members = nodeName(0), "fra-1", l, calm{}
	ctl, err := controller.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var lead sync.WaitGroup
	lead.Go(func() { _ = ctl.Lead(ctx) })
	defer func() { cancel(); lead.Wait() }()

	var next atomic.Int64
	var clients sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for range submitters {
		clients.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				job := jobOf(i)
				if _, err := l.Group.Propose(ctx, state.SubmitJob{Job: job}, "bench"); err != nil {
					b.Error(err)
					return
				}
				l.wasAccepted(job.ID)
			}
		})
	}
	clients.Wait()
	took := time.Since(began)
	l.mu.Lock()
	behind := b.N - l.placed
	l.mu.Unlock()
	c.until("everything to be placed", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.placed == b.N })
	b.StopTimer()
	b.ReportMetric(float64(b.N)/took.Seconds(), "accepted/s")
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "placed/s")
	slices.Sort(l.lags)
	for name, i := range map[string]int{"median": len(l.lags) / 2, "p99": len(l.lags) * 99 / 100, "largest": len(l.lags) - 1} {
		b.ReportMetric(float64(l.lags[i].Microseconds())/1000, name+"-lag-ms")
	}
	b.ReportMetric(float64(behind), "behind-at-the-end")
}

// jobOf is one of a few kinds of jobs, every other one with a GPU.
func jobOf(i int64) placement.Job {
	res := placement.Resources{CPU: placement.MilliCPU(100 + i%5*100), Memory: 256 * placement.MiB}
	if i%2 == 0 {
		res.GPUs = 1
	}
	return placement.Job{ID: placement.NewJobID("fra-1", time.Now()), Name: "bench", Kind: placement.KindFake, Tenant: placement.TenantID(fmt.Sprintf("t%d", i%4)),
		Residency: tag, Spec: placement.JobSpec{Kind: placement.KindFake, Type: placement.TypeBatch, Resources: res}}
}
