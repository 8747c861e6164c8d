package api

import (
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

const outputsHelp = "write outputs: true, or outputs: {max: 1GiB, files: 1000}"

// outputs are the bounds of what a job's tasks leave to be fetched; nil is for nothing.
func outputs(v residency.Value) (*placement.Outputs, error) {
	if v.Kind == residency.Bool {
		if yes, err := boolean("outputs", v); err != nil || !yes {
			return nil, err
		}
		return new(placement.Outputs), nil
	}
	out := new(placement.Outputs)
	err := fields("outputs", outputsHelp, v, []string{"max", "files"}, func(f string, v residency.Value) (err error) {
		if f == "files" {
			out.Files, err = integer(f, v, 1, placement.MaxOutputFiles)
		} else if out.Max, err = memory(f, v); err == nil && out.Max > placement.MaxOutputs {
			err = jobError(v, "write at most "+placement.MaxOutputs.String(), "%s cannot be %s", f, quoteWord(v.Text))
		}
		return err
	})
	return out, err
}
