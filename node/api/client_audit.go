package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence"
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
	set("regime", strings.Join(f.Regime, ","))
	res, err := c.home.send(ctx, request{method: http.MethodGet, path: Prefix + "/audit/export", query: q})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}
