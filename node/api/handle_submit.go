package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// submission is what the headers of a submit say, judged.
type submission struct {
	tag      residency.Tag
	layers   []placement.Layer
	allowAny bool
	key      string // idempotency
}

// admissionKey is everything that a permission to enter depends on.
type admissionKey struct {
	wire, token, tenant, pack string
	on                        residency.Date
	self                      *placement.Region
}

// admissions remembers which policies may enter, so that a stream of like
// submits is judged once. Refusals are not kept.
type admissions struct {
	mu   sync.RWMutex
	held map[admissionKey][]placement.Layer // guarded by mu
}

const admissionsMax = 4096

func (a *admissions) get(k admissionKey) ([]placement.Layer, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	l, ok := a.held[k]
	return l, ok
}

func (a *admissions) put(k admissionKey, layers []placement.Layer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil || len(a.held) >= admissionsMax {
		a.held = make(map[admissionKey][]placement.Layer)
	}
	a.held[k] = layers
}

// submit takes a job: header first, body after.
func submit(s *Server, c *call) error {
	sub, err := s.judgeSubmit(c)
	if err != nil {
		return err
	}
	body, err := c.readBody(MaxJobBytes)
	if err != nil {
		return err
	}
	now := s.now()
	job, err := ReadJob(body, JobOptions{Pack: c.view.Pack(), On: residency.DateOf(now), Parse: s.tags.parse})
	if err != nil {
		return err
	}
	if job.Tag.Wire() != sub.tag.Wire() {
		return newProblem(http.StatusBadRequest, CodeHeaderDiffers,
			fmt.Sprintf("the header %s says %s, the body says %s", HeaderResidency, shortTag(sub.tag), shortTag(job.Tag)),
			"send the body's whole policy as the header")
	}
	cmd := s.submitCommand(c, sub, job, body, now)
	if err := sealSecrets(c.view, &cmd.Job); err != nil {
		return err
	}
	res, v, err := c.propose(cmd, c.caller.Actor)
	if err != nil {
		return s.withDoors(c, err)
	}
	return c.accepted(v, res)
}

// accepted answers with the job's document: 201, or 200 for a repetition.
func (c *call) accepted(v *state.View, res state.Result) error {
	j := v.Job(placement.JobID(res.ID))
	if j == nil {
		return newProblem(http.StatusConflict, "job.ended", "the job of this key ended long ago and was dropped", "use a new Idempotency-Key")
	}
	c.index(v.Index())
	c.w.Header().Set("Location", Prefix+"/jobs/"+string(j.ID))
	return c.writeJSON(pick(res.Repeated, http.StatusOK, http.StatusCreated), c.show(j))
}

// show is a job as the caller may see it: of a region's nodes another region
// learns nothing.
func (c *call) show(j *placement.Job) placement.JobDocument {
	out := j.Document()
	out.Receipt = c.s.cfg.Ledger.View().ReceiptText(j.Receipt)
	if c.caller.Kind == CallerGrant || c.caller.Kind == CallerForeign {
		out.Node, out.Forward = "", nil
		out.Code, out.Reason, _ = c.s.reasons(c.s.cfg.Ledger.View()).abroad(j)
	}
	return out
}

func shortTag(t residency.Tag) string {
	if w := t.Wire(); len(w) <= 80 {
		return w
	}
	return t.Canonical() + " and more"
}

// judgeSubmit decides from the headers alone whether the body may come here.
func (s *Server) judgeSubmit(c *call) (submission, error) {
	var sub submission
	wire := c.r.Header.Get(HeaderResidency)
	if wire == "" || len(c.r.Header.Values(HeaderResidency)) > 1 {
		return sub, newProblem(http.StatusBadRequest, CodeHeaderMissing, "the submit has no "+HeaderResidency+" header, or several: its body was not read", "send the job's whole policy as that header, as in "+HeaderResidency+": EEA")
	}
	sub.key = c.r.Header.Get(HeaderIdempotency)
	if len(sub.key) > MaxIdempotency {
		return sub, &InputError{Code: CodeUsage, Message: "the Idempotency-Key is too long", Help: fmt.Sprintf("use at most %d bytes", MaxIdempotency)}
	}
	on := residency.DateOf(s.now())
	var err error
	if sub.tag, err = s.tags.parse(wire, c.view.Pack(), on); err != nil {
		return sub, err
	}
	if err := s.checkGranted(c, sub); err != nil {
		return sub, err
	}
	if c.caller.Grant == nil { // a granted job's names are those that its home knows
		if err := checkNames(sub.tag, c.view); err != nil {
			return sub, err
		}
	}
	sub.allowAny = !sub.tag.UsesAny() || s.mayAny(c.caller)
	if !sub.allowAny {
		return sub, newProblem(http.StatusForbidden, CodeAny, "the tag ANY needs a permission that you do not have", "name the places, or ask an administrator for a token with --allow-any").final()
	}
	if sub.tag.NeedsOnChange() {
		return sub, &residency.Error{Code: "tag.field", Message: "special data needs on_change: what happens to running work when the law changes", Help: "add on_change: {law: {action: stop, grace: 0s}}"}
	}
	if c.view.PendingCount() >= c.view.PendingLimit() {
		return sub, problemOfRefused(&state.Refused{Code: CodeQueueFull, Message: fmt.Sprintf("%d jobs wait already, which is the most this region queues", c.view.PendingCount()), Advice: "try again later"})
	}
	if sub.layers, err = s.admit(c, sub.tag, on); err != nil {
		return sub, err
	}
	// Last: a body too large for any region is first sent to the right one, whose
	// refusal it is to give.
	if c.r.ContentLength > MaxJobBytes {
		return sub, &http.MaxBytesError{Limit: MaxJobBytes}
	}
	return sub, nil
}

