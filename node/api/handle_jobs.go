package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// findJob is the job that an id or a unique prefix names, of those that the
// caller may see. What it may not see does not exist for it.
func (c *call) findJob(v *state.View) (*placement.Job, error) {
	id := c.r.PathValue("id")
	if j := v.Job(placement.JobID(id)); j != nil && c.caller.sees(j) {
		return j, nil
	}
	missing := newProblem(http.StatusNotFound, CodeNotFound, "there is no job "+quoteWord(id), "list them: sovmesh job list")
	if len(id) < 4 || len(id) > 96 {
		return nil, missing
	}
	var found *placement.Job
	for _, j := range v.JobsByPrefix(id, 64) {
		if !c.caller.sees(j) {
			continue
		}
		if found != nil {
			return nil, newProblem(http.StatusConflict, CodeAmbiguous, quoteWord(id)+" begins the ids of several jobs", "write more of the id")
		}
		found = j
	}
	if found == nil {
		return nil, missing
	}
	return found, nil
}

func listJobs(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.read(o)
	if err != nil {
		return err
	}
	page := Page[placement.JobDocument]{Items: []placement.JobDocument{}, Index: v.Index()}
	keep := func(j *placement.Job) bool {
		return c.caller.sees(j) && (o.Status == "" || j.Status == o.Status) && (o.Tenant == "" || j.Tenant == o.Tenant) && (o.Node == "" || j.Node == o.Node)
	}
	why := s.reasons(v)
	for _, j := range v.Jobs(placement.JobID(o.Cursor), o.Limit+1, keep) {
		if len(page.Items) == o.Limit {
			page.Next = string(page.Items[o.Limit-1].ID)
			break
		}
		page.Items = append(page.Items, c.show(why.of(j)))
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, page)
}

// getJob answers with the job; with a wait, as soon as the job itself changed.
func getJob(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	v, err := c.jobView(o)
	if err != nil {
		return err
	}
	j, err := c.findJob(v)
	if err != nil {
		return err
	}
	c.index(j.Index)
	return c.writeJSON(http.StatusOK, c.show(s.reasons(v).of(j)))
}

// jobView is the view in which a job is read, once it changed if that was asked.
func (c *call) jobView(o ListOptions) (*state.View, error) {
	if o.Wait == 0 {
		return c.read(o)
	}
	return c.await(o, func(v *state.View) bool {
		j, err := c.findJob(v)
		return err != nil || j.Index > o.Index
	})
}

func stopJob(s *Server, c *call) error {
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	j, err := c.findJob(v)
	if err != nil {
		return err
	}
	if !c.caller.stops(j) {
		return newProblem(http.StatusForbidden, CodeRole, "you may not stop job "+string(j.ID), "ask its owner, or an operator of this region")
	}
	_, v, err = c.propose(state.StopJob{Job: j.ID, Reason: c.r.URL.Query().Get("reason")}, c.caller.Actor)
	if err != nil {
		return err
	}
	if now := v.Job(j.ID); now != nil {
		j = now
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, c.show(j))
}

