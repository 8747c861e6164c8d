package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/placement"
)

// Export is an evidence pack of the region. The caller closes it, and has all
// of it only if reading ends without an error.
func (c *Client) Export(ctx context.Context, f evidence.Filter) (io.ReadCloser, error) {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"from": f.From, "to": f.To} {
		if !at.IsZero() {
			q.Set(name, at.UTC().Format(time.RFC3339))
		}
	}
	set("job", f.Job)
	set("tenant", f.Tenant)
	if f.Acts {
		set("acts", "true")
	}
	set("regime", strings.Join(f.Regime, ","))
	res, err := c.home.send(ctx, request{method: http.MethodGet, path: Prefix + "/audit/export", query: q})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// InferenceReceipt is the receipt of an inference request as its node gives it,
// byte for byte: kept as a file it is verified offline. It waits until
// witnesses have cosigned its place in the ledger, or until within is over; then it is what there is.
func (c *Client) InferenceReceipt(ctx context.Context, id string, within time.Duration) ([]byte, *receipt.Document, error) {
	end := time.Now().Add(within)
	at := c.home
	for {
		data, elsewhere, err := c.inferenceReceipt(ctx, at, id)
		if elsewhere != "" && at == c.home {
			// Another node of the own region, by the same roots.
			base, bad := checkBase(elsewhere)
			if bad != nil {
				return nil, nil, err
			}
			at = &door{base: base, auth: c.home.auth, http: c.home.http}
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		d, err := receipt.ParseDocument(data)
		if err != nil {
			return nil, nil, fmt.Errorf("the answer of %s: %w", at.base, err)
		}
		if d.State == receipt.Missing || d.State == receipt.Erased || witnessed(d) || !time.Now().Before(end) {
			return data, d, nil
		}
		moment(ctx, receiptEvery)
	}
}

// witnessed reports whether the receipt has a proof under a checkpoint that
// another than the log itself has signed.
func witnessed(d *receipt.Document) bool {
	if d.Ledger == nil || d.Ledger.Proof == "" {
		return false
	}
	r, err := evidence.ParseReceipt([]byte(d.Ledger.Proof))
	return err != nil || len(r.Checkpoint.Signatures()) > 1 // what it is worth, the verifier says
}

// receiptEvery is how often a receipt is asked for that is only promised.
const receiptEvery = 300 * time.Millisecond

// inferenceReceipt asks one node. Elsewhere is the node that keeps the receipt,
// with the error that says so.
func (c *Client) inferenceReceipt(ctx context.Context, at *door, id string) (data []byte, elsewhere string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	res, err := at.send(ctx, request{method: http.MethodGet, path: Prefix + "/receipts" + seg(placement.JobID(id))})
	var p *Problem
	if errors.As(err, &p) && p.Status == http.StatusMisdirectedRequest && len(p.Doors) == 1 {
		return nil, p.Doors[0].URL, err
	}
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	data, err = io.ReadAll(io.LimitReader(res.Body, receipt.MaxDocument+1))
	if err != nil {
		err = fmt.Errorf("read the receipt %s: %w", id, err)
	}
	return data, "", err
}

// ReceiptFile is the receipt of a job, as it is verified offline.
func (c *Client) ReceiptFile(ctx context.Context, id placement.JobID) ([]byte, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.receiptFile(ctx, d, Prefix+"/jobs"+seg(id)+"/receipt", url.Values{})
}

// LeafReceiptFile is the receipt of one leaf of the home region's log, as it is
// verified offline. A log of another name is refused.
func (c *Client) LeafReceiptFile(ctx context.Context, origin string, leaf uint64) ([]byte, error) {
	return c.receiptFile(ctx, c.home, Prefix+"/ledger/receipts/"+strconv.FormatUint(leaf, 10), url.Values{"origin": {origin}})
}

func (c *Client) receiptFile(ctx context.Context, d *door, path string, q url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	q.Set("format", "proof")
	res, err := d.send(ctx, request{method: http.MethodGet, path: path, query: q})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, evidence.MaxReceipt+1))
	if err != nil {
		return nil, fmt.Errorf("read the receipt: %w", err)
	}
	if _, err := evidence.ParseReceipt(data); err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", d.base, err)
	}
	return data, nil
}
