package main

import (
	"strings"

	"github.com/sovmesh/sovmesh/placement/simulate"
	"github.com/urfave/cli/v2"
)

const simulateText = `It works offline. Format openb reads the CSV files of the Alibaba GPU cluster
trace v2023 as they are, gzip-compressed or not: nodes with sn, cpu_milli,
memory_mib, gpu, model; jobs with name, cpu_milli, memory_mib, num_gpu,
gpu_milli, gpu_spec.

A fill lets jobs arrive that never end: the jobs, sorted by name, shuffled by
the seed, then uniform samples of them until they ask for --demand times the
GPUs. It tells which share of the GPUs is allocated at each arrived demand. A
churn (--churn LOAD) draws --arrivals jobs; before each one, jobs drawn at random
end until at most LOAD of the GPUs is held; the last two thirds count.

Policies: sovmesh is the engine that regions decide with; it learns the mix of
jobs as they arrive. For comparison: sovmesh-no-price,
sovmesh-no-jurisdiction-price, fgd, best-fit, first-fit, random.

The log has a line for each decision: ` + simulate.LogHead + `
(gpus: indexes joined by ";"; empty node: rejected; op: place or release). From
it alone, without the policy, residency violations and avoidable rejections are
counted; either ends with exit 1.

With --regions N, which no trace has:
` + simulate.RegionRule

func (p *program) simulateCommand() *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "replay jobs on a cluster, offline, to plan or to measure",
		Description: simulateText,
		UsageText: `sovmesh simulate --nodes nodes.csv.gz --jobs jobs.csv.gz --seeds 42-51
sovmesh simulate --nodes nodes.csv --jobs jobs.csv --churn 0.93 --policy best-fit --log log.csv`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "nodes", Usage: "`FILE` with the nodes of the cluster"},
			&cli.StringFlag{Name: "jobs", Usage: "`FILE` with the jobs"},
			&cli.StringFlag{Name: "format", Value: "openb", Usage: "`FORMAT` of the two files"},
			&cli.Uint64Flag{Name: "seed", Value: 42, Usage: "`N` that the order of arrivals is drawn with"},
			&cli.StringFlag{Name: "seeds", Usage: "`FIRST-LAST`: one replay for each seed, and the medians"},
			&cli.Float64Flag{Name: "demand", Value: 1.3, Usage: "`SHARE` of the GPUs that a fill asks for in all"},
			&cli.Float64Flag{Name: "churn", Usage: "`LOAD`: let jobs end, too, holding that share of the GPUs"},
			&cli.IntFlag{Name: "arrivals", Value: simulate.ChurnArrivals, Usage: "`N` jobs arrive in a churn"},
			&cli.StringFlag{Name: "policy", Value: simulate.PolicySovmesh, Usage: "`NAME`: " + strings.Join(simulate.Policies(), ", ")},
			&cli.BoolFlag{Name: "warm", Usage: "let the engine know the mix of the jobs from the start"},
			&cli.IntFlag{Name: "regions", Value: 1, Usage: "`N` regions that nodes are dealt out over, and jobs bound to"},
			&cli.BoolFlag{Name: "unknown-models", Usage: "reject jobs whose model no node has, instead of the file"},
			&cli.StringFlag{Name: "log", Usage: "`FILE` to write the decisions to, of one seed"},
		},
		Action: p.runSimulate,
	}
}

func (p *program) runSimulate(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	switch format := c.String("format"); format {
	case "openb":
		return p.simulateTrace(c)
	default:
		return usage("the format is openb", "--format cannot be %s", quoteWord(format))
	}
}
