package main

import (
	"strings"

	"github.com/sovmesh/sovmesh/placement/simulate"
	"github.com/urfave/cli/v2"
)

const simulateText = `It works offline. Format openb reads the CSV files of the Alibaba GPU cluster
trace v2023 as they are, gzip-compressed or not: nodes with sn, cpu_milli,
memory_mib, gpu, model; jobs with name, cpu_milli, memory_mib, num_gpu,
gpu_milli, gpu_spec (optional).

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
` + simulate.RegionRule + `

Of a region as it is (--live, for operators; --save FILE keeps it, and --format
sovmesh --nodes FILE reads it again, offline): how many of the waiting jobs would
be placed, with nodes added (--add 4x8xH100, --add 3xNODE) or removed (--remove
NODE), and more jobs (--jobs FILE, as job list --json writes them). With --law-pack
or --at it is a drill of a change of law: which jobs may stay, which have to move
and where to, which have no place any more, each with its rule and reason. Exit 0;
of a drill 20 if a job has no place any more, 30 if nobody knows about one, 10 if
one has to move and its lawful places are full.`

func (p *program) simulateCommand() *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "replay jobs on a cluster, offline, to plan or to measure",
		Description: simulateText,
		UsageText: `sovmesh simulate --nodes nodes.csv.gz --jobs jobs.csv.gz --seeds 42-51
sovmesh simulate --nodes nodes.csv --jobs jobs.csv --churn 0.93 --policy best-fit --log log.csv
sovmesh simulate --live --save region.json --add 4x8xH100 --remove fra-1-n2
sovmesh simulate --format sovmesh --nodes region.json --law-pack pack.zip --at 2032-01-01`,
		Flags: append(append([]cli.Flag{
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
		}, worldFlags()...), connectionFlags()...),
		Action: p.runSimulate,
	}
}

func (p *program) runSimulate(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	if c.Bool("live") || c.String("format") == formatWorld {
		return p.simulateWorld(c)
	}
	for _, f := range worldFlags() {
		if name := f.Names()[0]; c.IsSet(name) {
			return usage("say which region: --live, or a saved one with --format sovmesh --nodes FILE", "--%s is about a region, not about a trace", name)
		}
	}
	switch format := c.String("format"); format {
	case "openb":
		return p.simulateTrace(c)
	default:
		return usage("the formats are openb and sovmesh", "--format cannot be %s", quoteWord(format))
	}
}
