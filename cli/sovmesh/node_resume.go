package main

import (
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/urfave/cli/v2"
)

func (p *program) nodeResume() *cli.Command {
	return p.changeNode("resume", "end a cordon or a drain", "The node takes tasks again; what moved away stays where it is.", (*api.Client).Resume)
}
