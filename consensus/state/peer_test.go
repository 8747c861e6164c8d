package state

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// A foreign region that redeclares its country changes nothing until an
// operator approves.
func TestPinnedFactsStayPinned(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	redeclared := aPeer("ber-1", "FR")
	redeclared.Fingerprint = "f-new"
	f.ok(PutPeer{Region: redeclared})
	if r := f.s.Region("ber-1"); r.Facts.Country != "DE" || r.State != placement.PeerActive {
		t.Fatalf("pinned %+v", r)
	}
	f.refused("peer.fingerprint", ApprovePeer{Region: "ber-1", Fingerprint: "f-ber-1"})
	f.ok(UpdatePeer{Region: "ber-1", FrontDoors: []placement.FrontDoor{{QUIC: "127.0.0.1:1", API: "https://127.0.0.1:2"}}})
	if r := f.s.Region("ber-1"); r.Facts.Country != "DE" || len(r.FrontDoors) != 1 {
		t.Fatalf("updated %+v", r)
	}
	f.ok(ApprovePeer{Region: "ber-1", Fingerprint: "f-new"})
	if r := f.s.Region("ber-1"); r.Facts.Country != "FR" || f.s.PendingPeer("ber-1") != nil {
		t.Fatalf("approved %+v", r)
	}
}

func TestFederation(t *testing.T) {
	f := newFixture(t)
	h := hashOf("i")
	f.ok(InviteRegion{Region: "ber-1", Hash: h, Expires: f.now.Add(time.Minute)})
	f.refused("invite.name", PutPeer{Region: aPeer("iad-1", "US"), InviteHash: h})
	f.ok(PutPeer{Region: aPeer("ber-1", "DE"), InviteHash: h})
	f.refused("invite.spent", PutPeer{Region: aPeer("ber-1", "DE"), InviteHash: h})
	f.refused("peer.fingerprint", ApprovePeer{Region: "ber-1", Fingerprint: "f-ber"})
	f.refused("peer.unknown", UpdatePeer{Region: "ber-1", LawPack: "x"})
	f.ok(ApprovePeer{Region: "ber-1", Fingerprint: "f-ber-1"})
	// Whoever holds a key of that region today must not replace its roots, let
	// alone those of another.
	f.refused("peer.bundle", UpdatePeer{Region: "ber-1", Bundle: []byte(`{"spiffe_sequence":4}`)})
	f.refused("peer.self", PutPeer{Region: aPeer("fra-1", "FR")})
	f.ok(LeavePeer{Region: "ber-1"})
	f.refused("peer.unknown", UpdatePeer{Region: "ber-1", LawPack: "x"})
}

func foreign(n int, origin, tag string) placement.Job {
	j := aJob(n, tag)
	j.ID, j.Origin, j.Tenant = jobID(origin, n), placement.RegionID(origin), placement.TenantID(origin+"/acme")
	return j
}

func (f *fixture) reservation(n int, tag string) Reserve {
	return Reserve{Home: "ber-1", Job: jobID("ber-1", n), Attempt: 1, JobKind: placement.KindProcess, Resources: placement.DefaultResources(),
		Policy: []placement.Layer{{Origin: residency.OriginJob, Tag: tag}}, Expires: f.now.Add(time.Minute), Node: "n1"}
}

func TestReservations(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	f.refused("job.unannounced", SubmitJob{Job: foreign(1, "ber-1", "EU")})
	f.refused("residency.refused", f.reservation(1, "DE"))
	importRule := "DE"
	f.ok(SetRegionPolicy{Import: &importRule})
	f.refused("residency.never", f.reservation(1, "FR"))
	importRule = ""
	f.ok(SetRegionPolicy{Import: &importRule})
	key := f.ok(f.reservation(1, "EU")).ID
	if r := f.ok(f.reservation(1, "EU")); !r.Repeated || f.s.Node("n1").Used.CPU != 100 {
		t.Fatalf("a reservation asked for twice holds %s", f.s.Node("n1").Used.CPU)
	}
	f.refused("reservation.foreign", SubmitJob{Job: foreign(2, "ber-1", "EU"), Reservation: key})
	f.ok(SubmitJob{Job: foreign(1, "ber-1", "EU"), Reservation: key})
	f.refused("job.exists", SubmitJob{Job: foreign(1, "ber-1", "EU"), Reservation: key})
	f.refused("reservation.spent", ReleaseReservation{Key: key})
	f.assign(jobID("ber-1", 1), "n1")
	if u := f.s.Node("n1").Used; u.CPU != 100 || u.Tasks != 1 || len(f.s.Reservations()) != 0 {
		t.Errorf("used %+v: the held room did not become the task's", u)
	}
	f.refused("job.foreign", SetForward{Job: jobID("ber-1", 1), Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardAsking}})

	key = f.ok(f.reservation(3, "EU")).ID
	f.now = f.now.Add(2 * time.Minute)
	f.refused("reservation.expired", SubmitJob{Job: foreign(3, "ber-1", "EU"), Reservation: key})
	if u := f.s.Node("n1").Used; u.CPU != 100 {
		t.Errorf("used %+v: the expired room was not given back", u)
	}
	r := f.reservation(4, "EU")
	r.LawPack = "sha256:other"
	f.refused("law.not-held", r)
}

