package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/urfave/cli/v2"
)

func (p *program) jobOutputs() *cli.Command {
	return &cli.Command{
		Name: "outputs", Usage: "list the files that a job left, or fetch one", ArgsUsage: "ID [NAME]",
		Description: jobIDText + `
A job with outputs: true (or {max: 1GiB, files: 1000}) has a directory,
$SOVMESH_OUTPUTS; its files are kept when the task has ended, for as long as what
it printed, and read by those who may read that. With a NAME that file is printed,
raw, or written to --out. What is read is compared with its digest: exit 1 if it
is not the same.`,
		UsageText: "sovmesh job outputs fra-1.01jd\nsovmesh job outputs fra-1.01jd model.bin --out model.bin",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "task", Usage: "those of an earlier `TASK` of the job"},
			&cli.StringFlag{Name: "out", Value: "-", Usage: "the `FILE` to write; - is stdout"},
		}, connectionFlags()...),
		Action: p.showOutputs,
	}
}

func (p *program) showOutputs(c *cli.Context) error {
	names := []string{"ID", "NAME"}
	if c.NArg() < 2 {
		names = names[:1]
	}
	args, err := arguments(c, names...)
	if err != nil {
		return err
	}
	if len(args) == 1 && c.IsSet("out") {
		return usage("write sovmesh job outputs ID NAME --out FILE", "--out needs the name of an output")
	}
	client, err := p.client(c)
	if err != nil {
		return err
	}
	defer client.Close()
	id := placement.JobID(args[0])
	list, err := client.Outputs(c.Context, id, placement.TaskID(c.String("task")))
	if err != nil {
		return err
	}
	if len(args) == 1 {
		return p.show(list, func(w io.Writer) { p.writeOutputs(w, list) })
	}
	file, ok := list.Find(args[1])
	if !ok {
		return usage("list them: sovmesh job outputs "+args[0], "job %s left no output %s", args[0], quoteWord(args[1]))
	}
	_, err = p.toFile(c.String("out"), func(w io.Writer) error { return p.copyOutput(c.Context, client, id, list.Task, file, w) })
	return err
}

func (p *program) copyOutput(ctx context.Context, client *api.Client, id placement.JobID, task placement.TaskID, file placement.Output, w io.Writer) error {
	from, err := client.Output(ctx, id, task, file)
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := io.Copy(w, from); err != nil {
		return firstOf(ctx.Err(), fmt.Errorf("the output %s of %s: %w", quoteWord(file.Name), id, err))
	}
	return nil
}

func (p *program) writeOutputs(w io.Writer, list *api.JobOutputs) {
	t := p.table("NAME", "SIZE", "DIGEST")
	for _, f := range list.Files {
		t.add(f.Name, strconv.FormatInt(f.Size, 10), f.Digest)
	}
	t.write(w)
	if list.LeftOut > 0 {
		fmt.Fprintf(w, "\nNot kept: %d (%s)\n", list.LeftOut, clean(list.Why))
	}
}
