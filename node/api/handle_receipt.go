package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
)

// checkpointWait is how long a receipt waits for a checkpoint that covers it: one
// is signed every second.
const checkpointWait = time.Second

// jobReceipt is what the region's ledger holds of a job: in words, or as the file
// that is verified offline.
func jobReceipt(s *Server, c *call) error {
	proof, err := c.wantsProof()
	if err != nil {
		return err
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	j, err := c.findJob(v)
	if err != nil {
		return err
	}
	leaves := v.JobLeaves(j.ID)
	if proof {
		// Its leaves say where jobs were placed, so callers of other regions have no
		// part in it.
		if c.caller.Kind != CallerToken {
			return newProblem(http.StatusForbidden, CodeRole, "a receipt's leaves are given to callers of this region alone", "ask your own region: its ledger holds its half of the crossing")
		}
		if len(leaves) == 0 {
			return newProblem(http.StatusNotFound, CodeNotFound, "the log "+v.LogOrigin()+" has no leaf of job "+string(j.ID)+": it was begun anew after the job", "an evidence pack of the log before it has them: sovmesh audit export --job "+string(j.ID))
		}
		return s.receiptFile(c, v, string(j.ID), leaves)
	}
	out, err := s.receiptOf(c, v, leaves)
	if err != nil {
		return err
	}
	out.Job, out.Receipt = j.ID, j.Receipt
	return c.writeJSON(http.StatusOK, out)
}

// leafReceipt is the receipt of one leaf: of a drain, a join, a policy, whatever
// the header X-Sovmesh-Receipt of a write names.
func leafReceipt(s *Server, c *call) error {
	proof, err := c.wantsProof()
	if err != nil {
		return err
	}
	if !c.caller.seesAll() {
		return newProblem(http.StatusForbidden, CodeRole, "leaves are about the jobs of all tenants, which you may not see", "ask for the receipt of a job of yours, or use a token of the role operator, auditor or admin")
	}
	leaf, err := strconv.ParseUint(c.r.PathValue("leaf"), 10, 62)
	if err != nil {
		return &InputError{Code: CodeUsage, Message: quoteWord(c.r.PathValue("leaf")) + " is no number of a leaf", Help: "it is what stands behind the # of a receipt's id"}
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	if origin := c.r.URL.Query().Get("origin"); origin != "" && origin != v.LogOrigin() {
		return newProblem(http.StatusNotFound, CodeNotFound, "this region's log is "+v.LogOrigin()+", not "+quoteWord(origin), "ask the region whose log it is; of a log that was given up an evidence pack has the leaves")
	}
	if leaf >= v.LedgerSize() {
		return newProblem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("the log %s has no leaf %d: it has %d", v.LogOrigin(), leaf, v.LedgerSize()), "leaves are counted from 0; a log begun anew counts anew")
	}
	if err := s.recordRead(c, "receipts"); err != nil {
		return err
	}
	if proof {
		return s.receiptFile(c, v, fmt.Sprintf("leaf-%d", leaf), []uint64{leaf})
	}
	out, err := s.receiptOf(c, v, []uint64{leaf})
	if err != nil {
		return err
	}
	out.Receipt = v.ReceiptID(leaf)
	return c.writeJSON(http.StatusOK, out)
}

// wantsProof reads which of the two forms was asked for.
func (c *call) wantsProof() (bool, error) {
	switch format := c.r.URL.Query().Get("format"); format {
	case "proof":
		return true, nil
	case "json":
		return false, nil
	case "":
		accept := c.r.Header.Get("Accept")
		return strings.Contains(accept, "text/plain") && !strings.Contains(accept, "json"), nil
	default:
		return false, &InputError{Code: CodeUsage, Message: "the parameter format cannot be " + quoteWord(format), Help: "write json or proof"}
	}
}

func (s *Server) receiptOf(c *call, v *state.View, leaves []uint64) (*Receipt, error) {
	root := v.LedgerRoot()
	out := &Receipt{
		State: "committed", Witnesses: []string{}, Region: s.cfg.Region, Origin: v.LogOrigin(),
		LedgerSize: v.LedgerSize(), LedgerRoot: hex.EncodeToString(root[:]), Leaves: []ReceiptLeaf{},
	}
	for _, index := range leaves {
		leaf, err := s.receiptLeaf(c, v, index)
		if err != nil {
			return nil, err
		}
		out.Leaves = append(out.Leaves, leaf)
	}
	if len(leaves) == 0 {
		return out, nil
	}
	standing := v.Standing(leaves[len(leaves)-1])
	out.State, out.Asked = standing.String(), standing.Asked
	if cp := standing.Checkpoint; cp != nil {
		out.Checkpoint, out.CheckpointAt = cp.Size, cp.At
		out.Witnesses = append(out.Witnesses, cp.Witnesses...)
	}
	return out, nil
}

func (s *Server) receiptLeaf(c *call, v *state.View, index uint64) (ReceiptLeaf, error) {
	out := ReceiptLeaf{Index: index, State: v.Standing(index).String()}
	files, err := s.ledgerFiles()
	if err != nil {
		return out, err
	}
	entry, err := files.Entry(index)
	if err != nil {
		return out, ledgerProblem(err)
	}
	hash := ledger.HashLeaf(entry)
	out.Hash = hex.EncodeToString(hash[:])
	if c.caller.Kind != CallerToken {
		return out, nil
	}
	leaf, err := ledger.Decode(entry)
	if err != nil {
		return out, fmt.Errorf("read leaf %d: %w", index, err)
	}
	out.Kind, out.Time, out.Code, out.Actor, out.Subject = leaf.Kind, leaf.Time, leaf.Code, leaf.Actor, leaf.Subject
	for _, sh := range leaf.Shown {
		out.Shown = append(out.Shown, ReceiptShown(sh))
	}
	for i := range leaf.Judged {
		out.Judged = append(out.Judged, judgedOf(&leaf.Judged[i]))
	}
	return out, nil
}

func judgedOf(j *ledger.Judgement) ReceiptJudgement {
	out := ReceiptJudgement{Subject: j.Subject, Place: j.Place, Verdict: j.Verdict, Rule: j.Rule, Tag: j.Tag, LawPack: j.LawPack, On: j.On}
	if j.Facts != nil {
		out.Region, out.Country = j.Facts.Region, j.Facts.Country
	}
	return out
}

// receiptFile is the file that `sovmesh audit verify` reads.
func (s *Server) receiptFile(c *call, v *state.View, name string, leaves []uint64) error {
	v = s.witnessed(c.r.Context(), v, leaves[len(leaves)-1])
	cp, err := s.covering(c.r.Context(), v, leaves[len(leaves)-1])
	if err != nil {
		return err
	}
	note, err := ledger.ParseSignedCheckpoint([]byte(cp.Note))
	if err != nil {
		return fmt.Errorf("read checkpoint %d: %w", cp.Size, err)
	}
	data, err := s.prove(c.r.Context(), note, leaves)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Disposition", `attachment; filename="`+name+`.tlog-proof"`)
	return c.writeLedger(data, "text/plain; charset=utf-8", "private, no-store")
}

// covering is a checkpoint that covers the leaf; it waits for the next one.
func (s *Server) covering(ctx context.Context, v *state.View, leaf uint64) (*state.Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointWait)
	defer cancel()
	for {
		if cp := v.Standing(leaf).Checkpoint; cp != nil {
			return cp, nil
		}
		next, err := s.cfg.Ledger.Wait(ctx, v.Index())
		if ctx.Err() != nil {
			return nil, newProblem(http.StatusServiceUnavailable, CodeUnavailable, fmt.Sprintf("leaf %d is committed, and no signed checkpoint covers it yet", leaf), "ask again in a moment; sovmesh status tells whether the leader signs").retry(time.Second)
		}
		if err != nil {
			return nil, err
		}
		v = next
	}
}

// prove makes the receipt of leaves under a checkpoint.
func (s *Server) prove(ctx context.Context, note *ledger.SignedCheckpoint, leaves []uint64) ([]byte, error) {
	files, err := s.ledgerFiles()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.WriteTimeout)
	defer cancel()
	head := note.Unverified()
	out := evidence.Receipt{Checkpoint: note}
	for _, index := range leaves {
		entry, err := files.Entry(index)
		if err != nil {
			return nil, ledgerProblem(err)
		}
		hashes, err := ledger.ProveInclusion(ctx, files, head.Head(), index)
		if err != nil {
			var damaged *ledger.DamageError
			if errors.As(err, &damaged) {
				s.cfg.Log.Error("this replica's ledger does not fit the signed checkpoint", "leaf", index, "err", err)
			}
			return nil, err
		}
		out.Leaves = append(out.Leaves, evidence.ReceiptLeaf{Index: index, Entry: entry, Hashes: hashes})
	}
	return out.Encode()
}
