package api

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

const processJob = `{"kind":"process","command":["/bin/true"],"residency":%q}`

func jobText(tag string) string { return fmt.Sprintf(processJob, tag) }

func mesh3(t testing.TB) (w *world, fra, ber, iad *region) {
	w = newWorld(t)
	fra, ber, iad = w.add("fra-1", "FR", 2), w.add("ber-1", "DE", 2), w.add("iad-1", "US", 2)
	w.federate()
	return w, fra, ber, iad
}

func TestSubmitIsJudgedByItsHeader(t *testing.T) {
	_, fra, _, iad := mesh3(t)
	token := fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}})
	foreign := iad.token(state.Token{Roles: everyRole()})
	cases := []struct {
		name, token, header, body string
		status                    int
		code                      string
	}{
		{"accepted", token, "EU", jobText("EU"), 201, ""},
		{"not canonical in the body", token, "EU", jobText(" eu "), 201, ""},
		{"no header", token, "", jobText("EU"), 400, CodeHeaderMissing},
		{"unreadable header", token, "Europe", jobText("EU"), 400, "tag.unknown-place"},
		{"body says otherwise", token, "EU", jobText("FR"), 400, CodeHeaderDiffers},
		{"another region's path", token, "US", jobText("US"), 421, CodeMisdirected},
		{"lawful nowhere here", token, "JP", jobText("JP"), 403, CodeNotLawful},
		{"excludes itself", token, "EU,!EU", jobText("EU,!EU"), 403, CodeNever},
		{"ANY without permission", token, "ANY", jobText("ANY"), 403, CodeAny},
		{"no token", "", "EU", jobText("EU"), 401, CodeNoToken},
		{"garbage token", "xyz", "EU", jobText("EU"), 401, CodeBadToken},
		{"token of another region", foreign, "EU", jobText("EU"), 401, CodeForeignToken},
		{"garbage body", token, "EU", "\x00\x01", 400, "input.job"},
		{"unknown field", token, "EU", `{"kind":"process","comand":["/bin/true"],"residency":"EU"}`, 400, "input.job"},
		{"field twice", token, "EU", `{"kind":"process","kind":"process","command":["/bin/true"],"residency":"EU"}`, 400, "input.job"},
		{"wrong type", token, "EU", `{"kind":"process","command":"/bin/true","residency":"EU"}`, 400, "input.job"},
		{"residency twice", token, "EU", `{"kind":"process","command":["/bin/true"],"residency":"EU","residency":"US"}`, 400, "tag.field"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := fra.ledger.View().JobCount()
			h := http.Header{}
			if c.token != "" {
				h = bearer(c.token)
			}
			if c.header != "" {
				h.Set(HeaderResidency, c.header)
			}
			status, p, headers := fra.do(t, http.MethodPost, "/api/v1/jobs", h, c.body)
			if status != c.status || p.Code != c.code {
				t.Fatalf("answered %d %s (%s), expected %d %s", status, p.Code, p.Detail, c.status, c.code)
			}
			if accepted := fra.ledger.View().JobCount() - before; (accepted == 1) != (c.status == 201) {
				t.Errorf("%d jobs were accepted", accepted)
			}
			if c.status == 403 && headers.Get(HeaderShouldRetry) != "false" {
				t.Error("a refusal that stays one must say x-should-retry: false")
			}
			if c.status >= 400 && p.Advice == "" {
				t.Error("no hint")
			}
		})
	}
}

func TestOversizedBodyIsRefusedUnread(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	h := bearer(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}}))
	h.Set(HeaderResidency, "EU")
	body := jobText("EU") + strings.Repeat(" ", MaxJobBytes)
	status, p, _ := fra.do(t, http.MethodPost, "/api/v1/jobs", h, body)
	if status != http.StatusRequestEntityTooLarge || p.Code != CodeBody {
		t.Fatalf("answered %d %s", status, p.Code)
	}
}

