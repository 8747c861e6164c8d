package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	tree "github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/node/witness"
)

// buildWitness wires what signs the region's log and witnesses those of others.
func (n *Node) buildWitness() (err error) {
	if n.group == nil {
		return nil
	}
	cfg := witness.DefaultConfig()
	cfg.Actor, cfg.Log, cfg.Keys = n.actor(), n.ledger, n.authority.ledgerKeys
	cfg.Tiles = func() tree.TileReader {
		if s := n.group.Ledger(); s != nil {
			return s
		}
		return nil
	}
	cfg.Room, cfg.Outside = n.roomToSign, n.cfg.Witness
	cfg.Transport = witnesses{n, outsideClient(n.deps.Dial)}
	cfg.Now, cfg.Logger = n.deps.now, n.logOf("witness")
	n.witness, err = witness.New(cfg)
	return err
}

// roomKept is what signing leaves free for what placing has to write.
const roomKept = 64 << 20

// roomToSign says why nothing should be signed for lack of room: a checkpoint
// may come later, a placement may not.
func (n *Node) roomToSign() error {
	if s := n.group.Ledger(); s != nil {
		if err := s.Status().Fault; err != nil {
			return fmt.Errorf("the ledger cannot be written: %w; make room on its disk", err)
		}
	}
	free, err := runner.Free(string(n.dir))
	if err != nil {
		return nil // a system that does not tell
	}
	if free < roomKept {
		return fmt.Errorf("the disk of %s has %d MiB left, and the last %d MiB are for placing; make room", string(n.dir), free>>20, roomKept>>20)
	}
	return nil
}

// witnesses are the witnesses of the region's log: peers over mutual TLS, the
// outside ones over HTTPS.
type witnesses struct {
	n    *Node
	http *http.Client
}

func outsideClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	t := &http.Transport{
		DialContext: dial, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
		MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (w witnesses) Post(ctx context.Context, t witness.Target, path string, body []byte) (witness.Answer, error) {
	return w.do(ctx, t, http.MethodPost, path, body)
}

func (w witnesses) Get(ctx context.Context, t witness.Target, path string) (witness.Answer, error) {
	return w.do(ctx, t, http.MethodGet, path, nil)
}

func (w witnesses) do(ctx context.Context, t witness.Target, method, path string, body []byte) (out witness.Answer, err error) {
	if t.Region == "" {
		return w.outside(ctx, t, method, path, body)
	}
	err = fmt.Errorf("region %s has no front door", t.Region)
	for _, peer := range w.n.links.peersOf(t.Region) {
		out.Status, out.Type, out.Body, err = w.n.mesh.Witness(ctx, peer, method, path, body)
		if err == nil && out.Status < http.StatusInternalServerError {
			return out, nil
		}
		// A standby has no key, and a door may be closed: the next one.
	}
	return out, err
}

func (w witnesses) outside(ctx context.Context, t witness.Target, method, path string, body []byte) (out witness.Answer, err error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, t.URL+"/"+path, in)
	if err != nil {
		return out, err
	}
	res, err := w.http.Do(req)
	if err != nil {
		return out, err
	}
	out.Status, out.Type, out.Body, err = api.ReadWitness(res)
	return out, err
}

// apiWitness is the service as the API serves it.
type apiWitness struct{ s *witness.Service }

func (w apiWitness) Answer(ctx context.Context, from string, body []byte) (int, string, []byte) {
	a := w.s.Answer(ctx, from, body)
	return a.Status, a.Type, a.Body
}

func (w apiWitness) Seen(from, path string) (int, string, []byte) {
	a := w.s.Seen(from, path)
	return a.Status, a.Type, a.Body
}

// signing is how far the log is signed, as status shows it.
func (n *Node) signing() api.Signing {
	s := n.witness.Status()
	out := api.Signing{Size: s.Size, At: s.At, Problem: s.Problem}
	if s.Leaves > s.Size {
		out.Unsigned = s.Leaves - s.Size
	}
	for _, w := range s.Witnesses {
		out.Witnesses = append(out.Witnesses, api.SigningWitness{Name: w.Name, Region: w.Region, Size: w.Size, At: w.At, Problem: w.Problem, SetBack: w.SetBack})
	}
	return out
}
