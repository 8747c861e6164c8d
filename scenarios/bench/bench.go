package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/scenarios/agents"
)

// bench is one run: a region of three agents that all measurements share, in an
// order in which the earlier ones do not disturb the later.
type bench struct {
	options
	dir, program string
	report       *report

	world  *agents.World
	region *agents.Region
	wire   *agents.Wire
}

// tag permits the bench's region; country is where it pretends to stand.
const (
	tag     = "FR"
	country = "FR"
)

type measurement struct {
	name string
	// region says whether it needs the shared region.
	region bool
	run    func(context.Context) error
}

func (b *bench) all(ctx context.Context) error {
	b.binary()
	var failed []error
	for _, m := range []measurement{
		{"start", false, b.start},
		{"idle", true, b.idle},
		{"running", true, b.running},
		{"line", true, b.firstLine},
		{"drain", true, b.drain},
		{"failover", true, b.failover},
		{"single", true, b.single},
		{"many", true, b.many},
		{"pending", true, b.pending},
		{"ledger", false, b.ledger},
		{"placement", false, b.placement},
		{"scale", false, b.scale},
		{"sleepers", false, b.sleepers},
		{"runtimes", false, b.runtimes},
	} {
		if !b.wants(m.name) {
			continue
		}
		if m.region && b.region == nil {
			if err := b.raise(ctx); err != nil {
				return errors.Join(append(failed, err)...)
			}
		}
		say("measuring: %s", m.name)
		if err := m.run(ctx); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.name, err))
			say("%s failed: %v", m.name, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// raise starts the shared region.
func (b *bench) raise(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	say("raising a region of three agents")
	dir := filepath.Join(b.dir, "three")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b.world = agents.New(b.program, dir)
	r, err := b.world.Found(ctx, "fra-1", country)
	if err != nil {
		return err
	}
	if err := r.Grow(ctx, 3); err != nil {
		return err
	}
	b.region = r
	b.wire, err = r.Wire(128)
	return err
}

func (b *bench) close() {
	if b.wire != nil {
		b.wire.Close()
	}
	if b.world != nil {
		if err := b.world.Close(); err != nil {
			say("%v", err)
		}
	}
}

// leader is who leads now, and a client of it.
func (b *bench) leader(ctx context.Context) (*agents.Agent, *api.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	a, err := b.region.Leader(ctx)
	if err != nil {
		return nil, nil, err
	}
	c, err := b.region.Client(a)
	return a, c, err
}

// cordon keeps tasks off all nodes, so that a submit is a submit and nothing
// else. It stays so: what starts tasks is measured before.
func (b *bench) cordon(ctx context.Context) error {
	_, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, a := range b.region.Agents {
		if _, err := c.Cordon(ctx, placement.NodeID(a.Name)); err != nil {
			return err
		}
	}
	return nil
}

// job is a small process job in JSON.
func job(kind, script string) []byte {
	return fmt.Appendf(nil, `{"name":"bench","kind":"process","type":%q,"residency":%q,"command":["/bin/sh","-c",%q],"resources":{"cpu":"5m","memory":"4MiB"},"stop_grace":"2s"}`, kind, tag, script)
}
