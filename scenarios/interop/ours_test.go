package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	formatslog "github.com/transparency-dev/formats/log"
	formatsnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	tesseraapi "github.com/transparency-dev/tessera/api"
	tesseraclient "github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/scenarios/devmesh"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == process.SupervisorCommand {
		os.Exit(process.SupervisorMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// leafHashes is how Tessera is told to hash the entries of a bundle.
func leafHashes(data []byte) ([][]byte, error) {
	var b tesseraapi.EntryBundle
	if err := b.UnmarshalText(data); err != nil {
		return nil, err
	}
	out := make([][]byte, 0, len(b.Entries))
	for _, e := range b.Entries {
		out = append(out, rfc6962.DefaultHasher.HashLeaf(e))
	}
	return out, nil
}

// running is one region with one node, and a foreign witness of its log in the
// node's configuration, as one line.
type running struct {
	t       *testing.T
	client  *api.Client
	node    *devmesh.Node
	witness *foreignWitness
	fetch   *tesseraclient.HTTPFetcher
	http    *http.Client
	origin  string
	vkey    string // of the log
	end     func() error
}

func start(t *testing.T) *running {
	t.Helper()
	r := &running{t: t, witness: newForeignWitness(t)}
	cfg := devmesh.DefaultConfig()
	cfg.Regions, cfg.Nodes, cfg.Dir = must(devmesh.ParseRegions("fra-1:FR")), 1, t.TempDir()
	cfg.Progress = func(line string) { t.Log(line) }
	cfg.Tune = func(c *node.Config) { c.Witness = r.witness.vkey + " " + r.witness.server.URL }
	m, err := devmesh.New(cfg)
	r.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	var done bool
	r.end = func() error {
		if done {
			return nil
		}
		done = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() { _ = r.end() })
	select {
	case <-m.Ready():
	case err := <-ended:
		t.Fatalf("the mesh ended before it was ready: %v", err)
	case <-time.After(90 * time.Second):
		t.Fatal("the mesh was not ready after 90 s")
	}
	r.node = m.Nodes("fra-1")[0]
	access := m.Access(r.node)
	r.client = must(api.NewClient(access))
	t.Cleanup(r.client.Close)
	text := must(r.client.TrustPolicy(t.Context(), 0))
	policy := must(ledger.ParsePolicy([]byte(text)))
	r.origin, r.vkey = policy.Logs()[0].Key.Name(), policy.Logs()[0].Key.String()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(access.CA)
	r.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 10 * time.Second}
	t.Cleanup(r.http.CloseIdleConnections)
	r.fetch = must(tesseraclient.NewHTTPFetcher(must(url.Parse(access.Addr+"/api/v1/ledger/")), r.http))
	r.fetch.SetAuthorizationHeader("Bearer " + access.Token)
	return r
}

func (r *running) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// grow adds leaves to the log.
func (r *running) grow(n int) {
	r.t.Helper()
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			_, err := r.client.SetTenant(r.t.Context(), state.Tenant{ID: placement.TenantID(fmt.Sprintf("t%d", i))})
			return err
		})
	}
	r.must(g.Wait())
}

// until waits for a condition, with a deadline.
func (r *running) until(what string, is func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("after two minutes still not: %s", what)
		}
	}
}

// checkpoint waits for a checkpoint of at least that size which the foreign
// witness has cosigned, and reads it with foreign code.
func (r *running) checkpoint(least uint64) (*formatslog.Checkpoint, []byte) {
	r.t.Helper()
	var c *formatslog.Checkpoint
	var raw []byte
	log := must(note.NewVerifier(r.vkey))
	cosigner := must(formatsnote.NewVerifierForCosignatureV1(r.witness.vkey))
	r.until(fmt.Sprintf("a cosigned checkpoint of %d leaves", least), func() bool {
		var err error
		if raw, err = r.fetch.ReadCheckpoint(r.t.Context()); err != nil {
			return false
		}
		var n *note.Note
		if c, _, n, err = formatslog.ParseCheckpoint(raw, r.origin, log, cosigner); err != nil {
			r.t.Fatalf("a foreign reader of our checkpoint: %v\n%s", err, raw)
		}
		return c.Size >= least && len(n.Sigs) == 2
	})
	return c, raw
}

