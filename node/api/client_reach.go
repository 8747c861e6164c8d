package api

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/sovmesh/sovmesh/placement"
)

// Session is one reach into a job's task.
type Session struct {
	Head ReachHead
	// Stdin is read until it ends or the session does: a read that never returns
	// is left to whoever owns it. Nil ends the input at once.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer // of exec; nil is Stdout
	// Resize, if set, tells of the terminal's size.
	Resize <-chan TermSize
}

// Exec runs a further command in the task of a job, and returns how it ended. An
// error is one of the way, or of the start.
func (c *Client) Exec(ctx context.Context, id placement.JobID, s Session) (*ReachExit, error) {
	end, err := c.reach(ctx, id, ReachExec, nil, s)
	if err == nil && end.Exit == nil {
		err = ErrCutOff
	}
	if err != nil {
		return nil, err
	}
	return end.Exit, nil
}

// Console opens the serial console of a job's task until either side ends it.
func (c *Client) Console(ctx context.Context, id placement.JobID, s Session) error {
	_, err := c.reach(ctx, id, ReachConsole, nil, s)
	return err
}

// Connect carries bytes between Stdin and Stdout and a TCP port of a job's task.
func (c *Client) Connect(ctx context.Context, id placement.JobID, port int, s Session) error {
	s.Head.Port = port
	_, err := c.reach(ctx, id, ReachConnect, url.Values{"port": {strconv.Itoa(port)}}, s)
	return err
}

func (c *Client) reach(ctx context.Context, id placement.JobID, what string, q url.Values, s Session) (*ReachEnd, error) {
	if err := s.Head.validate(what); err != nil {
		return nil, err
	}
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, feed := io.Pipe()
	defer body.Close()
	open := make(chan struct{})
	go func() { feed.CloseWithError(s.send(ctx, open, &frameWriter{w: feed})) }()
	res, err := d.stream(ctx, Prefix+"/jobs"+seg(id)+"/"+what, q, body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	close(open)
	end, err := s.receive(res.Body)
	// Both sides end their bodies: a connection that is torn down while one is
	// written would be reported as broken.
	_ = feed.Close()
	if end != nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxFrame))
		if end.Problem != nil {
			return nil, end.Problem
		}
	}
	return end, err
}

// stream sends a request whose body is written while its answer is read. Of
// several doors only the first is asked: what was sent is not there twice.
func (d *door) stream(ctx context.Context, path string, q url.Values, body io.Reader) (*http.Response, error) {
	target := d.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, body)
	if err != nil {
		return nil, fmt.Errorf("POST %s: %w", path, err)
	}
	if d.auth != "" {
		req.Header.Set("Authorization", d.auth)
	}
	req.Header.Set("Content-Type", MediaFrames)
	req.Header.Set("Expect", "100-continue") // whoever is refused has not said what for
	res, err := d.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, d.base, err)
	}
	if d.receipt != nil {
		for _, id := range res.Header[HeaderReceipt] {
			d.receipt(id)
		}
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		return nil, readProblem(res)
	}
	return res, nil
}

