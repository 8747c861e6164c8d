package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// exportFiles are the replica's ledger on disk as an export reads it;
// *store.Store is one.
type exportFiles interface {
	LedgerFiles
	Entries(first uint64, count int) ([][]byte, error)
	Opening(index uint64) (*store.Opening, error)
	Archive() *store.Archive
}

// MediaPack is the type of an evidence pack.
const MediaPack = "application/x-tar"

// auditExport streams an evidence pack of this region: see consensus/evidence.
func auditExport(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	filter, err := exportFilter(c)
	if err != nil {
		return err
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	if err := s.recordRead(c, "export"); err != nil {
		return err
	}
	v = s.witnessed(c.r.Context(), v, max(v.LedgerSize(), 1)-1)
	exporter, err := s.exporter(c.r.Context(), v, filter)
	if err != nil {
		return err
	}
	out := &packAnswer{w: c.w}
	err = exporter.Write(c.r.Context(), out)
	var unready *evidence.Unready
	switch {
	case err == nil:
		return nil
	case out.begun:
		if c.r.Context().Err() == nil {
			s.cfg.Log.Warn("an export broke off", "region", s.cfg.Region, "err", err)
		}
		panic(http.ErrAbortHandler) // whoever reads it must see that it is cut short
	case errors.As(err, &unready):
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, unready.What, unready.Help).retry(time.Second)
	}
	return ledgerProblem(err)
}

// witnessed waits a moment until all witnesses have seen a leaf: whoever asks for
// evidence expects to find what happened just now, and evidence ends where its
// last checkpoint does. While a witness is away it goes on with what there is.
func (s *Server) witnessed(ctx context.Context, v *state.View, leaf uint64) *state.View {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.WitnessWait)
	defer cancel()
	for {
		if st := v.Standing(leaf); st.Checkpoint != nil && st.Seen >= st.Asked {
			return v
		}
		next, err := s.cfg.Ledger.Wait(ctx, v.Index())
		if err != nil || ctx.Err() != nil {
			return v
		}
		v = next
	}
}

// packAnswer begins the answer with its first byte, so that what fails before
// is answered as a problem.
type packAnswer struct {
	w     http.ResponseWriter
	begun bool
}

func (p *packAnswer) Write(data []byte) (int, error) {
	if !p.begun {
		p.begun = true
		h := p.w.Header()
		h.Set("Content-Type", MediaPack)
		h.Set("Cache-Control", "private, no-store")
		h.Set("X-Accel-Buffering", "no")
		p.w.WriteHeader(http.StatusOK)
	}
	return p.w.Write(data)
}

func exportFilter(c *call) (f evidence.Filter, err error) {
	q := c.r.URL.Query()
	for name, at := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if text := q.Get(name); text != "" {
			if *at, err = time.Parse(time.RFC3339, text); err != nil {
				return f, &InputError{Code: CodeUsage, Message: "the parameter " + name + " cannot be " + quoteWord(text), Help: "write a time of RFC 3339, as in 2026-11-21T12:00:00Z"}
			}
			*at = at.UTC()
		}
	}
	if !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To) {
		return f, &InputError{Code: CodeUsage, Message: "from is not before to", Help: "turn them round"}
	}
	f.Job, f.Tenant = q.Get("job"), q.Get("tenant")
	if f.Job != "" && !placement.JobID(f.Job).Valid() {
		return f, &InputError{Code: CodeUsage, Message: quoteWord(f.Job) + " is no job id", Help: "give the whole id; see: sovmesh job list"}
	}
	if f.Acts, err = boolQuery(c, "acts"); err != nil {
		return f, err
	}
	if f.Tenant != "" && !placement.ValidName(f.Tenant) {
		return f, &InputError{Code: CodeUsage, Message: quoteWord(f.Tenant) + " is no tenant", Help: "see: sovmesh tenant list"}
	}
	if text := q.Get("regime"); text != "" {
		f.Regime = strings.Split(text, ",")
		for _, word := range f.Regime {
			if !slices.Contains(evidence.Regimes(), word) {
				return f, &InputError{Code: CodeUsage, Message: quoteWord(word) + " is no regime that reports know", Help: "write one or more of " + strings.Join(evidence.Regimes(), ",")}
			}
		}
	}
	return f, nil
}