func (s *Server) mayAny(c *Caller) bool {
	return c.Token != nil && c.Token.AllowAny || c.Grant != nil && c.Grant.AllowAny
}

// admit judges whether the payload may come to this region at all.
func (s *Server) admit(c *call, tag residency.Tag, on residency.Date) ([]placement.Layer, error) {
	key := admissionKey{wire: tag.Wire(), pack: c.view.Pack().Hash(), on: on, self: c.view.Self()}
	cached := c.caller.Kind == CallerToken
	if cached {
		key.token = c.caller.Token.Residency
		if t := c.view.Tenant(c.caller.Tenant); t != nil {
			key.tenant = t.Residency
		}
		if layers, ok := s.admits.get(key); ok {
			return layers, nil
		}
	}
	layers := c.layers(tag)
	at := s.court(c.view)
	d := at.enter(layers, c.from(), c.under()...)
	if !d.Permitted() {
		return nil, s.misdirected(at, placement.Across(layers, c.from(), c.view.Self()), c.view, d)
	}
	if d.Rule == onPath {
		// Home may only pass it on: to where, is asked now rather than never.
		if found := at.survey(layers, s.places(c.view)); len(found.lawful) == 0 {
			return nil, at.refusal(layers, found)
		}
		return layers, nil
	}
	if cached {
		s.admits.put(key, layers)
	}
	return layers, nil
}

// onPath is the rule of a ruling that permits to pass, not to run.
const onPath = "transit.via"

// under is the law pack by which the region of a grant says that it decided.
func (c *call) under() []string {
	if c.caller.Grant == nil {
		return nil
	}
	return []string{c.caller.Grant.LawPack}
}

// from is the region that lets the caller's payload go to this one.
func (c *call) from() *placement.Region {
	if c.caller.Kind == CallerGrant || c.caller.Kind == CallerForeign {
		return c.view.Region(c.caller.Region)
	}
	return c.view.Self()
}

// layers are the effective policy's layers that are known before the body is:
// the job's, the tenant's and its token's, or those that a grant carries.
func (c *call) layers(tag residency.Tag) []placement.Layer {
	out := []placement.Layer{{Origin: residency.OriginJob, Tag: tag.Wire()}}
	add := func(o residency.Origin, wire string) {
		if wire != "" {
			out = append(out, placement.Layer{Origin: o, Tag: wire})
		}
	}
	switch {
	case c.caller.Token != nil:
		add(residency.OriginToken, c.caller.Token.Residency)
		if t := c.view.Tenant(c.caller.Tenant); t != nil {
			add(residency.OriginTenant, t.Residency)
		}
	case c.caller.Grant != nil:
		for _, l := range c.caller.Grant.Layers {
			add(l.Origin, l.Tag)
		}
		for _, t := range c.view.TenantsOver(c.caller.Tenant) {
			add(residency.OriginTenant, t.Residency)
		}
	}
	return out
}

// misdirected refuses a body that may not come here: with the front doors of
// the regions where it may go, or with the reason why there is none.
func (s *Server) misdirected(at court, layers []placement.Layer, v *state.View, d placement.Ruling) error {
	others := slices.DeleteFunc(s.places(v), func(p place) bool { return p.self })
	found := at.survey(layers, others)
	found.note(at.home, d.Decision) // by the border that it came over
	doors := doorsOf(found)
	if len(doors) == 0 {
		return at.refusal(layers, found)
	}
	p := newProblem(http.StatusMisdirectedRequest, CodeMisdirected,
		fmt.Sprintf("%s is outside the path of this job: %s; its body was not read", s.cfg.Region, d.Reason),
		"send it to one of the doors; our client does so by itself")
	p.Rule, p.Doors = d.Rule, doors
	return p.final()
}