// explainJob is the scheduler's own filter chain, and every region's verdict.
func explainJob(s *Server, c *call) error {
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	j, err := c.findJob(v)
	if err != nil {
		return err
	}
	out := s.explain(v, j)
	out.history(j, s.now())
	if c.caller.Kind == CallerToken {
		out.Quota = quotaLines(v, j.Tenant, 0, j.Spec.Resources, pick(j.Status == placement.JobPending, j.Spec.Size(), 0))
	}
	out.mayKnow(c.caller, v)
	out.summarise()
	out.Job, out.Status = j.ID, j.Status
	if j.Status != placement.JobPending {
		// It has its room: what it would wait for, and what would help, are questions
		// of those that wait.
		out.Summary, out.Hint, out.Relax, out.Reserved, out.NextTry = "", "", nil, nil, time.Time{}
	}
	if j.Status != placement.JobPending || j.Code != "" {
		out.Code, out.Reason = j.Code, j.Reason
	}
	if j.Status.Terminal() {
		// Who would take it is a question of the living.
		out.Nodes, out.Fit, out.Failed, out.LargestHole, out.Quota = 0, 0, []FilterCount{}, 0, nil
	}
	if c.caller.Kind == CallerToken {
		for _, t := range v.TasksOf(j.ID) {
			out.Tasks = append(out.Tasks, *t)
		}
	}
	at, places := s.court(v), s.places(v)
	if c.caller.Kind == CallerGrant {
		places = []place{at.home} // which peers this region has is its own affair
	}
	out.Regions = at.survey(j.Policy, places).checks
	if c.caller.Kind == CallerGrant {
		out.Nodes, out.Fit, out.Failed, out.Relax = 0, 0, []FilterCount{}, nil
		out.Summary, out.LargestHole, out.Reserved, out.Answers = "", 0, nil, nil
		out.Code, out.Reason, out.Hint = s.reasons(v).abroad(j)
	}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

// resolve says where something may go: it sees tag and size, no payload.
func resolve(s *Server, c *call) error {
	var in ResolveRequest
	if err := c.readJSON(&in, MaxBodyBytes); err != nil {
		return err
	}
	at := s.court(c.view)
	tag, err := s.tags.parse(in.Residency, at.law.Pack, at.law.On)
	if err != nil {
		return err
	}
	layers := c.layers(tag)
	found := at.survey(layers, s.places(c.view))
	out := Resolution{Residency: tag.Wire(), Doors: doorsOf(found), Unknown: found.silent(), Regions: found.checks}
	if len(out.Doors) == 0 {
		return at.refusal(layers, found)
	}
	return c.writeJSON(http.StatusOK, out)
}

// jobOf is the job that a dry run imagines.
func (in CheckRequest) jobOf(region placement.RegionID, tenant placement.TenantID, layers []placement.Layer) *placement.Job {
	return &placement.Job{
		Kind: in.Kind, Tenant: tenant, Residency: in.Residency, Policy: layers, Status: placement.JobPending, EntryRegion: region,
		Spec: placement.JobSpec{Kind: in.Kind, Type: in.Type, Resources: in.Resources, Priority: in.Priority, Site: in.Site, NodeName: in.Node, Image: in.Image, Members: in.Gang, Spread: in.Spread, Avoid: in.Avoid, MaxRuntime: max(0, in.MaxRuntime)},
	}
}

func (in CheckRequest) validate() error {
	if in.Kind == "" || in.Residency == "" {
		return &InputError{Code: CodeBody, Message: "a check names a kind, a residency and possible resources", Help: "send kind, residency (wire form) and resources"}
	}
	if why, help := in.Resources.Problem(); why != "" {
		return &InputError{Code: CodeBody, Message: "the resources are not possible: " + why, Help: help}
	}
	if in.Gang < 0 || in.Gang > placement.MaxMembers || len(in.Avoid) > maxNeighbours {
		return &InputError{Code: CodeBody, Message: fmt.Sprintf("a gang of %d is not possible", in.Gang), Help: fmt.Sprintf("ask for 1 to %d members, and avoid at most %d jobs", placement.MaxMembers, maxNeighbours)}
	}
	return nil
}

func int64Query(c *call, name string) (int64, error) {
	text := c.r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, &InputError{Code: CodeUsage, Message: fmt.Sprintf("the parameter %s cannot be %s", name, quoteWord(text)), Help: "write a whole number, 0 or more"}
	}
	return n, nil
}

func boolQuery(c *call, name string) (bool, error) {
	text := c.r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, &InputError{Code: CodeUsage, Message: fmt.Sprintf("the parameter %s cannot be %s", name, quoteWord(text)), Help: "write true or false"}
	}
	return b, nil
}
