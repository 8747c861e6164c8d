package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/transport"
)

// piped are tasks of which each port is the far end of a pipe.
type piped struct {
	Inside
	far chan net.Conn
}

func (p piped) Serve(context.Context, placement.TaskID, placement.TenantID, int) (net.Conn, error) {
	near, far := net.Pipe()
	p.far <- far
	return near, nil
}

// linked is a region that runs a service and a task whose list names it.
type linked struct {
	t           *testing.T
	w           *world
	fra         *region
	far         chan net.Conn
	db, web     placement.JobID
	task, other placement.TaskID // of web, of db
}

func newLinked(t *testing.T) *linked {
	t.Helper()
	w, fra, _, _ := mesh3(t)
	l := &linked{t: t, w: w, fra: fra, far: make(chan net.Conn, 8)}
	fra.server.cfg.Inside = piped{far: l.far}
	l.db, l.other = l.runs("db", `"ports":[{"port":7}]`)
	l.web, l.task = l.runs("web", `"network":{"allow":["service:db"]}`)
	return l
}

func (l *linked) runs(name, rest string) (placement.JobID, placement.TaskID) {
	l.t.Helper()
	c := l.fra.client(l.fra.token(state.Token{Tenant: "acme", Roles: []state.Role{state.RoleSubmitter, state.RoleViewer}}))
	sent, err := c.Submit(l.t.Context(), readJob(l.t, `{"kind":"process","name":"`+name+`","type":"service","command":["x"],"residency":"EU",`+rest+`}`), SubmitOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return sent.Job.ID, l.fra.place(l.t, sent.Job.ID)
}

// opens gives both ends of a connection of web to db.
func (l *linked) opens() (near, far net.Conn) {
	l.t.Helper()
	near, err := l.fra.server.CallService(l.t.Context(), l.fra.node, l.task, "db", 7)
	if err != nil {
		l.t.Fatal(err)
	}
	far = <-l.far
	l.t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// goes holds it to that a word comes through.
func (l *linked) goes(near, far net.Conn) {
	l.t.Helper()
	go func() { _, _ = io.WriteString(far, "word") }()
	word := make([]byte, 4)
	if _, err := io.ReadFull(near, word); err != nil || string(word) != "word" {
		l.t.Errorf("%q, %v", word, err)
	}
}

// ended holds it to that the connection is over at both ends, with a code.
func (l *linked) ended(near, far net.Conn, code string, refused bool) {
	l.t.Helper()
	for what, err := range map[string]error{"reading": second(near.Read(make([]byte, 1))), "writing": second(near.Write([]byte("x")))} {
		if !strings.HasPrefix(CodeOf(err), code) || refusedService(err) != refused {
			l.t.Errorf("%s: %v (%s), want %s", what, err, CodeOf(err), code)
		}
	}
	if n, err := far.Read(make([]byte, 1)); err == nil {
		l.t.Errorf("the service hears %d bytes", n)
	}
	if all := l.fra.server.standing.all(); len(all) != 0 {
		l.t.Errorf("%d connections are still known", len(all))
	}
}

func second(_ int, err error) error { return err }

// activates has the region decide by a pack in which a country left the Union.
func (l *linked) activates(country string) {
	l.t.Helper()
	tables := residency.Embedded().Tables()
	var rows []string
	for _, row := range strings.SplitAfter(string(tables["groups.csv"]), "\n") {
		if !strings.HasPrefix(row, "EU,"+country+",") {
			rows = append(rows, row)
		}
	}
	tables["groups.csv"] = []byte(strings.Join(rows, ""))
	l.fra.ledger.must(l.t, state.ActivateLawPack{Hash: l.fra.ledger.must(l.t, state.ImportLawPack{Tables: tables}).ID})
}

// Open connections end with the law that allowed them, all in one pass that says so
// once, and stay while it allows them.
func TestOpenConnectionsEndWithTheLaw(t *testing.T) {
	l := newLinked(t)
	near, far := l.opens()
	second, secondFar := l.opens()
	l.activates("DE")
	l.fra.server.judgeStanding()
	l.goes(near, far)
	l.goes(second, secondFar)
	l.activates("FR")
	l.goes(near, far) // until the next pass
	l.fra.server.judgeStanding()
	l.ended(near, far, "residency.", true)
	l.ended(second, secondFar, "residency.", true)
	if said := strings.Count(l.fra.logs.String(), "ended open connections"); said != 1 || !strings.Contains(l.fra.logs.String(), "connections=2") {
		t.Errorf("it is said %d times: %s", said, l.fra.logs)
	}
	if _, err := l.fra.server.CallService(t.Context(), l.fra.node, l.task, "db", 7); !refusedService(err) {
		t.Errorf("a new one: %v", err)
	}
}

// The end of the caller's task ends what it has open, by no rule; that of the
// service's is left to the node that runs it.
func TestOpenConnectionsEndWithTheirCaller(t *testing.T) {
	l := newLinked(t)
	near, far := l.opens()
	over := func(task placement.TaskID) {
		l.fra.ledger.must(t, state.ReportTasks{Node: l.fra.node, Reports: []placement.TaskReport{{Task: task, Status: placement.TaskStopped, At: l.fra.server.now()}}})
		l.fra.server.judgeStanding()
	}
	over(l.other)
	l.goes(near, far)
	over(l.task)
	l.ended(near, far, CodeNotRunning, false)
}

// What another region has open is judged by what is known of that region now.
func TestOpenConnectionsOfAnotherRegionAreJudgedAgain(t *testing.T) {
	all := placement.EveryTenant("ber-1")
	rule := "FR"
	for name, changes := range map[string][]state.Command{
		"the tag of all its tenants": {state.SetTenant{Tenant: state.Tenant{ID: all, Residency: "FR"}}, state.SetTenant{Tenant: state.Tenant{ID: all, Residency: "DE"}}},
		"the export rule":            {state.SetTenant{Tenant: state.Tenant{ID: "acme", Residency: "DE"}}, state.SetRegionPolicy{Export: &rule}},
		"it is no peer any more":     {state.SetTenant{Tenant: state.Tenant{ID: "acme", Residency: "DE"}}, state.LeavePeer{Region: "ber-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLinked(t)
			v := l.fra.ledger.View()
			head := ServiceHead{Port: 7, Job: placement.NewJobID("ber-1", l.w.clock.now()), Tenant: "acme", Policy: []placement.Layer{{Origin: residency.OriginJob, Tag: "EU"}}}
			seek := func(v *state.View) (*seeker, error) { return foreignSeeker(v, "ber-1", "db", head) }
			raw, far := net.Pipe()
			defer far.Close()
			near := l.fra.server.standing.keep(raw, seek, route{replica: replica{job: v.Job(l.db), task: v.Task(l.other), node: v.Node(l.fra.node)}}, judgedBy{})
			defer near.Close()
			l.fra.ledger.must(t, changes[0])
			l.fra.server.judgeStanding()
			l.goes(near, far)
			l.fra.ledger.must(t, changes[1])
			l.fra.server.judgeStanding()
			l.ended(near, far, "", true)
		})
	}
}

// A way through a region that is no home of the job any more is none.
func TestOpenConnectionsByWayOfHomeEndWithIt(t *testing.T) {
	l := newLinked(t)
	ber := l.fra.ledger.View().Region("ber-1")
	seek := func(v *state.View) (*seeker, error) {
		w, err := ownSeeker(v, l.fra.node, l.task, "db", 7)
		if r := v.Region("ber-1"); err == nil && r != nil && r.State == placement.PeerActive {
			w.home = r
		}
		return w, err
	}
	open := func() (*standingConn, net.Conn) {
		raw, far := net.Pipe()
		t.Cleanup(func() { _ = far.Close() })
		return l.fra.server.standing.keep(raw, seek, route{replica: replica{region: ber}, home: true}, judgedBy{}), far
	}
	near, far := open()
	l.fra.server.judgeStanding()
	l.goes(near, far)
	rule := "FR"
	l.fra.ledger.must(t, state.SetRegionPolicy{Export: &rule})
	l.fra.server.judgeStanding()
	l.ended(near, far, "residency.", true)
	rule = ""
	l.fra.ledger.must(t, state.SetRegionPolicy{Export: &rule})
	near, far = open()
	l.fra.server.judgeStanding()
	l.goes(near, far)
	l.fra.ledger.must(t, state.LeavePeer{Region: "ber-1"})
	l.fra.server.judgeStanding()
	l.ended(near, far, CodeForeignVerb, true)
}

// What the egress guard refuses is refused by a rule, also where it does not know.
func TestTheGuardsRefusalIsOneByARule(t *testing.T) {
	for _, inner := range []error{
		transport.ErrRegionUnknown,
		&residency.Refusal{Decision: residency.Decision{Verdict: residency.Refused, Rule: "tag.deny"}},
		&residency.Refusal{Decision: residency.Decision{Verdict: residency.Unknown, Rule: "law.unknown"}},
	} {
		err := &transport.EgressError{From: "fra-1", To: "ber-1", Kind: transport.CargoJob, Err: inner}
		if !refusedService(guarded(err)) || !refusedService(refusedNow(err)) {
			t.Errorf("%v: %+v", inner, guarded(err))
		}
	}
	lost := errors.New("lost")
	if refusedService(guarded(lost)) || !refusedService(refusedNow(lost)) {
		t.Error("a failure is a refusal, or what cannot be judged is none")
	}
}

// stuck is an answer that its caller does not read: writing ends at the deadline.
type stuck struct {
	*httptest.ResponseRecorder
	writes chan struct{}
	late   chan struct{}
	once   sync.Once
}

func (s *stuck) Write(p []byte) (int, error) {
	if len(p) == 4 { // that the service is reached
		return len(p), nil
	}
	select {
	case s.writes <- struct{}{}:
	default:
	}
	<-s.late
	return 0, os.ErrDeadlineExceeded
}

func (s *stuck) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		s.once.Do(func() { close(s.late) })
	}
	return nil
}

// A caller that reads nothing keeps no place once a judgement ended its connection.
func TestAnEndedConnectionWaitsForNoReader(t *testing.T) {
	l := newLinked(t)
	near, far := l.opens()
	body, feed := io.Pipe()
	defer feed.Close()
	out := &stuck{ResponseRecorder: httptest.NewRecorder(), writes: make(chan struct{}, 1), late: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", body)
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		l.fra.server.carryService(ctx, cancel, &call{s: l.fra.server, w: out, r: req}, near, &frameReader{r: req.Body})
	}()
	go func() { _, _ = io.WriteString(far, "nobody reads it") }()
	<-out.writes
	l.activates("FR")
	l.fra.server.judgeStanding()
	select {
	case <-carried:
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for its caller")
	}
}
