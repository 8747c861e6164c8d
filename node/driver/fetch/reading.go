package fetch

import (
	"context"
	"io"
)

// Reading is r until ctx ends. An end of r's after that is none: a server that is
// hung up on may still end its answer well, and half of a file would be taken for
// another file.
func Reading(ctx context.Context, r io.Reader) io.Reader { return reading{ctx, r} }

type reading struct {
	ctx context.Context
	r   io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	if err == io.EOF && r.ctx.Err() != nil {
		err = r.ctx.Err()
	}
	return n, err
}
