package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/placement"
)

// LedgerFiles are the replica's ledger on disk; *store.Store is one.
type LedgerFiles interface {
	ledger.TileReader
	Entry(index uint64) ([]byte, error)
	Openings(first uint64, count int) ([]byte, error)
}

// checkpoint serves the newest signed checkpoint, as tlog-tiles says.
func checkpoint(_ *Server, c *call) error {
	all := c.view.Checkpoints()
	if len(all) == 0 {
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, "no checkpoint of this region's ledger has been signed yet", "ask again in a moment: the leader signs once there is something new").retry(time.Second)
	}
	return c.writeLedger([]byte(all[0].Note), "text/plain; charset=utf-8", "no-cache")
}

// hashTile serves tiles of hashes to everybody: they may cross borders, and
// other people's tools read the log by them.
func hashTile(s *Server, c *call) error {
	return s.ledgerTile(c, "tile/"+c.r.PathValue("path"), func(t ledger.Tile) bool { return t.Level >= 0 })
}

// entryBundle serves the leaves themselves, to auditors of this region.
func entryBundle(s *Server, c *call) error {
	if err := s.recordRead(c, "entries"); err != nil {
		return err
	}
	return s.ledgerTile(c, "tile/entries/"+c.r.PathValue("path"), func(t ledger.Tile) bool { return t.Level == ledger.EntriesLevel })
}

// replicaTile serves both to other replicas of this region, that lack them.
func replicaTile(s *Server, c *call) error {
	if err := replicaOnly(c.caller); err != nil {
		return err
	}
	return s.ledgerTile(c, "tile/"+c.r.PathValue("path"), func(ledger.Tile) bool { return true })
}

// replicaOpenings serves what leaves' commitments hide, to other replicas.
func replicaOpenings(s *Server, c *call) error {
	if err := replicaOnly(c.caller); err != nil {
		return err
	}
	first, err1 := strconv.ParseUint(c.r.URL.Query().Get("first"), 10, 62)
	count, err2 := strconv.Atoi(c.r.URL.Query().Get("count"))
	if err1 != nil || err2 != nil || count < 1 || count > ledger.TileWidth {
		return &InputError{Code: CodeUsage, Message: "first or count is no number of ledger entries", Help: "ask for 1 to 256 entries of one bundle"}
	}
	files, err := s.ledgerFiles()
	if err != nil {
		return err
	}
	data, err := files.Openings(first, count)
	if err != nil {
		return ledgerProblem(err)
	}
	return c.writeLedger(data, "application/octet-stream", "no-store")
}

// replicaCheckpoints serves the signed checkpoints that this replica keeps, to
// other replicas, page by page.
func replicaCheckpoints(s *Server, c *call) error {
	if err := replicaOnly(c.caller); err != nil {
		return err
	}
	after, err := strconv.ParseUint(c.r.URL.Query().Get("after"), 10, 62)
	if err != nil {
		return &InputError{Code: CodeUsage, Message: "after is no size of a ledger", Help: "ask for those after 0 leaves, then after the last that came"}
	}
	files, err := s.ledgerFiles()
	if err != nil {
		return err
	}
	whole, ok := files.(exportFiles)
	if !ok {
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node keeps no checkpoints", "ask another voter").retry(time.Second)
	}
	page, err := whole.Archive().After(after, store.KeptPage)
	if err != nil {
		return err
	}
	return c.writeLedger(store.EncodeKept(page), "application/octet-stream", "no-store")
}

// replicaOnly lets through the region's nodes that hold its state.
func replicaOnly(who *Caller) error {
	if who.Kind == CallerNode && (who.Role == placement.RoleVoter || who.Role == placement.RoleStandby) {
		return nil
	}
	return newProblem(http.StatusForbidden, CodeRole, "only voters and standbys of this region take its ledger over", "an auditor reads it with a token: "+Prefix+"/ledger/checkpoint")
}

func (s *Server) ledgerFiles() (LedgerFiles, error) {
	if s.cfg.LedgerFiles != nil {
		if f := s.cfg.LedgerFiles(); f != nil {
			return f, nil
		}
	}
	return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, "this node keeps no ledger files", "ask a voter: sovmesh node list").retry(time.Second)
}

func (s *Server) ledgerTile(c *call, path string, wanted func(ledger.Tile) bool) error {
	t, err := ledger.ParseTilePath(path)
	if err != nil || !wanted(t) {
		return newProblem(http.StatusNotFound, CodeUsage, quoteWord(path)+" is no tile of a ledger", "paths are as https://c2sp.org/tlog-tiles says, such as tile/0/x001/234 or tile/entries/067.p/9")
	}
	files, err := s.ledgerFiles()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), s.cfg.WriteTimeout)
	defer cancel()
	data, err := files.ReadTile(ctx, t)
	if err != nil {
		return ledgerProblem(err)
	}
	cache := "public, max-age=31536000, immutable"
	switch {
	case t.Level == ledger.EntriesLevel:
		cache = "private, no-store" // nobody on the way keeps what auditors may read
	case !t.Full():
		cache = "public, max-age=60"
	}
	return c.writeLedger(data, "application/octet-stream", cache)
}

// ledgerProblem says in HTTP what the store said. A gap is 503 with its reason,
// as every error with a hint; what was changed on the disk has a code of its own,
// and does not become better by asking again.
func ledgerProblem(err error) error {
	var rot *store.Rot
	if errors.As(err, &rot) {
		return newProblem(http.StatusInternalServerError, CodeDamaged, rot.Error(), rot.Hint()).final()
	}
	var beyond *store.Beyond
	if errors.As(err, &beyond) {
		return newProblem(http.StatusNotFound, CodeUsage, beyond.Error(), beyond.Hint())
	}
	return err
}

func (c *call) writeLedger(data []byte, kind, cache string) error {
	h := c.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", cache)
	h.Set("Content-Length", strconv.Itoa(len(data)))
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(data) // the caller is gone: nobody to tell
	return nil
}
