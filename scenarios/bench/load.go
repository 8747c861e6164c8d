package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/scenarios/agents"
)

// pipe is one client on one kept HTTPS connection. It writes requests that were
// prepared before and reads no more of an answer than it must: on a machine
// that also runs the three agents, the load must cost little.
type pipe struct {
	conn net.Conn
	in   *bufio.Reader
	head []byte // up to the idempotency key
	tail []byte // after it, with the body
	buf  []byte
}

func (b *bench) pipe(ctx context.Context, a *agents.Agent, body []byte) (*pipe, error) {
	ca, err := os.ReadFile(b.region.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the region's CA file holds no certificate")
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}}}
	conn, err := d.DialContext(ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	p := &pipe{conn: conn, in: bufio.NewReaderSize(conn, 8<<10)}
	p.head = fmt.Appendf(nil, "POST %s/jobs HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n%s: ",
		api.Prefix, a.Addr, b.region.Token, api.HeaderResidency, tag, len(body), api.HeaderIdempotency)
	p.tail = append([]byte("\r\n\r\n"), body...)
	return p, nil
}

// submit sends one job and returns the status of its answer.
func (p *pipe) submit(key string) (int, error) {
	p.buf = append(append(append(p.buf[:0], p.head...), key...), p.tail...)
	if err := p.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := p.conn.Write(p.buf); err != nil {
		return 0, err
	}
	return p.answer()
}

func (p *pipe) answer() (int, error) {
	line, err := p.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("answered %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, fmt.Errorf("answered %q", line)
	}
	length := 0
	for {
		line, err := p.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		if name := []byte("Content-Length: "); bytes.HasPrefix(line, name) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return 0, err
			}
		}
	}
	_, err = io.CopyN(io.Discard, p.in, int64(length))
	return status, err
}

// outcome is what a load gave.
type outcome struct {
	accepted int
	full     int // answered 429
	took     time.Duration
	each     []time.Duration // of accepted submits, sorted
}

func (o outcome) rate() float64 { return float64(o.accepted) / o.took.Seconds() }

// load submits from n clients until the time is over or most jobs are accepted.
func (b *bench) load(ctx context.Context, a *agents.Agent, n int, d time.Duration, most int) (outcome, error) {
	body := job("batch", "exit 0")
	pipes := make([]*pipe, n)
	for i := range pipes {
		p, err := b.pipe(ctx, a, body)
		if err != nil {
			return outcome{}, err
		}
		defer p.conn.Close()
		pipes[i] = p
	}
	var (
		left  atomic.Int64
		mu    sync.Mutex
		total outcome
		errs  []error
		g     sync.WaitGroup
	)
	left.Store(int64(most))
	series := time.Now().UnixNano()
	began := time.Now()
	for i, p := range pipes {
		g.Go(func() {
			one, err := p.keepOn(fmt.Sprintf("%x-%d-", series, i), began.Add(d), &left)
			mu.Lock()
			defer mu.Unlock()
			total.accepted += one.accepted
			total.full += one.full
			total.each = append(total.each, one.each...)
			errs = append(errs, err)
		})
	}
	g.Wait()
	total.took = time.Since(began)
	slices.Sort(total.each)
	return total, errors.Join(errs...)
}

func (p *pipe) keepOn(prefix string, until time.Time, left *atomic.Int64) (o outcome, err error) {
	for i := 0; time.Now().Before(until) && left.Add(-1) >= 0; i++ {
		began := time.Now()
		status, err := p.submit(prefix + strconv.Itoa(i))
		switch {
		case err != nil:
			return o, err
		case status == http.StatusCreated:
			o.accepted++
			o.each = append(o.each, time.Since(began))
		case status == http.StatusTooManyRequests:
			o.full++
			return o, nil
		default:
			return o, fmt.Errorf("a submit was answered %d", status)
		}
	}
	return o, nil
}

// quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func median[T int | float64 | time.Duration](all []T) T {
	if len(all) == 0 {
		return 0
	}
	s := slices.Clone(all)
	slices.Sort(s)
	return s[len(s)/2]
}
