package mesh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// byDesign is something that people typed and that crosses a border all the same.
type byDesign struct {
	place    string // whose marker; a prefix
	from, to placement.RegionID
	alpn     string
	request  string // how it begins, if it is one of HTTP
	why      string
}

// mayCross is the whole list. What is found and not here is a fault.
var mayCross = []byDesign{
	{"crossing.", "fra-1", "ber-1", "h3", "POST /mesh/v1/jobs", "a forwarded job's own bytes go to the region that executes it"},
	{"crossing.output", "ber-1", "fra-1", "h3", "GET /mesh/v1/jobs/", "and its output home, to its owner"},
	{"prompt.", "fra-1", "ber-1", "sovmesh-infer/1", "", "a prompt goes to the region that has its model"},
	{"answer.", "ber-1", "fra-1", "sovmesh-infer/1", "", "and the answer back to who asked"},
	{"tenant.crossing", "fra-1", "ber-1", "", "", "whose work it is: the other region keeps quotas for it"},
	{"model.shared", "", "", "", "", "the name of a model that the policy of its deployment lets be used from there"},
	{"node.", "", "", "h3", "GET /mesh/v1/summary", "a node's name is in its certificate, with which it signs what the region says; nowhere in the clear"},
	{"node.", "", "", "tcp", "", "the same in the card that two operators compare"},
	{"stop.there", "ber-1", "fra-1", "h3", "GET /mesh/v1/jobs", "who stops a job of another region tells its owner why"},
	{"operator.", "", "", "", "", "the operator of a region is one of the facts that its peers pin"},
}

func (s spoken) byDesign(place, word string) bool {
	if strings.HasPrefix(place, "node.") && bytes.Contains(bytes.ToLower(s.text), []byte(word)) {
		return false
	}
	return slices.ContainsFunc(mayCross, func(c byDesign) bool {
		return strings.HasPrefix(place, c.place) && (c.from == "" || s.from == c.from && s.to == c.to) &&
			(c.alpn == "" || s.alpn == c.alpn) && strings.HasPrefix(s.request, c.request)
	})
}

// people is a mesh at whose every door people typed something.
type people struct {
	*Mesh
	t   *testing.T
	k   markers
	tap *wiretap
}

func (p *people) as(region placement.RegionID, tenant placement.TenantID) *Client {
	p.t.Helper()
	_, err := p.At(region).SetTenant(p.t.Context(), state.Tenant{ID: tenant})
	p.must(err)
	tok, err := p.At(region).CreateToken(p.t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleSubmitter, state.RoleViewer, state.RoleOperator}, Tenant: tenant})
	p.must(err)
	return p.AtNodeWith(region, p.region(region).hosts[0].name, tok.Secret)
}

// submit submits a job whose name, command, environment and key are marked.
func (p *people) submit(c *Client, place, rest string) *Job {
	p.t.Helper()
	file := fmt.Sprintf(`{"kind":"fake","name":%q,"command":["print",%q],"env":{%q:%q},%s}`,
		p.k.add(place+".name"), p.k.add(place+".output"), strings.ToUpper(p.k.add(place+".envname")), p.k.add(place+".env"), rest)
	read, err := api.ReadJob([]byte(file), api.JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())})
	p.must(err)
	ctx, cancel := context.WithTimeout(p.t.Context(), 15*time.Second)
	defer cancel()
	out, err := c.Client.Submit(ctx, read, api.SubmitOptions{IdempotencyKey: p.k.add(place + ".key")})
	p.must(err)
	return &Job{m: p.Mesh, home: c.region, ID: out.Job.ID, Landed: out.Landed}
}

