package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

// connectionFlags say which region a command talks to.
func connectionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "addr", Usage: "`https://host:port` of a node; or SOVMESH_ADDR"},
		&cli.StringFlag{Name: "token", Usage: "bearer token of that region; or SOVMESH_TOKEN"},
		&cli.StringFlag{Name: "ca", Usage: "`FILE` with the CA bundle of that region; or SOVMESH_CA"},
		&cli.StringFlag{Name: "context", Usage: "`NAME` of a set of the three in contexts.yaml; or SOVMESH_CONTEXT"},
	}
}

// target finds the region to talk to. The nearest word wins: a flag, then the
// context that a flag names, then the environment, then the context it names.
// Somebody with a single context need not name it. A token is never combined
// with an address that it was not given for by accident: --addr alone leaves
// contexts out that nobody named.
func (p *program) target(c *cli.Context) (target, error) {
	all, err := readContexts(p.contexts)
	if err != nil {
		return target{}, err
	}
	env := target{Addr: p.getenv("SOVMESH_ADDR"), Token: p.getenv("SOVMESH_TOKEN"), CA: p.getenv("SOVMESH_CA")}
	named := p.getenv("SOVMESH_CONTEXT")
	var t target
	switch {
	case c.IsSet("context"):
		t, err = all.find(c.String("context"), p.contexts)
	case env != (target{}) && named != "":
		if t, err = all.find(named, p.contexts); err == nil {
			t.Addr, t.Token, t.CA = nonEmpty(env.Addr, t.Addr), nonEmpty(env.Token, t.Token), nonEmpty(env.CA, t.CA)
		}
	case env != (target{}):
		t = env
	case named != "":
		t, err = all.find(named, p.contexts)
	case len(all.Contexts) == 1 && !c.IsSet("addr"):
		t = all.Contexts[all.names()[0]]
	}
	if err != nil {
		return t, err
	}
	for flag, field := range map[string]*string{"addr": &t.Addr, "token": &t.Token, "ca": &t.CA} {
		if c.IsSet(flag) {
			*field = c.String(flag)
		}
	}
	if t.Addr == "" {
		hint := "give --addr https://host:port, --token and --ca; or --context NAME"
		if n := all.names(); len(n) > 0 {
			hint = "name a context with --context: " + strings.Join(n, ", ")
		}
		return t, usage(hint, "no region to talk to was named")
	}
	return t, nil
}

// client is a client of the region to talk to. It connects to nothing yet.
func (p *program) client(c *cli.Context) (*api.Client, error) { return p.connect(c, nil) }

// connect is client; receipt, if not nil, is told what writes leave in the ledger.
func (p *program) connect(c *cli.Context, receipt func(id string)) (*api.Client, error) {
	t, err := p.target(c)
	if err != nil {
		return nil, err
	}
	cfg := api.ClientConfig{Addr: t.Addr, Token: t.Token, Now: p.now, Receipt: receipt}
	if t.CA != "" {
		if cfg.CA, err = readBounded(t.CA, maxYAMLFile); err != nil {
			return nil, err
		}
	}
	return api.NewClient(cfg)
}

// writer is a client for a change: it first says, on stderr, which region is
// meant and who asks, and then which leaves of the ledger hold the change.
func (p *program) writer(c *cli.Context) (*api.Client, *api.Whoami, error) {
	client, err := p.connect(c, func(id string) { fmt.Fprintf(p.err, "receipt: %s\n", clean(id)) })
	if err != nil {
		return nil, nil, err
	}
	me, err := client.Whoami(c.Context)
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	fmt.Fprintf(p.err, "target: region %s (%s)   as: %s\n", clean(string(me.Region)), clean(me.Mesh), clean(whoText(me)))
	return client, me, nil
}

func whoText(me *api.Whoami) string {
	roles := make([]string, 0, len(me.Roles))
	for _, r := range me.Roles {
		roles = append(roles, string(r))
	}
	text := strings.TrimSpace(me.Kind + " " + me.ID)
	if len(roles) > 0 {
		text += " (" + strings.Join(roles, ", ") + ")"
	}
	if me.Tenant != "" {
		text += ", tenant " + string(me.Tenant)
	}
	return text
}

// confirm asks before something that is hard to take back. Without a terminal,
// with --yes or --json nothing is asked.
func (p *program) confirm(ctx context.Context, c *cli.Context, question string) error {
	if c.Bool("yes") || p.json || !p.asks {
		return nil
	}
	fmt.Fprintf(p.err, "%s [y/N] ", clean(question))
	answered := make(chan string, 1)
	go func() { // ends with the process: a terminal's read cannot be cancelled
		var word string
		_, _ = fmt.Fscanln(p.in, &word)
		answered <- word
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(p.err)
		return ctx.Err()
	case word := <-answered:
		if w := strings.ToLower(word); w == "y" || w == "yes" {
			return nil
		}
	}
	return &outcome{1, "nothing was changed", "answer y, or give --yes"}
}

func yesFlag() cli.Flag { return &cli.BoolFlag{Name: "yes", Usage: "do not ask"} }

// each page of a list, until the last.
func collect[T any](ctx context.Context, get func(context.Context, api.ListOptions) (*api.Page[T], error), o api.ListOptions) ([]T, error) {
	items := []T{}
	for {
		page, err := get(ctx, o)
		if err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.Next == "" || page.Next == o.Cursor {
			return items, nil
		}
		o.Cursor = page.Next
	}
}
