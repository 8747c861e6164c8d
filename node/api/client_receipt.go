package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/sovmesh/sovmesh/placement"
)

// Receipt is what the ledger of the job's region holds of it.
func (c *Client) Receipt(ctx context.Context, id placement.JobID) (*Receipt, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &Receipt{}
	err = d.call(ctx, c.cfg.Timeout, request{method: http.MethodGet, path: Prefix + "/jobs" + seg(id) + "/receipt", out: out})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// EraseOpenings erases what the leaves about a job commit to, at home.
func (c *Client) EraseOpenings(ctx context.Context, id placement.JobID) (*Erasure, error) {
	out := &Erasure{}
	err := c.home.call(ctx, c.cfg.Timeout, request{method: http.MethodDelete, path: Prefix + "/audit/openings", query: url.Values{"job": {string(id)}}, out: out})
	if err != nil {
		return nil, err
	}
	return out, nil
}