// typeEverywhere plays jobs that stay and jobs that cross, models, drains,
// refusals and failures.
func (p *people) typeEverywhere() {
	t, k := p.t, p.k
	crossing := p.as("fra-1", placement.TenantID(k.add("tenant.crossing")))
	local := p.as("fra-1", placement.TenantID(k.add("tenant.local")))
	gpu := `"residency":"EU","resources":{"gpus":1}`

	// Jobs that stay: one that ends, one that cannot be started, one that is stopped.
	wishes := fmt.Sprintf(`"residency":"FR","avoid":[%q],"near":[%q]`, k.add("local.avoid"), k.add("local.near"))
	p.Within(20*time.Second, "a job at home ends", p.submit(local, "local", wishes).Exited(0))
	broken := p.with(local, fmt.Sprintf(`{"kind":"fake","name":%q,"residency":"FR","command":[%q],"restart":{"policy":"never"}}`, k.add("broken.name"), k.add("broken.command")))
	p.Within(20*time.Second, "a job that cannot start fails", broken.Is(placement.JobFailed))
	stopped := p.with(local, `{"kind":"fake","residency":"FR","command":["sleep"]}`)
	p.Within(20*time.Second, "it runs", stopped.Is(placement.JobRunning))
	_, err := local.StopJob(t.Context(), stopped.ID, k.add("stop.reason"))
	p.must(err)

	// Jobs that cross, and whose output is read at home.
	job := p.submit(crossing, "crossing", gpu)
	p.Within(30*time.Second, "the job crosses and ends", job.Exited(0))
	logs, err := crossing.Logs(t.Context(), job.ID, api.LogOptions{})
	p.must(err)
	text, _ := io.ReadAll(logs) // judged by what came
	_ = logs.Close()
	if !strings.Contains(string(text), k["crossing.output"]) {
		t.Errorf("home reads the output as %q", text)
	}

	p.crossAndFail(crossing, gpu)

	// Nobody has room; the other region is being emptied.
	wide := p.submit(local, "wide", `"residency":"EU","resources":{"gpus":64}`)
	there := p.region("ber-1").hosts[0].name
	_, err = p.At("ber-1").Drain(t.Context(), there, api.DrainRequest{Reason: k.add("drain.reason")})
	p.must(err)
	for device := range p.region("ber-1").spec.GPUs {
		_, err = p.At("ber-1").ClearGPU(t.Context(), there, fmt.Sprintf("sim-ber-1-%s-%d", there, device), api.ClearDeviceRequest{Reason: k.add(fmt.Sprint("device.reason", device))})
		p.must(err)
	}
	drained := p.submit(local, "drained", gpu)
	time.Sleep(40 * time.Second) // of the mesh's time: peers were asked, and said no
	for i, j := range []*Job{wide, drained} {
		_, err = local.StopJob(t.Context(), j.ID, k.add(fmt.Sprint("stop.waiting", i)))
		p.must(err)
	}
	_, err = p.At("ber-1").Resume(t.Context(), there)
	p.must(err)
}

// crossAndFail lets jobs cross that fail there, that are stopped by either side,
// and that the other region refuses for a quota.
func (p *people) crossAndFail(c *Client, gpu string) {
	t, k := p.t, p.k
	failed := p.with(c, fmt.Sprintf(`{"kind":"fake",%s,"command":[%q],"restart":{"policy":"never"}}`, gpu, k.add("crossing.failing")))
	p.Within(30*time.Second, "it fails there", failed.Is(placement.JobFailed))
	for _, by := range []placement.RegionID{"fra-1", "ber-1"} {
		j := p.with(c, `{"kind":"fake",`+gpu+`,"command":["sleep"]}`)
		p.Within(30*time.Second, "it runs there", j.Is(placement.JobRunning))
		reason := k.add(map[placement.RegionID]string{"fra-1": "stop.here", "ber-1": "stop.there"}[by])
		// Not with our client: it would ask the job's home.
		status, code := p.Raw(http.MethodDelete, by, p.region(by).hosts[0].name, api.Prefix+"/jobs/"+string(j.ID)+"?reason="+reason,
			http.Header{"Authorization": {"Bearer " + p.region(by).token}}, "")
		if status >= 300 {
			t.Fatalf("stopping it in %s: %d %s", by, status, code)
		}
		p.Within(30*time.Second, "home hears that it ended", func() bool { doc := j.Now(); return doc != nil && doc.Status.Terminal() })
	}
	_, err := p.At("ber-1").SetTenant(t.Context(), state.Tenant{ID: placement.TenantID("fra-1/" + k["tenant.crossing"]), Quota: state.Quota{Jobs: 1}})
	p.must(err)
	first := p.with(c, `{"kind":"fake",`+gpu+`,"command":["sleep"]}`)
	p.Within(30*time.Second, "it runs there", first.Is(placement.JobRunning))
	second := p.with(c, `{"kind":"fake",`+gpu+`,"command":["sleep"]}`)
	time.Sleep(10 * time.Second) // of the mesh's time: the other region was asked, and said no
	for i, j := range []*Job{first, second} {
		_, err := c.StopJob(t.Context(), j.ID, k.add(fmt.Sprint("stop.quota", i)))
		p.must(err)
		p.Within(30*time.Second, "it ends", func() bool { doc := j.Now(); return doc != nil && doc.Status.Terminal() })
	}
	_, err = p.At("ber-1").SetTenant(t.Context(), state.Tenant{ID: placement.TenantID("fra-1/" + k["tenant.crossing"])})
	p.must(err)
}