// A body sent to the wrong region is never read: a client that pushes it anyway
// gets its answer and a closed connection, and nothing of the body is parsed,
// logged or kept.
func TestBodySentToTheWrongRegionIsNeverRead(t *testing.T) {
	_, _, _, iad := mesh3(t)
	token := iad.token(state.Token{Roles: everyRole()})
	const marker = "SECRET-PAYLOAD-7f3a"
	body := `{"kind":"process","residency":"EU","command":["` + marker + `"]` + strings.Repeat(" ", 200_000) + "}"
	conn, err := tls.Dial("tcp", strings.TrimPrefix(iad.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	head := "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nX-Data-Residency: EU\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n"
	go func() { _, _ = conn.Write([]byte(head + body)) }() // it is cut off in the middle
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusMisdirectedRequest || !res.Close {
		t.Fatalf("answered %s, close %v", res.Status, res.Close)
	}
	var p *Problem
	if err := readProblem(withRequest(res)); !errors.As(err, &p) || len(p.Doors) != 2 {
		t.Fatalf("the answer names %d doors, expected those of fra-1 and ber-1: %v", len(p.Doors), err)
	}
	if n, err := reader.Read(make([]byte, 1)); err == nil {
		t.Errorf("the connection gave %d more bytes: it must be closed", n)
	}
	// One TLS record may come with the head; nothing is taken after the answer.
	if taken := iad.taken.Load(); taken > 64<<10 {
		t.Errorf("the listener took %d bytes from its socket, of a body of %d", taken, len(body))
	}
	if iad.ledger.View().JobCount() != 0 {
		t.Error("a job was accepted")
	}
	if strings.Contains(iad.logs.String(), marker) {
		t.Error("the payload stands in the log")
	}
	for _, raw := range iad.ledger.raws {
		if strings.Contains(string(raw), marker) {
			t.Error("the payload stands in a command")
		}
	}
}

func withRequest(res *http.Response) *http.Response {
	res.Request, _ = http.NewRequest(http.MethodPost, "https://x/", nil)
	return res
}

// The handler itself never touches the body of what it refuses.
func TestRefusedSubmitLeavesItsBodyAlone(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	for _, header := range []string{"", "US", "JP", "Europe"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/jobs", nil)
		if err != nil {
			t.Fatal(err)
		}
		body := &countingBody{}
		req.Body, req.ContentLength, req.RequestURI = body, 100, "/api/v1/jobs"
		req.Header = bearer(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}}))
		if header != "" {
			req.Header.Set(HeaderResidency, header)
		}
		w := &plainWriter{h: http.Header{}}
		fra.server.App().ServeHTTP(w, req)
		if body.reads != 0 {
			t.Errorf("header %q: the body was read %d times", header, body.reads)
		}
		if w.status < 400 {
			t.Errorf("header %q: answered %d", header, w.status)
		}
	}
}

type countingBody struct{ reads int }

func (b *countingBody) Read([]byte) (int, error) { b.reads++; return 0, errors.New("read") }
func (b *countingBody) Close() error             { return nil }

type plainWriter struct {
	h      http.Header
	status int
}

func (w *plainWriter) Header() http.Header         { return w.h }
func (w *plainWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *plainWriter) WriteHeader(s int)           { w.status = s }

func TestClientLandsTheJobInsideByItself(t *testing.T) {
	_, fra, ber, iad := mesh3(t)
	c := iad.client(iad.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "acme"}))
	out, err := c.Submit(t.Context(), readJob(t, jobText("DE")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out.Landed != "ber-1" || !out.Granted || out.Job.ID.Home() != "ber-1" || out.Job.Tenant != "iad-1/acme" || out.Job.Origin != "iad-1" {
		t.Fatalf("landed at %s as %+v", out.Landed, out.Job)
	}
	if n := iad.ledger.View().JobCount() + fra.ledger.View().JobCount(); n != 0 {
		t.Errorf("%d jobs stand elsewhere", n)
	}
	// It is read, explained and stopped there too, with further grants of home.
	if j, err := c.Job(t.Context(), out.Job.ID); err != nil || j.ID != out.Job.ID || j.Node != "" {
		t.Errorf("read: %+v %v", j, err)
	}
	if _, err := c.Explain(t.Context(), out.Job.ID); err != nil {
		t.Error(err)
	}
	if j, err := c.StopJob(t.Context(), out.Job.ID, "enough"); err != nil || j.Status != placement.JobStopped {
		t.Errorf("stop: %+v %v", j, err)
	}
	// Another tenant of the same home sees nothing of it.
	other := iad.client(iad.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "other"}))
	if _, err := other.Job(t.Context(), out.Job.ID); CodeOf(err) != CodeNotFound {
		t.Errorf("another tenant: %v", err)
	}
	_ = ber
}

func TestClientSubmitsAtHomeWhenHomeIsInside(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	out, err := fra.admin().Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{})
	if err != nil || out.Landed != "fra-1" || out.Granted {
		t.Fatalf("%+v %v", out, err)
	}
}

func TestClientKnowsWhyItCannotLand(t *testing.T) {
	w, _, ber, iad := mesh3(t)
	c := iad.admin()
	if _, err := c.Submit(t.Context(), readJob(t, jobText("JP")), SubmitOptions{}); ExitOf(err) != ExitNotLawful {
		t.Errorf("JP: exit %d, %v", ExitOf(err), err)
	}
	iad.links.mu.Lock()
	iad.links.down["ber-1"] = true
	iad.links.mu.Unlock()
	w.clock.add(directoryFor + time.Second)
	if _, err := c.Submit(t.Context(), readJob(t, jobText("DE")), SubmitOptions{}); CodeOf(err) != CodePeerUnknown || ExitOf(err) != ExitUnknown {
		t.Errorf("DE out of contact: %v", err)
	}
	_ = ber
}

