package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/urfave/cli/v2"
)

func (p *program) lawCommands() *cli.Command {
	return group("law", "the law packs by which the region decides", p.lawList(), p.lawImport(), p.lawActivate())
}

func (p *program) lawList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list the packs that the region holds", UsageText: "sovmesh law list", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return listing(p, c, api.ListOptions{}, (*api.Client).LawPacks, p.writePacks)
		},
	}
}

func (p *program) writePacks(w io.Writer, packs []api.LawPackInfo) {
	t := p.table("LAW PACK", "ACTIVE")
	for _, k := range packs {
		t.add(k.Hash, yesNo(k.Active))
	}
	t.write(w)
}

func (p *program) lawImport() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "bring a pack into the region; it decides nothing until it is activated", ArgsUsage: "FILE",
		Description: "FILE is a .zip, .tar or .tar.gz of the tables, or the folder that holds them. It is\nread and checked here first; its hash is that of `sha256sum *.csv | sha256sum`.",
		UsageText:   "sovmesh law import pack.tar.gz",
		Flags:       connectionFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "FILE")
			if err != nil {
				return err
			}
			tables, err := readTables(args[0])
			if err != nil {
				return err
			}
			pack, err := residency.LoadPack(tables)
			if err != nil {
				return err
			}
			client, _, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			info, err := client.ImportLaw(c.Context, tables)
			if err != nil {
				return err
			}
			if info.Hash != pack.Hash() {
				return fmt.Errorf("the region holds it as %s, it was read here as %s: do not activate it", info.Hash, pack.Hash())
			}
			return p.show(info, func(w io.Writer) {
				p.writePacks(w, []api.LawPackInfo{*info})
				fmt.Fprintf(p.err, "next: sovmesh law activate %s\n", shortHash(info.Hash))
			})
		},
	}
}

func (p *program) lawActivate() *cli.Command {
	return &cli.Command{
		Name: "activate", Usage: "make a held pack the one that decides", ArgsUsage: "HASH",
		Description: "HASH may be the beginning of it, as far as it is unique. What is placed from\nnow on, and each connection to a service, is judged by the new pack. Tasks that run\nalready run on until they end or move, whatever their on_change.law says:\n`sovmesh simulate --live --law-pack FILE` names those that would have to leave.",
		UsageText:   "sovmesh law activate sha256:57603a0c945d",
		Flags:       append([]cli.Flag{yesFlag()}, connectionFlags()...),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "HASH")
			if err != nil {
				return err
			}
			client, me, err := p.writer(c)
			if err != nil {
				return err
			}
			defer client.Close()
			hash, err := findPack(c.Context, client, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(c.Context, c, fmt.Sprintf("let region %s decide by %s from now on?", me.Region, hash)); err != nil {
				return err
			}
			info, err := client.ActivateLaw(c.Context, hash)
			if err != nil {
				return err
			}
			return p.show(info, func(w io.Writer) { p.writePacks(w, []api.LawPackInfo{*info}) })
		},
	}
}

// findPack resolves the beginning of a hash.
func findPack(ctx context.Context, client *api.Client, start string) (string, error) {
	packs, err := collect(ctx, client.LawPacks, api.ListOptions{})
	if err != nil {
		return "", err
	}
	var found []string
	for _, k := range packs {
		if strings.HasPrefix(k.Hash, start) || strings.HasPrefix(strings.TrimPrefix(k.Hash, "sha256:"), start) {
			found = append(found, k.Hash)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", &api.InputError{Code: api.CodeNotFound, Message: "the region holds no law pack " + quoteWord(start), Help: "see which it holds: sovmesh law list; bring it in: sovmesh law import FILE"}
	}
	return "", &api.InputError{Code: api.CodeAmbiguous, Message: fmt.Sprintf("%d law packs begin with %s", len(found), quoteWord(start)), Help: "write more of it: " + strings.Join(found, ", ")}
}
