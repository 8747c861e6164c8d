package interop

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	tesseraclient "github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

const theirOrigin = "tessera.example/log"

// tesseraTiles are the files that Tessera wrote, as our readers ask for tiles.
type tesseraTiles struct{ f tesseraclient.FileFetcher }

func (t tesseraTiles) ReadTile(ctx context.Context, tile ledger.Tile) ([]byte, error) {
	if tile.Level == ledger.EntriesLevel {
		return t.f.ReadEntryBundle(ctx, tile.Index, uint8(tile.Width%256))
	}
	return t.f.ReadTile(ctx, uint64(tile.Level), tile.Index, uint8(tile.Width%256))
}

// A log that Tessera wrote, witnessed by a foreign witness, under our verifier:
// checkpoint and cosignature, every tile and bundle, receipts of leaves, and
// consistency. Then each is damaged.
func TestWeVerifyALogThatTesseraWrote(t *testing.T) {
	ctx := t.Context()
	witness := newForeignWitness(t)
	key, err := ledger.NewSigner(theirOrigin, [ledger.SeedSize]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	witness.knows(key.Verifier().String())
	root := t.TempDir()
	driver, err := posix.New(ctx, posix.Config{Path: root})
	if err != nil {
		t.Fatal(err)
	}
	group := tessera.NewWitnessGroup(1, must(tessera.NewWitness(witness.vkey, must(url.Parse(witness.server.URL)))))
	opts := tessera.NewAppendOptions().WithCheckpointSigner(must(note.NewSigner(key.Secret()))).
		WithBatching(64, 20*time.Millisecond).WithCheckpointInterval(100*time.Millisecond).
		WithGarbageCollectionInterval(0).WithWitnesses(group, nil)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		t.Fatal(err)
	}
	await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 20*time.Millisecond)
	write := func(from, to int) []byte {
		t.Helper()
		var all []tessera.IndexFuture
		for i := from; i < to; i++ {
			all = append(all, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", i))))
		}
		var signed []byte
		for _, f := range all {
			if _, signed, err = await.Await(ctx, f); err != nil {
				t.Fatal(err)
			}
		}
		return signed
	}
	older := write(0, 100)
	newer := write(100, 700)
	if err := shutdown(ctx); err != nil {
		t.Fatal(err)
	}

	policy := must(ledger.NewPolicy(ledger.PolicySpec{
		Logs:      []ledger.PolicyLog{{Key: key.Verifier()}},
		Witnesses: []ledger.PolicyWitness{{Name: "outside", Key: must(ledger.ParseVerifier(witness.vkey))}},
		Quorum:    "outside",
	}))
	first, err := ledger.VerifyCheckpoint(policy, older)
	if err != nil {
		t.Fatal(err)
	}
	last, err := ledger.VerifyCheckpoint(policy, newer)
	if err != nil {
		t.Fatal(err)
	}
	if len(last.Witnesses()) != 1 || last.At().IsZero() || last.Head().Size != 700 {
		t.Errorf("the last checkpoint: %d leaves, witnessed by %v at %s", last.Head().Size, last.Witnesses(), last.At())
	}
	tiles := tesseraTiles{tesseraclient.FileFetcher{Root: root}}
	hashes, err := ledger.ProveConsistency(ctx, tiles, first.Head(), last.Head())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ledger.VerifyConsistency(policy, older, newer, hashes); err != nil {
		t.Error(err)
	}
	entries := bundles(t, tiles, last.Head())
	signed := must(ledger.ParseSignedCheckpoint(newer))
	for _, index := range []uint64{0, 255, 256, 511, 512, 699} {
		way, err := ledger.ProveInclusion(ctx, tiles, last.Head(), index)
		if err != nil {
			t.Fatal(err)
		}
		receipt := must((&ledger.Proof{Index: index, Hashes: way, Checkpoint: signed}).Encode())
		if got, err := ledger.Verify(policy, receipt, entries[index]); err != nil || got.Index() != index {
			t.Errorf("leaf %d: %v", index, err)
		}
		if _, err := ledger.Verify(policy, receipt, append([]byte("x"), entries[index]...)); err == nil {
			t.Errorf("leaf %d: another entry passes", index)
		}
	}
	for i := range newer {
		bad := append([]byte(nil), newer...)
		bad[i] ^= 1
		if _, err := ledger.VerifyCheckpoint(policy, bad); err == nil {
			t.Errorf("byte %d of the checkpoint changed, and it passes", i)
		}
	}
}

// bundles reads and checks every bundle against the root.
func bundles(t *testing.T, tiles tesseraTiles, head ledger.Head) (all [][]byte) {
	t.Helper()
	checked := ledger.NewCheckedTiles(tiles, head)
	for b := range ledger.Bundles(0, head.Size) {
		data, err := tiles.ReadTile(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := checked.Entries(t.Context(), b, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, append([]byte(nil), e...))
		}
		data[len(data)/2] ^= 1
		if _, err := checked.Entries(t.Context(), b, data); err == nil {
			t.Errorf("%s: a changed byte passes", b.Path())
		}
	}
	return all
}