// send writes the head and, once the task is reached, what comes from the
// terminal and of its size.
func (s *Session) send(ctx context.Context, open <-chan struct{}, out *frameWriter) error {
	if err := out.json(frameHead, s.Head); err != nil {
		return err
	}
	select {
	case <-open:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.Resize != nil {
		go func() {
			for {
				select {
				case size := <-s.Resize:
					if out.json(frameResize, size) != nil {
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	if s.Stdin != nil {
		if _, err := io.Copy(out.as(frameIn), s.Stdin); err != nil {
			return err
		}
	}
	if err := out.write(frameInEnd, nil); err != nil {
		return err
	}
	<-ctx.Done() // the size may still change
	return nil
}

// receive writes what comes until the end is told.
func (s *Session) receive(from io.Reader) (*ReachEnd, error) {
	frames := &frameReader{r: from}
	for {
		kind, payload, err := frames.next()
		if err != nil {
			return nil, errors.Join(ErrCutOff, err)
		}
		switch kind {
		case frameOut, frameErr:
			w := s.Stdout
			if kind == frameErr && s.Stderr != nil {
				w = s.Stderr
			}
			if _, err := w.Write(payload); err != nil {
				return nil, err
			}
		case frameEnd:
			end := &ReachEnd{}
			if err := json.Unmarshal(payload, end); err != nil {
				return nil, fmt.Errorf("the end of the session cannot be read: %w", err)
			}
			return end, nil
		}
	}
}

// PauseJob holds a job's task still.
func (c *Client) PauseJob(ctx context.Context, id placement.JobID) (*HoldAnswer, error) {
	return c.hold(ctx, id, "pause")
}

// ResumeJob lets it go on.
func (c *Client) ResumeJob(ctx context.Context, id placement.JobID) (*HoldAnswer, error) {
	return c.hold(ctx, id, "resume")
}

func (c *Client) hold(ctx context.Context, id placement.JobID, what string) (*HoldAnswer, error) {
	out := &HoldAnswer{}
	return out, c.ofJob(ctx, id, http.MethodPost, what, out)
}

// Isolation is what holds a job's task in.
func (c *Client) Isolation(ctx context.Context, id placement.JobID) (*Isolation, error) {
	out := &Isolation{}
	return out, c.ofJob(ctx, id, http.MethodGet, "isolation", out)
}

// Drift is how a job's task differs from what was declared.
func (c *Client) Drift(ctx context.Context, id placement.JobID) (*DriftReport, error) {
	out := &DriftReport{}
	return out, c.ofJob(ctx, id, http.MethodGet, "drift", out)
}

func (c *Client) ofJob(ctx context.Context, id placement.JobID, method, what string, out any) error {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return err
	}
	return d.call(ctx, c.cfg.Timeout, request{method: method, path: Prefix + "/jobs" + seg(id) + "/" + what, out: out})
}

// DiskSnapshots are the named copies of the disks of a job's task.
func (c *Client) DiskSnapshots(ctx context.Context, id placement.JobID) (*DiskSnapshots, error) {
	out := &DiskSnapshots{}
	return out, c.ofJob(ctx, id, http.MethodGet, "snapshots", out)
}

// TakeDiskSnapshot keeps a copy of them by a name.
func (c *Client) TakeDiskSnapshot(ctx context.Context, id placement.JobID, name string) (*DiskSnapshots, error) {
	return c.disks(ctx, id, http.MethodPut, name, "")
}

// RemoveDiskSnapshot removes one.
func (c *Client) RemoveDiskSnapshot(ctx context.Context, id placement.JobID, name string) (*DiskSnapshots, error) {
	return c.disks(ctx, id, http.MethodDelete, name, "")
}

// RestoreDiskSnapshot sets the disks back to one, and begins the machine anew.
func (c *Client) RestoreDiskSnapshot(ctx context.Context, id placement.JobID, name string) (*DiskSnapshots, error) {
	return c.disks(ctx, id, http.MethodPost, name, "/restore")
}

// disks takes as long as the disks are large.
func (c *Client) disks(ctx context.Context, id placement.JobID, method, name, then string) (*DiskSnapshots, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &DiskSnapshots{}
	return out, d.call(ctx, 0, request{method: method, path: Prefix + "/jobs" + seg(id) + "/snapshots" + seg(name) + then, stream: true, out: out})
}

// Snapshot copies the state of a job's task into a directory, which must be
// empty. Every file is held to the manifest's hash; one that differs is an error,
// and stays for whoever wants to look at it.
func (c *Client) Snapshot(ctx context.Context, id placement.JobID, dir string) (*SnapshotManifest, error) {
	d, err := c.doorOf(ctx, id)
	if err != nil {
		return nil, err
	}
	res, err := d.send(ctx, request{method: http.MethodPost, path: Prefix + "/jobs" + seg(id) + "/snapshot"})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	m, err := unpackSnapshot(res.Body, dir)
	if err != nil {
		return nil, fmt.Errorf("the snapshot of %s: %w", id, err)
	}
	return m, nil
}

func unpackSnapshot(from io.Reader, dir string) (*SnapshotManifest, error) {
	t := tar.NewReader(from)
	first, err := t.Next()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(t, maxTextBytes+1))
	if err != nil || first.Name != "manifest.json" || len(data) > maxTextBytes {
		return nil, errors.Join(errors.New("its archive does not begin with manifest.json"), err)
	}
	m := &SnapshotManifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if err := writeNew(filepath.Join(dir, first.Name), bytes.NewReader(data)); err != nil {
		return nil, err
	}
	for _, p := range m.Parts {
		h, err := t.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		if h.Name != p.Name || !filepath.IsLocal(p.Name) || filepath.Base(p.Name) != p.Name || h.Size != p.Size {
			return nil, fmt.Errorf("the archive has %q where the manifest has %q", h.Name, p.Name)
		}
		sum := sha256.New()
		if err := writeNew(filepath.Join(dir, p.Name), io.TeeReader(t, sum)); err != nil {
			return nil, err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
			return nil, fmt.Errorf("%s has the SHA-256 %s, and the manifest says %s", p.Name, got, p.SHA256)
		}
	}
	if _, err := t.Next(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the parts that the manifest names")
	}
	return m, nil
}

func writeNew(path string, from io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