// fsck has Tessera rebuild the log from its entries and compare everything.
func fsckOf(t *testing.T, origin, vkey string, f fsck.Fetcher) error {
	t.Helper()
	return fsck.New(origin, must(note.NewVerifier(vkey)), f, leafHashes, fsck.Opts{N: 2}).Check(t.Context())
}

// A running node's log, over HTTPS and then from its directory, as Tessera and
// x/mod read it; its checkpoints cosigned by a witness that knows none of our
// code.
func TestForeignToolsReadARunningNode(t *testing.T) {
	r := start(t)
	r.witness.knows(r.vkey)
	r.grow(30)
	early, earlyRaw := r.checkpoint(30)
	r.grow(300)
	late, _ := r.checkpoint(early.Size + 300)

	t.Run("Tessera's fsck", func(t *testing.T) { r.must(fsckOf(t, r.origin, r.vkey, r.fetch)) })
	t.Run("Tessera's tracker finds the two consistent", func(t *testing.T) {
		tracker, err := tesseraclient.NewLogStateTracker(t.Context(), r.fetch.ReadTile, earlyRaw, must(note.NewVerifier(r.vkey)), r.origin, tesseraclient.UnilateralConsensus(r.fetch.ReadCheckpoint))
		r.must(err)
		_, hashes, _, err := tracker.Update(t.Context())
		r.must(err)
		if tracker.Latest().Size < late.Size || len(hashes) == 0 {
			t.Errorf("it is at %d, with %d hashes", tracker.Latest().Size, len(hashes))
		}
	})
	t.Run("Tessera's proofs of our leaves", func(t *testing.T) { r.inclusion(t, late) })
	t.Run("x/mod's tlog", func(t *testing.T) { r.tlog(t, early, late) })
	t.Run("a witness that was set back", func(t *testing.T) { r.setBack(t, early) })

	r.must(r.end())
	t.Run("from the directory", func(t *testing.T) { r.directory(t) })
}

// inclusion builds proofs with Tessera and checks them with merkle and with us.
func (r *running) inclusion(t *testing.T, c *formatslog.Checkpoint) {
	builder, err := tesseraclient.NewProofBuilder(t.Context(), c.Size, r.fetch.ReadTile)
	r.must(err)
	for _, index := range []uint64{0, 1, 255, 256, c.Size - 1} {
		bundle, err := tesseraclient.GetEntryBundle(t.Context(), r.fetch.ReadEntryBundle, index/256, c.Size)
		r.must(err)
		entry := bundle.Entries[index%256]
		hashes, err := builder.InclusionProof(t.Context(), index)
		r.must(err)
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, rfc6962.DefaultHasher.HashLeaf(entry), hashes, c.Hash); err != nil {
			t.Errorf("leaf %d: %v", index, err)
		}
		if _, err := ledger.Decode(entry); err != nil {
			t.Errorf("leaf %d as it is served: %v", index, err)
		}
	}
}

// setBack has the witness forget what it saw. It is sent the proof from there
// again, cosigns, and what it cosigned before stays.
func (r *running) setBack(t *testing.T, early *formatslog.Checkpoint) {
	size := must(r.size())
	_, before := r.witness.last()
	r.witness.forget(early)
	r.grow(3)
	r.checkpoint(size + 3)
	_, all := r.witness.last()
	var conflict, proved bool
	for _, q := range all[len(before):] {
		conflict = conflict || q.Status == http.StatusConflict
		proved = proved || q.Status == http.StatusOK && q.Old == early.Size && q.Proof > 0
	}
	if !conflict || !proved {
		t.Errorf("it was asked %+v; it has to say 409 and be shown the way from %d", all[len(before):], early.Size)
	}
	s, err := r.client.Status(t.Context())
	r.must(err)
	if s.Signing == nil || len(s.Signing.Witnesses) != 1 || s.Signing.Witnesses[0].SetBack != 1 {
		t.Errorf("status does not say that the witness was set back: %+v", s.Ledger)
	}
}