// with submits with a client of the caller's.
func (p *people) with(c *Client, file string) *Job {
	p.t.Helper()
	job, err := c.TrySubmit(file)
	p.must(err)
	return job
}

// askModels asks a model of the own region, one across the border, and one that
// nobody has.
func (p *people) askModels() {
	t, k := p.t, p.k
	p.markedModel("127.0.0.1:8000", k.add("answer.text"))
	for region, model := range map[placement.RegionID]string{"fra-1": k.add("model.local"), "ber-1": k.add("model.shared")} {
		tag := map[placement.RegionID]string{"fra-1": "region:fra-1", "ber-1": "EU"}[region]
		job := p.At(region).Submit(fmt.Sprintf(`{"kind":"inference","type":"service","restart":{"policy":"on-failure"},"residency":%q,"models":[%q],"upstream":"http://127.0.0.1:8000","command":["run","1h"]}`, tag, model))
		p.Within(20*time.Second, "the model server runs", job.Is(placement.JobRunning))
	}
	tok, err := p.At("fra-1").CreateToken(t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleSubmitter}, Tenant: placement.TenantID(k["tenant.crossing"])})
	p.must(err)
	chat := func(place, model string) (int, string) {
		body := fmt.Sprintf(`{"model":%q,"user":%q,"messages":[{"role":"user","content":%q}]}`, model, k.add(place+".user"), k.add(place+".text"))
		status, data := p.request(http.MethodPost, "fra-1", p.region("fra-1").hosts[0].name, "/v1/chat/completions", http.Header{
			"Authorization": {"Bearer " + tok.Secret}, "Content-Type": {"application/json"}, "X-Data-Residency": {"EU"},
			"X-Request-Id": {k.add(place + ".requestid")}, "Idempotency-Key": {k.add(place + ".key")}, "User-Agent": {k.add("agent." + place)},
		}, body)
		return status, string(data)
	}
	if status, text := chat("localprompt", k["model.local"]); status != http.StatusOK || !strings.Contains(text, k["answer.text"]) {
		t.Errorf("the model at home: %d %s", status, text)
	}
	answered := func() bool {
		status, text := chat("prompt.crossing", k["model.shared"])
		return status == http.StatusOK && strings.Contains(text, k["answer.text"])
	}
	p.Within(30*time.Second, "the model across the border answers", answered)
	if status, _ := chat("lostprompt", k.add("model.nobody")); status < 400 {
		t.Errorf("a model that nobody has answered: %d", status)
	}
	time.Sleep(5 * time.Second) // the receipts are committed
}

// markedModel is a model server that answers with the word.
func (p *people) markedModel(addr, word string) {
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"c1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`, word)
	})}
	l := p.tcp.listen(addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	p.t.Cleanup(func() { _ = srv.Close(); <-done })
}

// Whatever people typed, on no border and in no leaf stands a word of it, but
// what has to be there by design; that is found, or the search would prove
// nothing.
func TestNothingPersonalCrossesABorderOrStandsInALeaf(t *testing.T) {
	Run(t, func(t *testing.T) {
		k := markers{}
		m, tap := tapped(t)
		fra, ber, iad := Region("fra-1", "FR", 1), Region("ber-1", "DE", 1), Region("iad-1", "US", 1)
		fra.Names, ber.Names = []placement.NodeID{placement.NodeID(k.add("node.fra"))}, []placement.NodeID{placement.NodeID(k.add("node.ber"))}
		fra.Operator = k.add("operator.fra")
		ber.GPUs = []placement.Device{h200, h200}
		m.begin(fra, ber, iad)
		p := &people{m, t, k, tap}
		p.typeEverywhere()
		p.askModels()
		for _, r := range m.regions {
			m.Within(60*time.Second, string(r.spec.ID)+" is witnessed by all", m.cosigned(r.spec.ID))
		}
		p.searchBorders()
		for _, r := range m.regions {
			p.searchLedger(r)
		}
		m.CheckInvariants()
	})
}

