package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	res, err := d.send(ctx, request{method: http.MethodGet, path: Prefix + "/jobs" + seg(id) + "/receipt", query: url.Values{"format": {"proof"}}})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, evidence.MaxReceipt+1))
	if err != nil {
		return nil, fmt.Errorf("read the receipt of job %s: %w", id, err)
	}
	if _, err := evidence.ParseReceipt(data); err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", d.base, err)
	}
	return data, nil
}
