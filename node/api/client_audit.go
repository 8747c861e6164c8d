package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
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