func TestIdempotencyKey(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	c := fra.admin()
	job := readJob(t, jobText("EU"))
	a, err := c.Submit(t.Context(), job, SubmitOptions{IdempotencyKey: "k1"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Submit(t.Context(), job, SubmitOptions{IdempotencyKey: "k1"})
	if err != nil || a.Job.ID != b.Job.ID {
		t.Errorf("a repetition made %s, the first was %s: %v", b.Job.ID, a.Job.ID, err)
	}
	other := readJob(t, strings.Replace(jobText("EU"), "true", "false", 1))
	if _, err := c.Submit(t.Context(), other, SubmitOptions{IdempotencyKey: "k1"}); CodeOf(err) != "idempotency.conflict" {
		t.Errorf("another body under the same key: %v", err)
	}
}

func TestTenantAndTokenNarrow(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	fra.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "german", Residency: "DE"}})
	h := bearer(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "german"}))
	h.Set(HeaderResidency, "EU")
	if status, p, _ := fra.do(t, http.MethodPost, "/api/v1/jobs", h, jobText("EU")); status != 421 || len(p.Doors) != 1 || p.Doors[0].Region != "ber-1" {
		t.Errorf("tenant: %d %+v", status, p)
	}
	h = bearer(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Residency: "US"}))
	h.Set(HeaderResidency, "EU")
	if status, p, _ := fra.do(t, http.MethodPost, "/api/v1/jobs", h, jobText("EU")); status != 403 || p.Code != CodeNever || !strings.Contains(p.Detail, "token's") {
		t.Errorf("token: %d %+v", status, p)
	}
}

// BenchmarkSubmit is the handler's own cost, without TLS, raft and disk.
func BenchmarkSubmit(b *testing.B) {
	w := newWorld(b)
	fra := w.add("fra-1", "FR", 0)
	h := bearer(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}}))
	h.Set(HeaderResidency, "EEA,!HU")
	body := jobText("EEA,!HU")
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/api/v1/jobs", strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header = h
		rec := &plainWriter{h: http.Header{}}
		fra.server.App().ServeHTTP(rec, req)
		if rec.status != http.StatusCreated {
			b.Fatalf("answered %d", rec.status)
		}
	}
}

// Where a body may go is said before how large it may be: who sends too much to
// the wrong region learns the right one.
func TestResidencyIsJudgedBeforeSize(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	token := fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}})
	for header, want := range map[string]int{"US": 421, "JP": 403, "EU": 413} {
		h := bearer(token)
		h.Set(HeaderResidency, header)
		status, p, _ := fra.do(t, http.MethodPost, "/api/v1/jobs", h, jobText(header)+strings.Repeat(" ", MaxJobBytes))
		if status != want || want == 421 && len(p.Doors) == 0 {
			t.Errorf("header %s: answered %d %s, expected %d", header, status, p.Code, want)
		}
	}
}

// A refusal that names a time to come back must not forbid it.
func TestQuotaMayBeRetried(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	fra.ledger.must(t, state.SetTenant{Tenant: state.Tenant{ID: "small", Quota: state.Quota{Jobs: 1}}})
	h := bearer(fra.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: "small"}))
	h.Set(HeaderResidency, "EU")
	for _, want := range []int{http.StatusCreated, http.StatusTooManyRequests} {
		status, p, headers := fra.do(t, http.MethodPost, "/api/v1/jobs", h, jobText("EU"))
		if status != want {
			t.Fatalf("answered %d %s, expected %d", status, p.Code, want)
		}
		if want == http.StatusTooManyRequests && (headers.Get("Retry-After") == "" || headers.Get(HeaderShouldRetry) != "") {
			t.Errorf("Retry-After %q, %s %q", headers.Get("Retry-After"), HeaderShouldRetry, headers.Get(HeaderShouldRetry))
		}
	}
}

func TestMethodNotAllowedSaysWhichAre(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	for path, want := range map[string]string{"/api/v1/jobs": "GET, HEAD, POST", "/api/v1/resolve": "POST", "/api/v1/regions/x": "GET, HEAD, DELETE"} {
		status, _, headers := fra.do(t, http.MethodPatch, path, http.Header{}, "")
		if status != http.StatusMethodNotAllowed || headers.Get("Allow") != want {
			t.Errorf("PATCH %s: answered %d, Allow %q, expected %q", path, status, headers.Get("Allow"), want)
		}
	}
}

