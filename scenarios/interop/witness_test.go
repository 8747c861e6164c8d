package interop

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	formatslog "github.com/transparency-dev/formats/log"
	formatsnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// foreignWitness is a witness as https://c2sp.org/tlog-witness describes it,
// written from that page on transparency-dev's libraries; only its key was made
// by ours. It tells what it was sent and what it answered.
type foreignWitness struct {
	t      testing.TB
	origin string
	log    note.Verifier
	signer *formatsnote.Signer
	vkey   string
	server *httptest.Server

	mu     sync.Mutex
	seen   *formatslog.Checkpoint // guarded by mu; nil for nothing
	asked  []request              // guarded by mu
	hashes int                    // guarded by mu; of all proofs
}

type request struct {
	Old    uint64
	Proof  int
	Size   uint64
	Status int
}

func newForeignWitness(t testing.TB) *foreignWitness {
	t.Helper()
	w := &foreignWitness{t: t}
	key := must(ledger.NewCosigner("witness.example/outside", ledger.CosignatureEd25519, [ledger.SeedSize]byte{7}))
	w.vkey = key.Verifier().String()
	w.signer = must(formatsnote.NewSignerForCosignatureV1(key.Secret()))
	w.server = httptest.NewServer(w)
	t.Cleanup(w.server.Close)
	return w
}

// knows makes it a witness of a log.
func (w *foreignWitness) knows(vkey string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = must(note.NewVerifier(vkey))
	w.origin = w.log.Name()
}

// forget sets it back to what it had seen before: a witness whose disk was
// restored.
func (w *foreignWitness) forget(c *formatslog.Checkpoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = c
}

func (w *foreignWitness) last() (*formatslog.Checkpoint, []request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen, append([]request(nil), w.asked...)
}

func (w *foreignWitness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/add-checkpoint" {
		http.NotFound(rw, r) // it has no page that shows what it has seen: the protocol leaves that open
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return
	}
	var req request
	status, kind, answer := w.judge(body, &req)
	req.Status = status
	w.asked = append(w.asked, req)
	if kind != "" {
		rw.Header().Set("Content-Type", kind)
	}
	rw.WriteHeader(status)
	_, _ = rw.Write(answer)
}

// judge is the protocol's list of checks, in its order.
func (w *foreignWitness) judge(body []byte, req *request) (status int, kind string, answer []byte) {
	head, signed, ok := bytes.Cut(body, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if _, err := fmt.Sscanf(lines[0], "old %d", &req.Old); !ok || err != nil {
		return 400, "", nil
	}
	var hashes [][]byte
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != 32 {
			return 400, "", nil
		}
		hashes = append(hashes, h)
	}
	req.Proof = len(hashes)
	w.hashes += len(hashes)
	if w.log == nil || !bytes.HasPrefix(signed, []byte(w.origin+"\n")) {
		return 404, "", nil
	}
	c, _, n, err := formatslog.ParseCheckpoint(signed, w.origin, w.log)
	if err != nil {
		return 403, "", nil
	}
	req.Size = c.Size
	var size uint64
	if w.seen != nil {
		size = w.seen.Size
	}
	switch {
	case req.Old > c.Size:
		return 400, "", nil
	case req.Old != size:
		return 409, "text/x.tlog.size", fmt.Appendf(nil, "%d\n", size)
	case size == c.Size && w.seen != nil && !bytes.Equal(w.seen.Hash, c.Hash):
		return 422, "", nil
	case size > 0:
		if proof.VerifyConsistency(rfc6962.DefaultHasher, size, c.Size, hashes, w.seen.Hash, c.Hash) != nil {
			return 422, "", nil
		}
	}
	w.seen = c
	cosigned, err := note.Sign(&note.Note{Text: n.Text}, w.signer)
	if err != nil {
		return 500, "", nil
	}
	_, line, _ := bytes.Cut(cosigned, []byte("\n\n"))
	return 200, "", line
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
