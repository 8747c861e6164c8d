package main

import (
	"context"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) regionApprove() *cli.Command {
	return &cli.Command{
		Name: "approve", Usage: "pin a region that answered an invitation", ArgsUsage: "NAME",
		Description: "FP is the other region's fingerprint, as its operator told you by another channel.\nIts country, operator and claims are pinned as they stand now. It ends with the\nfirst contact, or without it after a while.",
		UsageText:   "sovmesh region approve ber-1 --confirm-fingerprint Q9TT-...",
		Flags:       append([]cli.Flag{&cli.StringFlag{Name: "confirm-fingerprint", Usage: "`FP` of the region"}}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err == nil {
				err = regionName(args[0])
			}
			if err != nil {
				return err
			}
			fp, err := fingerprintFlag(c, "region "+args[0])
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.ApproveRegion(c.Context, placement.RegionID(args[0]), fp)
			if err != nil {
				return err
			}
			r = p.firstContact(c.Context, client, r)
			return p.show(r, func(w io.Writer) { p.writeRegion(w, r) })
		},
	}
}

const (
	// contactWithin is how long approve waits for the link: the two regions look
	// for each other every few seconds.
	contactWithin = 15 * time.Second
	contactLook   = 200 * time.Millisecond
)

// firstContact waits for the link of a region that was just approved, so that
// what is shown is how it stands and not how it stood a moment before. That it
// does not come up is no failure: the region is pinned either way.
func (p *program) firstContact(ctx context.Context, client *api.Client, r *api.RegionStatus) *api.RegionStatus {
	line := p.progress()
	defer line.done()
	ctx, cancel := context.WithTimeout(ctx, contactWithin)
	defer cancel()
	for r.Link != api.LinkUp {
		line.say("approved; waiting for the first contact with %s", r.ID)
		if pause(ctx, contactLook) != nil {
			line.note("no contact with %s yet; it is looked for all the time: sovmesh region list", r.ID)
			return r
		}
		if now, err := client.Region(ctx, r.ID); err == nil {
			r = now
		}
	}
	return r
}