// searchBorders looks at every byte that went from one region to another.
func (p *people) searchBorders() {
	p.t.Helper()
	p.tap.mu.Lock()
	defer p.tap.mu.Unlock()
	used, kinds, total := map[string]bool{}, map[string]int{}, 0
	for _, u := range p.tap.said {
		s := u.read()
		kinds[u.alpn]++
		total += len(u.data)
		for _, place := range p.k.in(slices.Concat(s.text, u.data)) {
			if s.byDesign(place, p.k[place]) {
				used[place] = true
				continue
			}
			at := bytes.Index(bytes.ToLower(s.text), []byte(p.k[place]))
			p.t.Errorf("%s crossed from %s to %s (%s %s): …%q…", place, u.from, u.to, u.alpn, s.request, s.text[max(0, at-200):min(len(s.text), max(0, at)+60)])
		}
		if strings.Contains(u.alpn, "raft") || strings.Contains(u.alpn, "gossip") {
			p.t.Errorf("%s went from %s to %s: both stay in a region", u.alpn, u.from, u.to)
		}
	}
	for _, place := range []string{"crossing.name", "crossing.env", "crossing.output", "prompt.crossing.text", "answer.text", "tenant.crossing", "model.shared", "node.ber", "stop.there", "operator.fra"} {
		if !used[place] {
			p.t.Errorf("%s must cross, and was not found: the search sees nothing", place)
		}
	}
	p.t.Logf("%d streams, %d bytes: %v; crossed by design: %v", len(p.tap.said), total, kinds, len(used))
}

// searchLedger looks at all that a region serves of its ledger, and at the leaves
// as they lie on the disk. What the leaves hide has to be there, in the region.
func (p *people) searchLedger(r *region) {
	p.t.Helper()
	id, name := r.spec.ID, r.hosts[0].name
	look := func(what string, data []byte) {
		p.t.Helper()
		for _, place := range p.k.in(data) {
			p.t.Errorf("%s of %s holds %s", what, id, place)
		}
	}
	fetch := func(path, token string) []byte {
		p.t.Helper()
		h := http.Header{}
		if token != "" {
			h.Set("Authorization", "Bearer "+token)
		}
		status, body := p.request(http.MethodGet, id, name, api.Prefix+"/ledger/"+path, h, "")
		if status != http.StatusOK {
			p.t.Errorf("%s of %s: %d", path, id, status)
		}
		look(path, body)
		return body
	}
	tok, err := p.At(id).CreateToken(p.t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleAuditor}})
	p.must(err)
	c, err := ledger.ParseSignedCheckpoint(fetch("checkpoint", ""))
	p.must(err)
	size, leaves := c.Unverified().Size, 0
	for b := range ledger.Bundles(0, size) {
		fetch(b.Hashes().Path(), "")
		fetch(b.Path(), tok.Secret)
		leaves += b.Width
	}
	if uint64(leaves) != size || leaves == 0 {
		p.t.Errorf("%d of %d leaves of %s were looked at", leaves, size, id)
	}
	if id != "fra-1" {
		return
	}
	for _, place := range []string{"local.name", "local.output", "local.env", "local.avoid", "local.near", "local.key", "broken.command", "stop.reason"} {
		if !r.hosts[0].holds(p.k[place]) {
			p.t.Errorf("%s is nowhere on the disk of %s: it was never recorded, and the search shows nothing", place, id)
		}
	}
}

// holds reports whether a word stands in a file of the machine.
func (h *host) holds(word string) (found bool) {
	_ = filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			data, err := os.ReadFile(path)
			found = found || err == nil && bytes.Contains(data, []byte(word))
		}
		return nil // files come and go under a running node
	})
	return found
}
