package api

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// SnapshotDir is a snapshot as its driver wrote it.
type SnapshotDir struct {
	Path     string
	Manifest SnapshotManifest
	Remove   func() // ends it; called once
}

// local is a task of this region with its node: what is forwarded is asked for
// where it runs, since what is said of it names a node and its machine.
func (s *Server) local(v *state.View, j *placement.Job) (*placement.Task, *placement.Node, error) {
	if j.Forward != nil && j.Forward.State == placement.ForwardPlaced {
		return nil, nil, newProblem(http.StatusConflict, CodeElsewhere, "job "+string(j.ID)+" runs in region "+string(j.Forward.Region)+", and what concerns its machine stays there", "ask an operator or an auditor of that region")
	}
	t, err := liveTask(v, j, "")
	if err != nil {
		return nil, nil, err
	}
	n := v.Node(t.Node)
	if n == nil {
		return nil, nil, newProblem(http.StatusNotFound, CodeNotRunning, "node "+string(t.Node)+" was removed", "the task is not reached any more")
	}
	return t, n, nil
}

// here reports whether a task is reached without another node.
func (s *Server) here(t *placement.Task) bool { return t.Node == s.cfg.Self && s.cfg.Inside != nil }

// holdJob pauses a job's task, or lets it go on.
func holdJob(what string) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		v, j, err := c.reachable()
		if err != nil {
			return err
		}
		t, n, err := s.local(v, j)
		if err != nil {
			return err
		}
		if err := c.noteAccess(t, what); err != nil {
			return err
		}
		if s.here(t) {
			err = s.hold(c.r.Context(), t.ID, what)
		} else {
			_, err = meshJSON[HoldAnswer](c.r.Context(), s.mesh, s.peerOf(n), meshCall{method: http.MethodPost, path: "/tasks/" + string(t.ID) + "/hold/" + what, cargo: cargo(transport.CargoStatus)}, struct{}{})
		}
		if err != nil {
			return err
		}
		return c.writeJSON(http.StatusOK, HoldAnswer{Job: j.ID, Task: t.ID, Paused: what == "pause"})
	}
}

func (s *Server) hold(ctx context.Context, task placement.TaskID, what string) (err error) {
	switch what {
	case "pause":
		err = s.cfg.Inside.Pause(ctx, task)
	case "resume":
		err = s.cfg.Inside.Resume(ctx, task)
	default:
		return &InputError{Code: CodeUsage, Message: "a task cannot be held by " + quoteWord(what), Help: "use pause or resume"}
	}
	if err != nil {
		return reachProblem(err)
	}
	return nil
}

func holdTask(s *Server, c *call) error {
	if err := s.fromVoter(c); err != nil {
		return err
	}
	if _, err := c.readBody(MaxBodyBytes); err != nil {
		return err
	}
	what := c.r.PathValue("what")
	if err := s.hold(c.r.Context(), c.taskInPath(), what); err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, HoldAnswer{Task: c.taskInPath(), Paused: what == "pause"})
}

// jobIsolation says what holds a job's task in, to everybody who may read the job.
func jobIsolation(s *Server, c *call) error {
	v, j, t, n, err := c.inspected()
	if err != nil {
		return err
	}
	out := &Isolation{}
	if s.here(t) {
		if out, err = s.isolationOf(c.r.Context(), t.ID); err != nil {
			return err
		}
	} else if out, err = meshJSON[Isolation](c.r.Context(), s.mesh, s.peerOf(n), meshCall{method: http.MethodGet, path: "/tasks/" + string(t.ID) + "/isolation", cargo: cargo(transport.CargoStatus)}, nil); err != nil {
		return err
	}
	out.Job, out.Task, out.Kind, out.Node, out.Access = j.ID, t.ID, j.Kind, t.Node, notesOf(t, placement.NoteAccess)
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

// inspected is a task that the caller may ask about.
func (c *call) inspected() (*state.View, *placement.Job, *placement.Task, *placement.Node, error) {
	v, err := c.s.fresh(c.r.Context())
	if err != nil {
		return nil, nil, nil, nil, err
	}
	j, err := c.findJob(v)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	t, n, err := c.s.local(v, j)
	return v, j, t, n, err
}

func notesOf(t *placement.Task, kinds ...placement.NoteKind) []placement.TaskNote {
	out := []placement.TaskNote{}
	for _, n := range t.Notes {
		for _, k := range kinds {
			if n.What == k {
				out = append(out, n)
			}
		}
	}
	return out
}

func (s *Server) isolationOf(ctx context.Context, task placement.TaskID) (*Isolation, error) {
	held, denied, err := s.cfg.Inside.Isolation(ctx, task)
	if err != nil {
		return nil, reachProblem(err)
	}
	out := &Isolation{Task: task, Boundaries: []Boundary{}, Denied: []Denial{}, Access: []placement.TaskNote{}}
	out.Boundaries = append(out.Boundaries, held...)
	out.Denied = append(out.Denied, denied...)
	return out, nil
}

func taskIsolation(s *Server, c *call) error {
	if err := s.fromVoter(c); err != nil {
		return err
	}
	out, err := s.isolationOf(c.r.Context(), c.taskInPath())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, out)
}

