package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/sovmesh/sovmesh/placement"
)

// EraseOpenings erases what the leaves about a job commit to, at home.
func (c *Client) EraseOpenings(ctx context.Context, id placement.JobID) (*Erasure, error) {
	out := &Erasure{}
	err := c.home.call(ctx, c.cfg.Timeout, request{method: http.MethodDelete, path: Prefix + "/audit/openings", query: url.Values{"job": {string(id)}}, out: out})
	if err != nil {
		return nil, err
	}
	return out, nil
}