func (r *running) size() (uint64, error) {
	raw, err := r.fetch.ReadCheckpoint(r.t.Context())
	if err != nil {
		return 0, err
	}
	c, _, _, err := formatslog.ParseCheckpoint(raw, r.origin, must(note.NewVerifier(r.vkey)))
	if err != nil {
		return 0, err
	}
	return c.Size, nil
}

// tileReader is x/mod's view of our tiles as they are served.
type tileReader struct{ r *running }

func (t tileReader) Height() int { return 8 }

func (t tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (t tileReader) ReadTiles(tiles []tlog.Tile) (out [][]byte, err error) {
	for _, tile := range tiles {
		// tlog-tiles leaves the height out of the path that x/mod writes.
		data, err := t.r.fetch.ReadTile(t.r.t.Context(), uint64(tile.L), uint64(tile.N), uint8(tile.W%256))
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

// tlog checks records and trees with x/mod alone: its reader authenticates each
// tile against the root.
func (r *running) tlog(t *testing.T, early, late *formatslog.Checkpoint) {
	tree := tlog.Tree{N: int64(late.Size), Hash: tlog.Hash(late.Hash)}
	hashes := tlog.TileHashReader(tree, tileReader{r})
	consistent, err := tlog.ProveTree(tree.N, int64(early.Size), hashes)
	r.must(err)
	r.must(tlog.CheckTree(consistent, tree.N, tree.Hash, int64(early.Size), tlog.Hash(early.Hash)))
	for _, index := range []int64{0, 17, 255, 256, tree.N - 1} {
		record, err := tlog.ProveRecord(tree.N, index, hashes)
		r.must(err)
		bundle, err := tesseraclient.GetEntryBundle(t.Context(), r.fetch.ReadEntryBundle, uint64(index)/256, late.Size)
		r.must(err)
		r.must(tlog.CheckRecord(record, tree.N, tree.Hash, index, tlog.RecordHash(bundle.Entries[index%256])))
	}
	tree.Hash[0] ^= 1
	if _, err := tlog.ProveRecord(tree.N, 3, tlog.TileHashReader(tree, tileReader{r})); err == nil {
		t.Error("x/mod accepts our tiles for another root")
	}
}

// directory writes what lies in a stopped node's directory as static files, by
// the names that tlog-tiles gives them, and has Tessera check those; then one
// byte is changed.
func (r *running) directory(t *testing.T) {
	files, err := store.Open(store.Dir(filepath.Join(r.node.Dir, "raft", "ledger")))
	r.must(err)
	defer files.Close()
	checkpoint, _ := r.witness.last()
	root := t.TempDir()
	put := func(path string, data []byte) string {
		t.Helper()
		full := filepath.Join(root, filepath.FromSlash(path))
		r.must(errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, data, 0o600)))
		return full
	}
	for tile := range ledger.Tiles(0, checkpoint.Size) {
		put(tile.Path(), must(files.ReadTile(t.Context(), tile)))
	}
	var last string
	for b := range ledger.Bundles(0, checkpoint.Size) {
		last = put(b.Path(), must(files.ReadTile(t.Context(), b)))
	}
	// Any signer will do for the files: what they are held against is the root
	// that the witness cosigned.
	key := must(ledger.NewSigner("files.example/copy", [ledger.SeedSize]byte{9}))
	text := formatslog.Checkpoint{Origin: "files.example/copy", Size: checkpoint.Size, Hash: checkpoint.Hash}
	put("checkpoint", must(note.Sign(&note.Note{Text: string(text.Marshal())}, must(note.NewSigner(key.Secret())))))
	f := tesseraclient.FileFetcher{Root: root}
	r.must(fsckOf(t, "files.example/copy", key.Verifier().String(), f))
	data := must(os.ReadFile(last))
	data[len(data)/2] ^= 1
	r.must(os.WriteFile(last, data, 0o600))
	if err := fsckOf(t, "files.example/copy", key.Verifier().String(), f); err == nil {
		t.Error("Tessera's fsck does not find a changed byte in a bundle of ours")
	}
}
