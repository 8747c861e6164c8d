package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/sovmesh/sovmesh/placement"
)

// JobOutputs are the files that a job's task left, as far as they were kept.
type JobOutputs struct {
	Job  placement.JobID  `json:"job"`
	Task placement.TaskID `json:"task"`
	// Digest is the hex SHA-256 of the list, as the ledger has it with the task: see
	// [placement.OutputList.Digest].
	Digest string `json:"digest"`
	placement.OutputList
}

// maxOutputs bounds the bytes of a list.
const maxOutputs = 32 << 20

// readOutputs reads a list that another node wrote; the names in it are a
// workload's. One that does not fit its digest is refused.
func readOutputs(from io.Reader) (*JobOutputs, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxOutputs+1))
	if err != nil {
		return nil, fmt.Errorf("a list of outputs: %w", err)
	}
	out := &JobOutputs{}
	switch {
	case len(data) > maxOutputs:
		err = fmt.Errorf("it has more than %d bytes", maxOutputs)
	default:
		if err = json.Unmarshal(data, out); err == nil { // a newer node may say more
			err = out.Check()
		}
	}
	if err == nil && out.Digest != out.OutputList.Digest() {
		err = errors.New("it does not fit its digest")
	}
	if err != nil {
		return nil, fmt.Errorf("a list of outputs cannot be read: %w", err)
	}
	if out.Files == nil {
		out.Files = []placement.Output{}
	}
	return out, nil
}

// held compares what is read with what the list says: a file that ends early, goes
// on, or is another one ends in an error.
type held struct {
	io.ReadCloser
	want placement.Output
	sum  hash.Hash
	n    int64
}

func holdTo(want placement.Output, from io.ReadCloser) io.ReadCloser {
	return &held{ReadCloser: from, want: want, sum: sha256.New()}
}

func (h *held) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	_, _ = h.sum.Write(p[:n])
	h.n += int64(n)
	switch {
	case h.n > h.want.Size:
		return n, fmt.Errorf("it has more than the %d bytes that its list says", h.want.Size)
	case errors.Is(err, io.EOF) && h.n < h.want.Size:
		return n, fmt.Errorf("it broke off after %d of %d bytes", h.n, h.want.Size)
	case errors.Is(err, io.EOF) && "sha256:"+hex.EncodeToString(h.sum.Sum(nil)) != h.want.Digest:
		return n, errors.New("it is not the file of its digest: it was changed on its node or on its way")
	}
	return n, err
}
