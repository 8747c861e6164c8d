package gateway

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// model is one entry of GET /v1/models.
type model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	// Regions are those where the model may be asked for, as far as is known.
	Regions []placement.RegionID `json:"sovmesh_regions"`
}

func (g *Gateway) listModels(w http.ResponseWriter, r *http.Request) {
	list, e := g.models(w, r)
	if e != nil {
		writeError(w, e)
		return
	}
	writeJSON(w, struct {
		Object string   `json:"object"`
		Data   []*model `json:"data"`
	}{"list", list})
}

func (g *Gateway) showModel(w http.ResponseWriter, r *http.Request) {
	list, e := g.models(w, r)
	if e != nil {
		writeError(w, e)
		return
	}
	id := r.PathValue("id")
	for _, m := range list {
		if m.ID == id {
			writeJSON(w, m)
			return
		}
	}
	writeError(w, modelNotFound(clean(id, modelMax)))
}

// models lists what a caller may ask for. A name is no payload: a caller without
// any tag sees the list too, and one with a tag sees what satisfies it.
func (g *Gateway) models(w http.ResponseWriter, r *http.Request) ([]*model, *Error) {
	g.head(w)
	caller, e := g.cfg.Auth(r)
	if e != nil {
		return nil, e
	}
	j := g.judge()
	if j == nil {
		return nil, notReady()
	}
	p, e := j.request(caller, r.Header.Values(residencyHeader))
	tagged := e == nil
	if e != nil && e.Code != "residency_required" {
		return nil, e
	}
	c := g.catalog.of(j.view)
	found := map[string]*model{}
	add := func(name string, job *placement.Job, region placement.RegionID) {
		m := found[name]
		if m == nil {
			m = &model{ID: name, Object: "model", OwnedBy: "sovmesh"}
			found[name] = m
		}
		if job != nil && m.Created == 0 {
			m.Created = job.SubmittedAt.Unix()
		}
		if !slices.Contains(m.Regions, region) {
			m.Regions = append(m.Regions, region)
		}
	}
	for name, list := range c.models {
		for _, d := range list {
			if region, ok := g.offered(j, c, d, p, tagged, caller.Tenant); ok {
				add(name, d.job, region)
			}
		}
	}
	for _, peer := range j.foreign() {
		if r := j.there(p, peer, g.site(j)); tagged && !r.Permitted() {
			continue
		}
		for _, name := range g.cfg.Peers.Models(peer.ID) {
			if validModel(name) == nil {
				add(name, nil, peer.ID)
			}
		}
	}
	return sorted(found), nil
}

// offered reports whether a deployment may be shown to a caller, and where it is.
func (g *Gateway) offered(j *judge, c *catalog, d deployment, p residency.Policy, tagged bool, tenant placement.TenantID) (placement.RegionID, bool) {
	if !g.visible(d.job, tenant) {
		return "", false
	}
	if d.job.Region != "" && d.job.Region != j.self.ID {
		r := j.view.Region(d.job.Region)
		if r == nil || r.State != placement.PeerActive {
			return "", false
		}
		ruling := j.there(p, r, g.site(j))
		return r.ID, !tagged || ruling.Permitted()
	}
	if !d.running() {
		return "", false
	}
	own, err := j.view.PolicyOf(d.job)
	if err != nil {
		return "", false
	}
	own = own.Meet(p)
	return j.self.ID, slices.ContainsFunc(c.sites, func(s string) bool { r := j.here(own, s); return r.Permitted() })
}

func sorted(found map[string]*model) []*model {
	out := make([]*model, 0, len(found))
	for _, m := range found {
		slices.Sort(m.Regions)
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *model) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeError(w, &Error{Status: 500, Code: "internal_error", Message: err.Error()})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that has left hears nothing
}
