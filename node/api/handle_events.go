package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Bounds of an event stream: looking for changes costs at most a twentieth of
// one processor, however many jobs there are.
const (
	eventsEvery = 20 * time.Millisecond
	eventsShare = 20
	eventsBeat  = 15 * time.Second
)

// watcher remembers what a stream has told.
type watcher struct {
	c       *call
	index   uint64
	nodes   map[placement.NodeID]*placement.Node
	regions map[placement.RegionID]*placement.Region
}

// events streams changes of jobs, nodes and regions as server-sent events. The
// id of an event is its index: a stream that is resumed by it misses no change
// of a job, and tells the newest state of each.
func events(s *Server, c *call) error {
	release, err := s.stream()
	if err != nil {
		return err
	}
	defer release()
	v, err := s.view()
	if err != nil {
		return err
	}
	w := &watcher{c: c, index: v.Index()}
	if from := c.r.Header.Get("Last-Event-ID") + c.r.URL.Query().Get("index"); from != "" {
		if w.index, err = strconv.ParseUint(from, 10, 64); err != nil {
			return &InputError{Code: CodeUsage, Message: "the index cannot be " + quoteWord(from), Help: "send the id of the last event"}
		}
	}
	w.remember(v)
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	c.w.WriteHeader(http.StatusOK)
	return w.run(s)
}

func (w *watcher) run(s *Server) error {
	ctx := w.c.r.Context()
	out := http.NewResponseController(w.c.w)
	pause := time.NewTimer(0)
	defer pause.Stop()
	seen := uint64(0)
	for {
		if err := out.Flush(); err != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		v := s.cfg.Ledger.View()
		if v.Index() == seen {
			beat := newDeadline(ctx, eventsBeat)
			next, err := s.cfg.Ledger.Wait(beat.ctx, seen)
			passed := beat.passed()
			beat.stop()
			if err != nil && !passed {
				return nil
			}
			if err != nil {
				if _, err := fmt.Fprint(w.c.w, ": still here\n\n"); err != nil {
					return nil
				}
				pause.Reset(0)
				continue
			}
			v = next
		}
		began := time.Now()
		if err := w.tell(v); err != nil {
			return nil
		}
		seen = v.Index()
		pause.Reset(max(eventsEvery, eventsShare*time.Since(began)))
	}
}

// tell writes what changed up to the view.
func (w *watcher) tell(v *state.View) error {
	changed := v.Jobs("", v.JobCount(), func(j *placement.Job) bool { return j.Index > w.index && w.c.caller.sees(j) })
	for _, j := range changed {
		doc := j.Document()
		doc.Receipt = v.ReceiptText(j.Receipt)
		if err := w.write(Event{Index: j.Index, Type: "job", Job: &doc}); err != nil {
			return err
		}
	}
	for _, n := range v.Nodes() {
		if w.nodes[n.ID] != n {
			if err := w.write(Event{Index: v.Index(), Type: "node", Node: n}); err != nil {
				return err
			}
		}
	}
	for _, r := range v.Regions() {
		if w.regions[r.ID] != r {
			if err := w.write(Event{Index: v.Index(), Type: "region", Region: r}); err != nil {
				return err
			}
		}
	}
	w.remember(v)
	// The id stands last, so that a stream cut in the middle tells the rest again.
	if v.Index() > w.index {
		w.index = v.Index()
		_, err := fmt.Fprintf(w.c.w, "id: %d\n\n", w.index)
		return err
	}
	return nil
}

func (w *watcher) remember(v *state.View) {
	w.nodes = make(map[placement.NodeID]*placement.Node)
	for _, n := range v.Nodes() {
		w.nodes[n.ID] = n
	}
	w.regions = make(map[placement.RegionID]*placement.Region)
	for _, r := range v.Regions() {
		w.regions[r.ID] = r
	}
}

func (w *watcher) write(e Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w.c.w, "event: %s\ndata: %s\n\n", e.Type, data)
	return err
}