func doorsOf(f finding) []Door {
	var out []Door
	for _, at := range f.reachable() {
		for _, url := range at.doors {
			out = append(out, Door{Region: at.ID, URL: url})
		}
	}
	return out
}

// court judges by the region's pack, today.
func (s *Server) court(v *state.View) court {
	return court{law: v.Law(residency.DateOf(s.now())), home: s.placeOf(v, v.Self())}
}

// places are this region and its active peers.
func (s *Server) places(v *state.View) []place {
	var out []place
	for _, r := range v.Regions() {
		if r.Self || r.ID == s.cfg.Region || r.State == placement.PeerActive {
			out = append(out, s.placeOf(v, r))
		}
	}
	return out
}

// placeOf is a region as the court sees it. Sites are looked up on need only.
func (s *Server) placeOf(v *state.View, r *placement.Region) place {
	link, _ := s.link(r.ID)
	at := place{Region: r, link: link, self: r.ID == s.cfg.Region}
	if at.self {
		at.sites = func() []string { return sitesOf(v) }
		for _, n := range v.Nodes() {
			if n.Role != placement.RoleWorker && n.API != "" && len(at.doors) < 8 {
				at.doors = append(at.doors, n.API)
			}
			if len(at.doors) == 8 {
				break
			}
		}
		return at
	}
	for _, d := range r.FrontDoors {
		if d.API != "" {
			at.doors = append(at.doors, d.API)
		}
	}
	return at
}

// checkNames refuses a tag that names a region or a site that nobody here
// knows: a slip in a name is no law that forbids.
func checkNames(tag residency.Tag, v *state.View) error {
	regions, sites := tag.Names()
	for _, name := range regions {
		if v.Region(placement.RegionID(name)) == nil {
			return unknownRegion(name)
		}
	}
	if len(sites) == 0 {
		return nil
	}
	known := sitesOf(v)
	for _, name := range sites {
		if !slices.ContainsFunc(known, func(s string) bool { return strings.EqualFold(s, name) }) {
			return &residency.Error{Code: "tag.unknown-place", Message: "no site of this region is called " + quoteWord(name), Help: "list the nodes with their sites: sovmesh node list"}
		}
	}
	return nil
}

func unknownRegion(name string) error {
	return &residency.Error{Code: "tag.unknown-place", Message: "no region is called " + quoteWord(name), Help: "list the regions: sovmesh region list"}
}

func sitesOf(v *state.View) []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, n := range v.Nodes() {
		if !seen[n.Site] {
			seen[n.Site] = true
			out = append(out, n.Site)
		}
	}
	return out
}

// hashed is what tells a repetition of a submit from another one: its body, without
// the values of secrets, which a hash that is kept would let everybody try out.
func hashed(job *JobFile, body []byte) []byte {
	if job.Spec.Setup == nil || len(job.Spec.Setup.Secrets) == 0 {
		return body
	}
	hidden := *job
	hidden.Spec.Setup = job.Spec.Setup.Hidden()
	if text, err := hidden.Body(); err == nil {
		return text
	}
	return nil // no repetition of it is known again
}

// submitCommand is the job as it is proposed.
func (s *Server) submitCommand(c *call, sub submission, job *JobFile, body []byte, now time.Time) state.SubmitJob {
	sum := sha256.Sum256(hashed(job, body))
	cmd := state.SubmitJob{
		Job: placement.Job{
			ID: placement.NewJobID(s.cfg.Region, now), Name: job.Spec.Name, Kind: job.Spec.Kind, Tenant: c.caller.Tenant,
			Residency: sub.tag.Wire(), Policy: sub.layers, Spec: job.Spec, EntryRegion: s.cfg.Region, SubmittedAt: now,
		},
		AllowAny: sub.allowAny, IdempotencyKey: sub.key, BodyHash: hex.EncodeToString(sum[:]),
	}
	if g := c.caller.Grant; g != nil {
		cmd.Job.Origin, cmd.Grant, cmd.GrantExpires, cmd.LawPack = g.Home, g.ID, g.Expires, g.LawPack
		cmd.HomeLeaf = g.Leaf
	}
	return cmd
}

// withDoors adds to a refusal by Apply where the job may go instead.
func (s *Server) withDoors(c *call, err error) error {
	p := problemOf(err)
	if p.Code == CodeNever || p.Status != http.StatusForbidden {
		return err
	}
	return p.final()
}