// jobDrift looks at a job's task now, and adds what the ledger has of it.
func jobDrift(s *Server, c *call) error {
	v, j, t, n, err := c.inspected()
	if err != nil {
		return err
	}
	out := &DriftReport{}
	if s.here(t) {
		if out, err = s.driftOf(c.r.Context(), t.ID); err != nil {
			return err
		}
	} else if out, err = meshJSON[DriftReport](c.r.Context(), s.mesh, s.peerOf(n), meshCall{method: http.MethodGet, path: "/tasks/" + string(t.ID) + "/drift", cargo: cargo(transport.CargoStatus)}, nil); err != nil {
		return err
	}
	out.Job, out.Task, out.Noted = j.ID, t.ID, notesOf(t, placement.NoteDrift, placement.NoteResolved)
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

func (s *Server) driftOf(ctx context.Context, task placement.TaskID) (*DriftReport, error) {
	mode, found, err := s.cfg.Inside.Drift(ctx, task)
	if err != nil {
		return nil, reachProblem(err)
	}
	if mode == "" {
		mode = placement.DriftReport
	}
	return &DriftReport{Task: task, Mode: mode, Findings: append([]DriftFinding{}, found...), Noted: []placement.TaskNote{}}, nil
}

func taskDrift(s *Server, c *call) error {
	if err := s.fromVoter(c); err != nil {
		return err
	}
	out, err := s.driftOf(c.r.Context(), c.taskInPath())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, out)
}

// MediaSnapshot is a tar archive: manifest.json first, then the parts it names.
const MediaSnapshot = "application/x-tar"

// snapshotJob copies a task's state without ending it. It never crosses a
// border: whoever asks is of this region.
func snapshotJob(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	v, j, err := c.copyable()
	if err != nil {
		return err
	}
	t, n, err := s.local(v, j)
	if err != nil {
		return err
	}
	if _, err := c.readBody(MaxBodyBytes); err != nil {
		return err
	}
	if err := c.noteAccess(t, "snapshot"); err != nil {
		return err
	}
	if s.here(t) {
		return s.sendSnapshot(c, t.ID)
	}
	res, err := s.mesh.send(c.r.Context(), s.peerOf(n), meshCall{method: http.MethodPost, path: "/tasks/" + string(t.ID) + "/snapshot", cargo: cargo(transport.CargoStatus), in: []byte("{}")})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return c.copyStream(MediaSnapshot, res.Body)
}

// copyable is the job whose state the caller may copy.
func (c *call) copyable() (*state.View, *placement.Job, error) {
	v, j, err := c.reachable()
	if err != nil {
		return nil, nil, err
	}
	if c.caller.Kind == CallerForeign || j.Origin != "" && !c.caller.may(VerbOperate) {
		return nil, nil, newProblem(http.StatusForbidden, CodeRole, "a snapshot of another region's job is for operators here", "ask an operator of this region")
	}
	return v, j, nil
}

func taskSnapshot(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	if err := s.fromVoter(c); err != nil {
		return err
	}
	if _, err := c.readBody(MaxBodyBytes); err != nil {
		return err
	}
	return s.sendSnapshot(c, c.taskInPath())
}

// sendSnapshot makes a snapshot, has the hash of its manifest noted, and sends it.
func (s *Server) sendSnapshot(c *call, task placement.TaskID) error {
	snap, err := s.cfg.Inside.Snapshot(c.r.Context(), task)
	if err != nil {
		return reachProblem(err)
	}
	defer snap.Remove()
	manifest, err := json.MarshalIndent(snap.Manifest, "", "  ")
	if err != nil {
		return fmt.Errorf("write a snapshot's manifest: %w", err)
	}
	sum := sha256.Sum256(manifest)
	note := placement.TaskNote{Task: task, What: placement.NoteSnapshot, Subject: "forensic", Digest: hex.EncodeToString(sum[:]), Count: uint64(len(snap.Manifest.Parts)), At: s.now()}
	if s.cfg.Note != nil {
		if err := s.cfg.Note(c.r.Context(), note); err != nil {
			return err
		}
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(writeSnapshot(w, manifest, snap))
	}()
	err = c.copyStream(MediaSnapshot, r)
	_ = r.CloseWithError(io.ErrClosedPipe)
	<-done
	return err
}

func writeSnapshot(w io.Writer, manifest []byte, snap SnapshotDir) error {
	t := tar.NewWriter(w)
	head := tar.Header{Name: "manifest.json", Mode: 0o600, Size: int64(len(manifest)), ModTime: snap.Manifest.At.Truncate(time.Second)}
	if err := t.WriteHeader(&head); err != nil {
		return err
	}
	if _, err := t.Write(manifest); err != nil {
		return err
	}
	for _, p := range snap.Manifest.Parts {
		if err := addPart(t, snap, p); err != nil {
			return fmt.Errorf("snapshot of task %s, part %s: %w", snap.Manifest.Task, p.Name, err)
		}
	}
	return t.Close()
}

func addPart(t *tar.Writer, snap SnapshotDir, p SnapshotPart) error {
	if !filepath.IsLocal(p.Name) || filepath.Base(p.Name) != p.Name {
		return errors.New("its name is no name of a file")
	}
	f, err := os.Open(filepath.Join(snap.Path, p.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(&tar.Header{Name: p.Name, Mode: 0o600, Size: p.Size, ModTime: snap.Manifest.At.Truncate(time.Second)}); err != nil {
		return err
	}
	_, err = io.CopyN(t, f, p.Size)
	return err
}
