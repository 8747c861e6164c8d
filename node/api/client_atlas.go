package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Atlas is what home knows of the regions of the mesh, as [placement.Crossing]
// judges them. Submits and checks are judged on it, so that both have one answer.
type Atlas struct {
	// Law is home's pack, with those of the other regions where home holds them.
	// The day is the caller's to set.
	Law     placement.Law
	Home    *placement.Region
	Regions []*placement.Region // home among them, in the directory's order
	// Silent are the regions that home has no contact with.
	Silent map[placement.RegionID]bool
}

// Atlas asks home for the regions that it knows, and for the law packs that they
// decide by.
func (c *Client) Atlas(ctx context.Context) (*Atlas, error) {
	dir, err := c.Directory(ctx)
	if err != nil {
		return nil, err
	}
	return c.atlasOf(ctx, dir)
}

func (c *Client) atlasOf(ctx context.Context, dir *Directory) (*Atlas, error) {
	pack, err := c.pack(ctx, dir.LawPack)
	if err != nil {
		return nil, err
	}
	a := &Atlas{Law: placement.Law{Pack: pack, Held: c.held}, Silent: map[placement.RegionID]bool{}}
	for _, r := range dir.Regions {
		at := &placement.Region{ID: r.Region, Facts: r.Facts, Export: r.Export, Import: r.Import, LawPack: r.LawPack, Self: r.Region == dir.Home}
		if at.Self {
			a.Home = at
		}
		a.Regions = append(a.Regions, at)
		a.Silent[r.Region] = r.Link == LinkUnknown
		if r.LawPack != "" && r.LawPack != dir.LawPack {
			// Between regions on different packs both must permit; one that home does
			// not hold is missed when its region is judged.
			_, _ = c.pack(ctx, r.LawPack)
		}
	}
	return a, nil
}

// held is a law pack that this client has: built in, or fetched before.
func (c *Client) held(hash string) *residency.Pack {
	if p := residency.Embedded(); p.Hash() == hash {
		return p
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packs[hash]
}

// pack is the law pack that home decides by: built in, or fetched once. Its
// hash is computed from the tables received.
func (c *Client) pack(ctx context.Context, hash string) (*residency.Pack, error) {
	if p := residency.Embedded(); p.Hash() == hash || hash == "" {
		return p, nil
	}
	c.mu.Lock()
	p, ok := c.packs[hash]
	c.mu.Unlock()
	if ok {
		return p, nil
	}
	law, err := c.LawTables(ctx, hash)
	if err != nil {
		return nil, err
	}
	p, err = residency.LoadPack(law.Tables)
	if err != nil {
		return nil, err
	}
	if p.Hash() != hash {
		return nil, newProblem(http.StatusBadGateway, "law.hash", fmt.Sprintf("the tables of law pack %s hash to %s", hash, p.Hash()), "ask the region's operator: sovmesh law list")
	}
	c.mu.Lock()
	c.packs[hash] = p
	c.mu.Unlock()
	return p, nil
}
