package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// longLog makes leaves as they are asked for: each a placement with its
// judgement, as most of a busy region's are.
type longLog struct {
	l    *aLog
	size uint64
	leaf ledger.Leaf
}

func newLongLog(tb testing.TB, m *aMesh, size uint64) *longLog {
	l := m.logs[0]
	sum := sha256.Sum256(l.bundle)
	l.leaves = nil
	l.add(tb, "region.init", showing(ledger.ShownRegion, l.region), showing(ledger.ShownBundle, hex.EncodeToString(sum[:])))
	j := *l.here("EU")
	j.Subject, j.Place = "01jd2m8x5q7v9k3n4p6r8t0wyz", "h:00112233445566778899aabbccddeeff"
	return &longLog{l, size, ledger.Leaf{Kind: kindAssign, Subject: j.Subject, Actor: "h:00112233445566778899aabbccddeeff",
		Judged: []ledger.Judgement{j}, Shown: []ledger.Shown{{Name: ledger.ShownRole, Value: "node"}, {Name: ledger.ShownJob, Value: j.Subject + " running"}}}}
}

func (g *longLog) entry(i uint64) []byte {
	if i == 0 {
		return g.l.leaves[0]
	}
	leaf := g.leaf
	leaf.Index, leaf.Time = i+1, noon.Add(time.Duration(i)*time.Millisecond)
	random := sha256.Sum256(strconv.AppendUint(nil, i, 10))
	leaf.Salt, leaf.Commitment = ledger.Salt(random[:16]), ledger.Hash(random)
	data, err := leaf.Encode()
	if err != nil {
		panic(err)
	}
	return data
}

func (g *longLog) Entries(first uint64, count int) (all [][]byte, err error) {
	for i := range uint64(count) {
		all = append(all, g.entry(first+i))
	}
	return all, nil
}
func (g *longLog) Opening(uint64) ([]byte, bool, error) { return nil, false, nil }
func (g *longLog) LawPack(string) map[string][]byte     { return residency.Embedded().Tables() }
func (g *longLog) Bundle(string, uint64) []byte         { return g.l.bundle }
func (g *longLog) ReadTile(context.Context, ledger.Tile) ([]byte, error) {
	return nil, io.ErrUnexpectedEOF // a pack of the whole log needs none
}

// BenchmarkVerify judges packs of a whole log; 1,000,000 leaves shall take 20 s
// on one core and less than 200 MiB.
func BenchmarkVerify(b *testing.B) {
	for _, size := range []uint64{10_000, 1_000_000} {
		b.Run(strconv.FormatUint(size, 10), func(b *testing.B) {
			m := newMesh(b, "")
			g := newLongLog(b, m, size)
			file := b.TempDir() + "/pack.tar"
			g.export(b, file)
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			for b.Loop() {
				peak := watchMemory(func() {
					f, err := os.Open(file)
					if err != nil {
						b.Fatal(err)
					}
					defer f.Close()
					rep, err := Verify(m.policy, f, Options{Now: noon, Several: true})
					if err != nil || !rep.OK() || rep.Regions[0].Leaves != size {
						b.Fatalf("%v %+v", err, rep)
					}
				})
				b.ReportMetric(float64(peak)/(1<<20), "MiB")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/leaf")
		})
	}
}

func (g *longLog) export(b *testing.B, file string) {
	tree := ledger.NewTree()
	for i := range g.size {
		tree.Append(g.entry(i))
	}
	c := ledger.Checkpoint{Origin: g.l.origin, Size: g.size, Root: tree.Root()}
	sig, err := g.l.signer.Sign(c)
	if err != nil {
		b.Fatal(err)
	}
	line, err := g.l.cosignedBy[0].Cosign(c, noon.Add(time.Duration(g.size)*time.Millisecond))
	if err != nil {
		b.Fatal(err)
	}
	note, err := ledger.NewSignedCheckpoint(c, sig, line)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	x := Exporter{Mesh: "mesh.example", Region: g.l.region, Origin: g.l.origin, Now: noon, Source: g, Checkpoints: []Signed{{Size: g.size, Note: note.Encode(), Witnesses: 1}}, Enough: 1}
	if err := x.Write(b.Context(), f); err != nil {
		b.Fatal(err)
	}
}

// watchMemory gives the most memory that the runtime held while f ran, in bytes.
func watchMemory(f func()) uint64 {
	runtime.GC()
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse+m.StackInuse))
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak.Load()
}

var _ Source = (*longLog)(nil)
