package api

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/transport"
)

// LedgerPeer reads the ledger of another replica of the own region. What it
// gives is judged by whoever asked.
type LedgerPeer struct {
	mesh *MeshClient
	peer transport.Peer
}

// Ledger is the ledger of a voter or standby of the own region.
func (m *MeshClient) Ledger(p transport.Peer) LedgerPeer { return LedgerPeer{m, p} }

// ReadTile implements ledger.TileReader, for entry bundles too.
func (l LedgerPeer) ReadTile(ctx context.Context, t ledger.Tile) ([]byte, error) {
	return l.read(ctx, "/ledger/"+t.Path(), ledger.MaxBundle)
}

// Openings gives what the commitments of leaves hide, see store.Store.Openings.
func (l LedgerPeer) Openings(ctx context.Context, first uint64, count int) ([]byte, error) {
	return l.read(ctx, fmt.Sprintf("/ledger/openings?first=%d&count=%d", first, count), store.OpeningsAnswerMax)
}

// Checkpoints gives signed checkpoints of more than size leaves, as
// store.EncodeKept writes them.
func (l LedgerPeer) Checkpoints(ctx context.Context, size uint64) ([]byte, error) {
	return l.read(ctx, fmt.Sprintf("/ledger/checkpoints?after=%d", size), store.KeptAnswerMax)
}

func (l LedgerPeer) read(ctx context.Context, path string, most int64) ([]byte, error) {
	res, err := l.mesh.send(ctx, l.peer, meshCall{method: http.MethodGet, path: path, cargo: cargo(transport.CargoStatus)})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s to %s: %w", l.peer.ID, path, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("the answer of %s to %s has more than %d bytes", l.peer.ID, path, most)
	}
	return data, nil
}