func TestJobDocumentHasItsTimesBeforeTheyAreKnown(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	c := fra.admin()
	out, err := c.Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := bearer(fra.token(state.Token{Roles: everyRole()}))
	for _, path := range []string{"/api/v1/jobs", "/api/v1/jobs/" + string(out.Job.ID)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h
		rec := httptest.NewRecorder()
		fra.server.App().ServeHTTP(rec, req)
		if !strings.Contains(rec.Body.String(), `"started_at":null,"ended_at":null`) {
			t.Errorf("%s: %s", path, rec.Body)
		}
	}
}

func TestCheckTakesAJobDocument(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	h := bearer(fra.token(state.Token{Roles: everyRole()}))
	for name, c := range map[string]struct {
		body   string
		status int
		answer string
	}{
		"job in JSON":        {jobText("EU"), 200, `"answer":"placeable"`},
		"job in YAML":        {"kind: process\ncommand: [/bin/true]\nresidency: {allow: [EU]}\nresources: {cpu: 1}\n", 200, `"answer":"placeable"`},
		"too large":          {"kind: process\ncommand: [/bin/true]\nresidency: EU\nresources: {cpu: 100000}\n", 200, `"answer":"no-hardware"`},
		"a check":            {`{"kind":"process","type":"batch","residency":"EU","resources":{"cpu":"1","memory":"1GiB"}}`, 200, `"answer":"placeable"`},
		"a check, no type":   {`{"kind":"process","residency":"EU","resources":{"cpu":"1","memory":"1GiB"}}`, 200, `"answer":"placeable"`},
		"unknown field":      {"kind: process\ncomand: [/bin/true]\nresidency: EU\n", 400, `"line":2`},
		"unknown region":     {jobText("region:nowhere"), 400, `"code":"tag.unknown-place"`},
		"unknown site":       {jobText("site:nowhere"), 400, `"code":"tag.unknown-place"`},
		"neither of the two": {"\x00", 400, `"code":"input.job"`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/jobs/check", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h
		rec := httptest.NewRecorder()
		fra.server.App().ServeHTTP(rec, req)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.answer) {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	if n := fra.ledger.View().JobCount(); n != 0 {
		t.Errorf("%d jobs were submitted", n)
	}
}

// A slip in a name is bad input, not a law that forbids.
func TestUnknownNamesAreBadInput(t *testing.T) {
	_, fra, _, iad := mesh3(t)
	for _, r := range []*region{fra, iad} {
		h := bearer(r.token(state.Token{Roles: everyRole()}))
		for _, tag := range []string{"region:nowhere", "site:nowhere", "EU,!region:nowhere"} {
			h.Set(HeaderResidency, tag)
			if status, p, _ := r.do(t, http.MethodPost, "/api/v1/jobs", h, jobText(tag)); status != 400 || p.Code != "tag.unknown-place" {
				t.Errorf("%s: answered %d %s", tag, status, p.Code)
			}
			if _, err := r.admin().Submit(t.Context(), readJob(t, jobText(tag)), SubmitOptions{}); CodeOf(err) != "tag.unknown-place" || ExitOf(err) != ExitUsage {
				t.Errorf("%s: the client says %v", tag, err)
			}
		}
	}
}

// A full queue is answered as something that passes, with when to come back,
// whether this node sees it or the ledger's own judgement does.
func TestAFullQueueSaysWhenToComeBack(t *testing.T) {
	for name, tt := range map[string]struct {
		limits state.Limits
		taken  int
	}{
		"as many as may wait":     {state.Limits{Pending: 2}, 2},
		"more bytes than is kept": {state.Limits{Bytes: 1}, 0},
	} {
		w := newWorld(t)
		w.limits = tt.limits
		fra := w.add("fra-1", "FR", 0)
		header := bearer(fra.token(state.Token{Roles: everyRole()}))
		header.Set("X-Data-Residency", "FR")
		header.Set("Content-Type", "application/json")
		submit := func() (int, Problem, http.Header) {
			return fra.do(t, http.MethodPost, Prefix+"/jobs", header, jobText("FR"))
		}
		for range tt.taken {
			if status, p, _ := submit(); status != http.StatusCreated {
				t.Fatalf("%s: status %d, %+v", name, status, p)
			}
		}
		status, p, answer := submit()
		if status != http.StatusTooManyRequests || p.Code != CodeQueueFull || p.Final || p.Advice == "" {
			t.Errorf("%s: status %d, %+v", name, status, p)
		}
		if after, err := strconv.Atoi(answer.Get("Retry-After")); err != nil || after < 1 || after > 60 {
			t.Errorf("%s: Retry-After %q", name, answer.Get("Retry-After"))
		}
		if now := fra.ledger.View().PendingCount(); now != tt.taken {
			t.Errorf("%s: %d jobs wait", name, now)
		}
	}
}
