package main

import (
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeCordon() *cli.Command {
	return p.changeNode("cordon", "keep new tasks off a node", "Tasks that are there stay; sovmesh node resume ends it.", (*api.Client).Cordon)
}
