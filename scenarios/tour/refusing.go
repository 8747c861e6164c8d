package tour

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/scenarios/devmesh"
)

// refusing is what happens to a body that may not come.
func refusing() []step {
	return []step{
		{"an EU body is refused in the US before it is read", "POST https://iad-1/api/v1/jobs, X-Data-Residency: EU, Expect: 100-continue", (*player).unread},
		{"our client in the US lands an EU job in Europe by itself", "sovmesh --context iad-1 job run (residency: EU, 200 KiB) --wait", (*player).landed},
		{"a client that pushes its body anyway leaves nothing of it", "POST https://iad-1/api/v1/jobs, X-Data-Residency: EU, header and body in one write", (*player).pushed},
	}
}

func (p *player) unread(ctx context.Context) (string, error) {
	status, body, err := p.rawSubmit(ctx, p.mesh.Nodes(america)[0], raw{tag: "EU", expect: true, body: `{kind: process, residency: EU, command: [/bin/true]}`})
	if err != nil {
		return "", err
	}
	if status != http.StatusMisdirectedRequest || !strings.Contains(body, string(france)) || !strings.Contains(body, string(germany)) {
		return "", fmt.Errorf("it answered %d %s", status, body)
	}
	return "421 Misdirected Request, with the doors of fra-1 and ber-1; it did not ask for the body, so none was sent", nil
}

// landed counts the bytes that leave for the US: far fewer than the body has.
func (p *player) landed(ctx context.Context) (string, error) {
	word := secret()
	var sent atomic.Int64
	cfg := p.mesh.Access(p.mesh.Nodes(america)[0])
	home := strings.TrimPrefix(cfg.Addr, "https://")
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := p.mesh.Dial(america)(ctx, network, addr)
		if err == nil && addr == home {
			c = &counted{c, &sent}
		}
		return c, err
	}
	c, err := api.NewClient(cfg)
	if err != nil {
		return "", err
	}
	defer c.Close()
	pad := strings.Repeat("x", 100<<10)
	s, j, err := run(ctx, c, fmt.Sprintf(`{kind: process, residency: EU, command: [/bin/true], env: {WORD: %s, A: %s, B: %s}}`, word, pad, pad))
	if err != nil {
		return "", err
	}
	if j.Region != france && j.Region != germany || !s.Granted {
		return "", fmt.Errorf("it landed in %s and ran in %s", s.Landed, j.Region)
	}
	if n := sent.Load(); n > 64<<10 {
		return "", fmt.Errorf("%d bytes were sent to the American node", n)
	}
	if err := p.notFoundIn(america, word); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s in %s; of a body of 200 KiB nothing went to the US: all requests there had %d bytes together", j.Status, j.Region, sent.Load()), nil
}

type counted struct {
	net.Conn
	sent *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

func (p *player) pushed(ctx context.Context) (string, error) {
	word := secret()
	body := fmt.Sprintf(`{"kind":"process","residency":"EU","command":["/bin/true"],"env":{"WORD":%q,"PAD":%q}}`, word, strings.Repeat("x", 100<<10))
	status, answer, err := p.rawSubmit(ctx, p.mesh.Nodes(america)[0], raw{tag: "EU", body: body})
	cut := errors.Is(err, errSilent) // the connection was closed under the push
	if !cut && (err != nil || status != http.StatusMisdirectedRequest) {
		return "", fmt.Errorf("it answered %d %s, error %v", status, answer, err)
	}
	if err := p.notFoundIn(america, word); err != nil {
		return "", err
	}
	what := "421 and a closed connection"
	if cut {
		what = "a closed connection"
	}
	return what + "; no file and no log of the American nodes holds a word of it", nil
}

// raw is a submit by somebody who does not use our client.
type raw struct {
	tag, body string
	// expect: the body is held back until it is asked for.
	expect bool
}

// rawSubmit speaks HTTP by hand, so that nothing is more polite than meant.
func (p *player) rawSubmit(ctx context.Context, n *devmesh.Node, r raw) (status int, body string, err error) {
	cfg := p.mesh.Access(n)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cfg.CA)
	addr := strings.TrimPrefix(n.API, "https://")
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, "", err
	}
	head := fmt.Sprintf("POST /api/v1/jobs HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Data-Residency: %s\r\n", addr, cfg.Token, len(r.body), r.tag)
	if r.expect {
		head += "Expect: 100-continue\r\n\r\n"
	} else {
		head += "\r\n" + r.body
	}
	// A node that closes while we push makes the write fail; its answer may be
	// there all the same.
	_, _ = io.WriteString(conn, head)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", errors.Join(errSilent, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusContinue {
		return res.StatusCode, "", errors.New("the node asked for the body")
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, string(data), err
}

// foundIn and notFoundIn look through every file that a region's nodes wrote:
// ledgers, tasks, logs.
func (p *player) foundIn(r placement.RegionID, word string) error {
	where, err := search(p.mesh.RegionDir(r), word)
	if err == nil && where == "" {
		err = fmt.Errorf("no file of %s holds it, so its absence elsewhere shows nothing", r)
	}
	return err
}

func (p *player) notFoundIn(r placement.RegionID, word string) error {
	where, err := search(p.mesh.RegionDir(r), word)
	if err == nil && where != "" {
		err = fmt.Errorf("%s holds a word of it, in %s", r, where)
	}
	return err
}

func search(dir, word string) (where string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() {
			return nil // a file that was replaced meanwhile, or none
		}
		if err != nil {
			return err
		}
		found, err := holds(path, word)
		if found {
			where = path
			return fs.SkipAll
		}
		return err
	})
	return where, err
}

// holds reads in pieces: a segment of a raft log has 64 MiB.
func holds(path, word string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	kept := 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		if bytes.Contains(buf[:kept+n], []byte(word)) {
			return true, nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("search %s: %w", path, err)
		}
		kept = copy(buf, buf[len(buf)-len(word):])
	}
}