// exporter takes what the view and this replica's files have of the log that the
// filter's time ends in.
func (s *Server) exporter(ctx context.Context, v *state.View, f evidence.Filter) (*evidence.Exporter, error) {
	log, err := s.logUpTo(v, f.To)
	if err != nil {
		return nil, err
	}
	known := witnessKeys(v)
	e := &evidence.Exporter{
		Mesh: s.cfg.Mesh, Region: string(s.cfg.Region), Origin: log.origin, Now: s.now(), Filter: f,
		Source: &exportSource{log.files, v}, Enough: len(known), Selects: selects(v, f), Segments: s.segments(v, f),
	}
	if e.Checkpoints, err = signedStates(known, log.remembered, log.files.Archive()); err != nil {
		return nil, err
	}
	if log.next != nil {
		e.Successor, err = s.successor(ctx, known, log.next)
		return e, err // what nodes hold now is of the present log
	}
	e.Certificates = s.ownChain()
	if s.cfg.Refused != nil {
		e.Refused = s.cfg.Refused()
	}
	return e, nil
}

// ownChain is this node's certificate with those above it.
func (s *Server) ownChain() map[string][]byte {
	if s.cfg.Credential == nil {
		return nil
	}
	own := s.cfg.Credential.Current()
	if own == nil {
		return nil
	}
	var text []byte
	for _, der := range own.Chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return map[string][]byte{own.Leaf.SerialNumber.String(): text}
}

// selects picks the leaves whose openings a filter wants: those about one job,
// or about a tenant's jobs, and acts of administration. Without either none, as openings hold names and
// commands. Jobs that the state has forgotten are known by their submission, if
// its opening was not erased.
func selects(v *state.View, f evidence.Filter) func(*ledger.Leaf, func() []byte) bool {
	if f.Job == "" && f.Tenant == "" && !f.Acts {
		return nil
	}
	mine := map[string]bool{}
	if f.Job != "" {
		mine[f.Job] = true
	}
	if f.Tenant != "" {
		wanted := func(j *placement.Job) bool {
			return string(j.Tenant) == f.Tenant && (f.Job == "" || string(j.ID) == f.Job)
		}
		mine = map[string]bool{}
		for _, j := range v.Jobs("", v.JobCount(), wanted) {
			mine[string(j.ID)] = true
		}
	}
	return func(l *ledger.Leaf, open func() []byte) bool {
		ids := evidence.JobsOf(l)
		if f.Tenant != "" && f.Job == "" && l.Kind == string(state.KindSubmitJob) && l.Accepted() {
			if _, cmd, err := state.Decode(open()); err == nil {
				if k, ok := cmd.(state.SubmitJob); ok && string(k.Job.Tenant) == f.Tenant {
					for _, id := range ids {
						mine[id] = true
					}
				}
			}
		}
		return f.Acts && evidence.Administers(l) || slices.ContainsFunc(ids, func(id string) bool { return mine[id] })
	}
}

// exportSource is a region's evidence as this replica has it.
type exportSource struct {
	exportFiles
	view *state.View
}

// Opening implements evidence.Source.
func (e *exportSource) Opening(leaf uint64) (command []byte, erased bool, err error) {
	o, err := e.exportFiles.Opening(leaf)
	switch {
	case errors.Is(err, store.ErrErased):
		return nil, true, nil
	case errors.Is(err, store.ErrNoOpening):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	return o.Command, false, nil
}

// LawPack implements evidence.Source.
func (e *exportSource) LawPack(hash string) map[string][]byte {
	if p := e.view.PackByHash(hash); p != nil {
		return p.Tables()
	}
	return nil
}

// Bundle implements evidence.Source: what a region is known by now, or was in
// the command of the leaf that names it.
func (e *exportSource) Bundle(digest string, leaf uint64) []byte {
	fits := func(data []byte) bool {
		sum := sha256.Sum256(data)
		return len(data) > 0 && hex.EncodeToString(sum[:]) == digest
	}
	for _, r := range e.view.Regions() {
		if fits(r.Bundle) {
			return r.Bundle
		}
	}
	command, _, err := e.Opening(leaf)
	if err != nil {
		return nil
	}
	_, cmd, err := state.Decode(command)
	if err != nil {
		return nil
	}
	var named []byte
	switch k := cmd.(type) {
	case state.InitRegion:
		named = k.Region.Bundle
	case state.PutPeer:
		named = k.Region.Bundle
	case state.UpdatePeer:
		named = k.Bundle
	}
	if fits(named) {
		return bytes.Clone(named)
	}
	return nil
}