func TestGrantsAreSpentOnce(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	granted := func(n int) SubmitJob {
		j := foreign(n, "ber-1", "EU")
		j.ID = jobID("fra-1", n)
		return SubmitJob{Job: j, Grant: "g1", GrantExpires: day.Add(time.Minute), LawPack: f.s.Active}
	}
	f.ok(granted(1))
	f.refused("grant.spent", granted(2)) // a replayed grant
	f.now = f.now.Add(2 * time.Minute)
	late := granted(3)
	late.Grant = "g2"
	f.refused("grant.expired", late)
	f.ok(IssueGrant{ID: "g9", Tenant: "default", Audience: "ber-1", LawPack: f.s.Active, Expires: f.now.Add(time.Minute)})
	f.refused("grant.exists", IssueGrant{ID: "g9", Tenant: "default", Audience: "ber-1", LawPack: f.s.Active, Expires: f.now.Add(time.Minute)})
	f.refused("peer.unknown", IssueGrant{ID: "g10", Tenant: "default", Audience: "iad-1", Expires: f.now.Add(time.Minute)})
}

func TestForwarding(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	f.peer("iad-1", "US")
	id := f.submit(1, "EU")
	to := func(region, state string, attempt int) SetForward {
		return SetForward{Job: id, Forward: placement.Forward{Region: placement.RegionID(region), Attempt: attempt, State: state}}
	}
	f.refused("residency.refused", to("iad-1", placement.ForwardAsking, 1))
	f.ok(to("ber-1", placement.ForwardAsking, 1))
	if f.s.queue.len() != 0 {
		t.Error("a job that asks elsewhere is still placed here")
	}
	f.refused("job.away", Assign{Assignments: []placement.Assignment{f.assignment(id, "n1")}})
	f.ok(to("ber-1", "", 1))
	if f.s.queue.len() != 1 {
		t.Error("a job that came back does not wait here")
	}
	f.refused("forward.stale", to("ber-1", placement.ForwardAsking, 0))
	f.ok(to("ber-1", placement.ForwardPlaced, 2))
	f.refused("forward.foreign", MirrorJob{Job: id, Region: "iad-1", Status: placement.JobComplete})
	code := 0
	f.ok(MirrorJob{Job: id, Region: "ber-1", Status: placement.JobRunning, StartedAt: f.now})
	f.wantJob(id, placement.JobRunning)
	f.ok(to("ber-1", placement.ForwardPlaced, 2)) // home's own word may be later than the region's
	f.wantJob(id, placement.JobRunning)
	f.ok(MirrorJob{Job: id, Region: "ber-1", Status: placement.JobUnknown})
	f.wantJob(id, placement.JobUnknown)
	f.ok(MirrorJob{Job: id, Region: "ber-1", Status: placement.JobComplete, ExitCode: &code, EndedAt: f.now})
	f.wantJob(id, placement.JobComplete)
	if j := f.s.Job(id); j.Region != "ber-1" || j.Hops != 1 {
		t.Errorf("job %+v", j)
	}
	export := "FR"
	f.ok(SetRegionPolicy{Export: &export})
	id = f.submit(2, "EU")
	f.refused("residency.refused", to("ber-1", placement.ForwardAsking, 1)) // what may leave is narrower than the job's own tag
}

func TestADeadPeersJobs(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	batch, svc := f.submit(1, "EU"), f.submit(2, "EU", service)
	for _, id := range []placement.JobID{batch, svc} {
		f.ok(SetForward{Job: id, Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardPlaced}})
	}
	f.ok(LeavePeer{Region: "ber-1", Dead: true})
	f.wantJob(batch, placement.JobLost)
	f.wantJob(svc, placement.JobPending)
	if f.s.queue.len() != 1 {
		t.Error("the service is not wanted here")
	}
}

func TestTokensAndLawPacks(t *testing.T) {
	f := newFixture(t)
	tok := Token{ID: "t1", Hash: hashOf("s"), Roles: []Role{RoleSubmitter}}
	f.ok(CreateToken{tok})
	if got := f.s.Token(tok.Hash); got == nil || got.Tenant != "default" || f.s.TokenByID("t1") != got {
		t.Errorf("token %+v", got)
	}
	f.refused("token.exists", CreateToken{tok})
	f.refused("token.role", CreateToken{Token{ID: "t2", Hash: hashOf("x"), Roles: []Role{"king"}}})
	f.ok(RevokeToken{ID: "t1"})
	if !f.s.Token(tok.Hash).Revoked {
		t.Error("not revoked")
	}
	f.refused("law.unknown-pack", ActivateLawPack{Hash: "sha256:nothing"})
	tables := residency.Embedded().Tables()
	tables["aliases.csv"] = append(tables["aliases.csv"], '\n')
	r := f.apply(ImportLawPack{Tables: tables})
	if r.Refused == nil {
		f.ok(ActivateLawPack{Hash: r.ID})
		if f.s.Pack().Hash() != r.ID {
			t.Error("the imported pack is not the active one")
		}
	}
}
