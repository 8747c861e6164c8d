package agents

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// Wire submits prepared bodies over plain HTTPS with kept connections. The
// project's own client judges every job by itself first (law pack, directory,
// who am I), which is its purpose and would be half of what a load measures.
type Wire struct {
	token string
	http  *http.Client
}

// Wire is a submitter to the region's agents with at most n connections each.
func (r *Region) Wire(n int) (*Wire, error) {
	ca, err := os.ReadFile(r.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", r.CA)
	}
	return &Wire{token: r.Token, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConns: 4 * n, MaxIdleConnsPerHost: n, IdleConnTimeout: time.Minute,
	}}}, nil
}

// Close ends idle connections.
func (w *Wire) Close() { w.http.CloseIdleConnections() }

// Answer is what a node said to a submit.
type Answer struct {
	Status     int
	RetryAfter string
	Body       []byte
}

// Job is the job's document in an answer that accepts.
func (a Answer) Job() (*placement.Job, error) {
	j := &placement.Job{}
	if a.Status/100 != 2 {
		return nil, fmt.Errorf("answered %d: %s", a.Status, a.Body)
	}
	return j, json.Unmarshal(a.Body, j)
}

// Submit sends one job with its whole policy as the header. The error says that
// no answer came.
func (w *Wire) Submit(ctx context.Context, base, tag, key string, body []byte) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+api.Prefix+"/jobs", bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set(api.HeaderResidency, tag)
	if key != "" {
		req.Header.Set(api.HeaderIdempotency, key)
	}
	return w.do(req)
}

// Wait is the job once it changed after the index, by one waiting read.
func (w *Wire) Wait(ctx context.Context, base string, id placement.JobID, index uint64) (*placement.Job, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s%s/jobs/%s?wait=30s&index=%d", base, api.Prefix, id, index), nil)
	if err != nil {
		return nil, err
	}
	a, err := w.do(req)
	if err != nil {
		return nil, err
	}
	return a.Job()
}

func (w *Wire) do(req *http.Request) (Answer, error) {
	req.Header.Set("Authorization", "Bearer "+w.token)
	res, err := w.http.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Status: res.StatusCode, RetryAfter: res.Header.Get("Retry-After"), Body: data}, nil
}

// Tally is what became of one submit that may have met a dying node.
type Tally struct {
	Job     placement.JobID
	Refused int // answers of living nodes that did not accept it
	Lost    int // connections that ended without an answer
	Took    time.Duration
}

// Persist submits one job as a client does that has a deadline and knows all
// nodes of its region: where no answer comes, or one that says to come back, it
// goes on to the next node with the same key.
func (w *Wire) Persist(ctx context.Context, nodes []*Agent, tag, key string, body []byte) (t Tally, err error) {
	began := time.Now()
	defer func() { t.Took = time.Since(began) }()
	for at := 0; ; at++ {
		a, err := w.Submit(ctx, nodes[at%len(nodes)].API, tag, key, body)
		if err == nil && a.Status/100 == 2 {
			job, err := a.Job()
			if err == nil {
				t.Job = job.ID
			}
			return t, err
		}
		if err != nil {
			t.Lost++
		} else {
			t.Refused++
			err = fmt.Errorf("%s answered %d: %s", nodes[at%len(nodes)].Name, a.Status, a.Body)
			if a.Status < 500 && a.Status != http.StatusTooManyRequests {
				return t, err
			}
		}
		again := time.NewTimer(50 * time.Millisecond)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return t, errors.Join(err, ctx.Err())
		}
	}
}
