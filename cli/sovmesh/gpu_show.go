package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/gpu"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) gpuShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "one device: what it is, how it hangs together, what is wrong with it", ArgsUsage: "UUID",
		Description: "UUID may be a beginning of it, six characters or more. Times are those of the\ndevice's node.",
		UsageText:   "sovmesh gpu show GPU-8f2e6c1a", Flags: connectionFlags(),
		Action: func(c *cli.Context) error {
			return showing(p, c, "UUID", (*api.Client).GPU, p.writeGPU)
		},
	}
}

func (p *program) writeGPU(w io.Writer, g *api.GPU) {
	confidential, cleared := "", ""
	if g.Confidential {
		confidential = "on, as its node says"
	}
	if g.Cleared != nil {
		cleared = stamp(g.Cleared.At) + prefixed(", ", g.Cleared.Reason)
	}
	p.facts(w, "device", g.UUID, "node", string(g.Node), "index", strconv.Itoa(g.Index), "model", deviceModel(g.Device), "vendor", g.Vendor, "architecture", g.Architecture,
		"memory", human(g.Memory), "health", deviceHealth(g.Device), "task", holders(g), "pci", g.PCI, "numa node", g.NUMA,
		"nvlink island", g.Island, "fabric", g.Fabric, "part of", g.Parent, "can be cut into", strings.Join(g.Profiles, " "), "cdi", gpu.CDI(g.Device), "confidential", confidential,
		"driver", g.DriverVersion, "cuda", g.CUDA, "cleared", cleared)
	if len(g.Causes) == 0 {
		return
	}
	fmt.Fprintln(w)
	p.writeCauses(w, g.Causes)
}

func (p *program) writeCauses(w io.Writer, causes []placement.Cause) {
	t := p.table("CAUSE", "HEALTH", "ACTION", "FIRST", "LAST", "COUNT", "REASON")
	for _, c := range causes {
		t.add(c.Code, string(c.Health), string(c.Action), stamp(c.First), stamp(c.Last), strconv.Itoa(c.Count), c.Reason)
	}
	t.write(w)
}
