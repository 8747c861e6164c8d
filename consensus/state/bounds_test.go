package state

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// limited is a region of four nodes with small limits and two peers.
func limited(t *testing.T, l Limits) *fixture {
	t.Helper()
	f := &fixture{t: t, s: New(), now: day}
	k := firstCommand()
	k.Limits = l
	f.ok(k)
	f.peer("ber-1", "DE")
	f.peer("mad-1", "ES")
	for i := 2; i <= 4; i++ {
		f.node(fmt.Sprintf("n%d", i))
	}
	return f
}

// granted is a job that a peer lands with a grant of its own for each.
func (f *fixture) granted(n int, peer, tag string) SubmitJob {
	j := foreign(n, peer, tag)
	j.ID = jobID("fra-1", n)
	return SubmitJob{Job: j, Grant: fmt.Sprintf("g-%s-%d", peer, n), GrantExpires: f.now.Add(time.Minute), LawPack: f.s.Active}
}

func (f *fixture) hold(peer string, n int, r placement.Resources, node string) Reserve {
	k := f.reservation(n, "EU")
	k.Home, k.Job, k.Resources, k.Node = placement.RegionID(peer), jobID(peer, n), r, placement.NodeID(node)
	for i := range r.GPUs {
		k.Devices = append(k.Devices, fmt.Sprintf("%s-gpu%d", node, i))
	}
	return k
}

// A peer that reserves all it can leaves half of the region, and two of them
// together a quarter: to home, and to whoever else asks.
func TestAPeerThatFloodsReservationsLeavesRoom(t *testing.T) {
	f := limited(t, Limits{})
	node := placement.Resources{CPU: 64000, Memory: placement.GiB, GPUs: 8}
	f.ok(f.hold("ber-1", 1, node, "n1"))
	f.ok(f.hold("ber-1", 2, node, "n2"))
	f.refused("quota.reservations", f.hold("ber-1", 3, node, "n3"))
	f.refused("quota.reservations", f.hold("ber-1", 4, placement.Resources{CPU: 1}, "n3"))
	f.ok(f.hold("mad-1", 1, node, "n3"))
	f.refused("quota.reservations", f.hold("mad-1", 2, node, "n4"))
	id := f.submit(9, "EU", func(j *placement.Job) { j.Spec.Resources = placement.Resources{CPU: 64000, Memory: placement.GiB} })
	f.assign(id, "n4") // home's own
	// What is given back, or expires, may be held again.
	f.ok(ReleaseReservation{Key: ReservationKey("ber-1", jobID("ber-1", 1), 1)})
	f.ok(f.hold("ber-1", 5, node, "n1"))
	f.now = f.now.Add(2 * time.Minute)
	f.ok(f.hold("ber-1", 6, node, "n1"))
	if held, _ := f.s.held.get("ber-1"); held.count != 1 {
		t.Errorf("held %+v after the expiry", held)
	}
}

// Of a device that is cut its instances count, not the device besides.
func TestADeviceThatIsCutIsNoRoomBesides(t *testing.T) {
	f := limited(t, Limits{})
	for i := 1; i <= 4; i++ {
		n := f.s.Node(placement.NodeID(fmt.Sprintf("n%d", i)))
		inventory := n.Inventory
		inventory.Version++
		inventory.Devices = nil
		for k := range 2 {
			whole := fmt.Sprintf("%s-cut%d", n.ID, k)
			inventory.Devices = append(inventory.Devices, placement.Device{UUID: whole, Model: "NVIDIA H100", Memory: 80 * placement.GiB, Health: placement.DeviceOK, Partitioned: true})
			inventory.Devices = append(inventory.Devices, placement.Device{UUID: fmt.Sprintf("%s-gpu%d", n.ID, k), Model: "NVIDIA H100", Memory: 10 * placement.GiB, Health: placement.DeviceOK, Parent: whole, Profile: "1g.10gb"})
		}
		f.ok(ReportInventory{Node: n.ID, Inventory: inventory})
	}
	two := placement.Resources{CPU: 100, GPUs: 2, GPUProfile: "1g.10gb"}
	f.ok(f.hold("ber-1", 1, two, "n1"))
	f.ok(f.hold("ber-1", 2, two, "n2")) // four of eight
	f.refused("quota.reservations", f.hold("ber-1", 3, two, "n3"))
}

// What nodes claim to have overflows no sum: a region of giants keeps its share.
func TestNodesThatClaimEverythingOverflowNothing(t *testing.T) {
	f := limited(t, Limits{})
	for i := 1; i <= 8; i++ {
		if i > 4 {
			f.node(fmt.Sprintf("n%d", i))
		}
		n := f.s.Node(placement.NodeID(fmt.Sprintf("n%d", i)))
		inventory := n.Inventory
		inventory.Version, inventory.Memory = inventory.Version+1, 1<<60
		f.ok(ReportInventory{Node: n.ID, Inventory: inventory})
	}
	big := placement.Resources{CPU: 1000, Memory: 1 << 59}
	for i := 1; i <= 8; i++ {
		f.ok(f.hold("ber-1", i, big, fmt.Sprintf("n%d", i)))
	}
	f.refused("quota.reservations", f.hold("ber-1", 9, big, "n1")) // beyond half
}

// The number of reservations is bounded too: small ones cost state, not room.
func TestAPeerHoldsSoManyReservations(t *testing.T) {
	f := limited(t, Limits{})
	small := placement.Resources{CPU: 1}
	for n := 1; n <= peerReservations; n++ {
		f.ok(f.hold("ber-1", n, small, "n1"))
	}
	f.refused("quota.reservations", f.hold("ber-1", peerReservations+1, small, "n1"))
	f.ok(f.hold("mad-1", 1, small, "n1"))
}

// wire is a tag in the long form, as it crosses.
func wire(t *testing.T, long map[string]any) string {
	t.Helper()
	data, err := json.Marshal(long)
	if err != nil {
		t.Fatal(err)
	}
	v, err := residency.ValueFromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	tag, _, err := residency.ParseLong(v, residency.Embedded(), residency.DateOf(day))
	if err != nil {
		t.Fatal(err)
	}
	return tag.Wire()
}

func TestAPeersShareOfTheQueue(t *testing.T) {
	f := limited(t, Limits{Pending: 16})
	for n := 1; n <= 4; n++ {
		f.ok(f.granted(n, "ber-1", "EU"))
	}
	f.refused("queue.full", f.granted(5, "ber-1", "EU"))
	for n := 6; n <= 9; n++ {
		f.ok(f.granted(n, "mad-1", "EU"))
	}
	for n := 20; n < 28; n++ {
		f.submit(n, "EU")
	}
	if j := aJob(28, "EU"); f.s.PendingCount() != 16 {
		t.Errorf("%d wait", f.s.PendingCount())
	} else {
		f.refused("queue.full", SubmitJob{Job: j})
	}
}

// large is a job whose specification takes n bytes.
func large(n int) func(*placement.Job) {
	return func(j *placement.Job) { j.Spec.Env = map[string]string{"DATA": strings.Repeat("x", n)} }
}

func TestTheQueueHasABudgetOfBytes(t *testing.T) {
	f := limited(t, Limits{Bytes: 4 << 20})
	for n := 1; n <= 4; n++ {
		f.submit(n, "EU", large(900<<10))
	}
	j := aJob(5, "EU")
	large(900 << 10)(&j)
	f.refused("queue.full", SubmitJob{Job: j})
	f.submit(6, "EU") // a small one fits still
	f.ok(StopJob{Job: jobID("fra-1", 1)})
	f.ok(SubmitJob{Job: j})
	// Ended ones are kept within the same bound, the newest.
	for n := 10; n < 20; n++ {
		f.ok(StopJob{Job: f.submit(n, "EU", large(200<<10))})
	}
	if f.s.endedBytes > 4<<20 || f.s.Job(jobID("fra-1", 19)) == nil || f.s.Job(jobID("fra-1", 1)) == nil {
		t.Errorf("%d bytes of ended jobs", f.s.endedBytes)
	}
	for n := 20; n < 40; n++ {
		f.ok(StopJob{Job: f.submit(n, "EU", large(200<<10))})
	}
	if f.s.endedBytes > 4<<20 || f.s.Job(jobID("fra-1", 1)) != nil || f.s.Job(jobID("fra-1", 39)) == nil {
		t.Errorf("%d bytes of ended jobs", f.s.endedBytes)
	}
	if used, limit := f.s.QueueBytes(); used > limit || used != reopened(t, f.s).liveBytes {
		t.Errorf("%d of %d bytes", used, limit)
	}
}

func TestAPeersShareOfTheBytes(t *testing.T) {
	f := limited(t, Limits{Bytes: 8 << 20})
	submit := func(n int, peer string) SubmitJob {
		k := f.granted(n, peer, "EU")
		large(900 << 10)(&k.Job)
		return k
	}
	f.ok(submit(1, "ber-1"))
	f.ok(submit(2, "ber-1"))
	f.refused("queue.full", submit(3, "ber-1"))
	f.ok(submit(4, "mad-1"))
}

// A tenant of another region can have a quota and a tag, and so can all of them.
func TestQuotaAndTagOfForeignTenants(t *testing.T) {
	f := limited(t, Limits{})
	f.refused("tenant.name", SetTenant{Tenant{ID: "ber-1/*/x"}})
	f.refused("tenant.name", SetTenant{Tenant{ID: "/*"}})
	f.refused("tenant.name", SetTenant{Tenant{ID: "*"}})
	f.refused("tenant.name", SetTenant{Tenant{ID: "a/b/c/d"}})
	f.refused("peer.unknown", SetTenant{Tenant{ID: "xxx-1/acme"}})
	f.refused("peer.unknown", SetTenant{Tenant{ID: "fra-1/acme"}})
	f.ok(SetTenant{Tenant{ID: "ber-1/acme", Quota: Quota{Jobs: 1}}})
	f.ok(SetTenant{Tenant{ID: "ber-1/*", Quota: Quota{Jobs: 2}, Residency: "FR"}})
	f.ok(f.granted(1, "ber-1", "EU"))
	f.refused("quota.jobs", f.granted(2, "ber-1", "EU"))
	other := f.granted(3, "ber-1", "EU")
	other.Job.Tenant = "ber-1/other"
	f.ok(other)
	other = f.granted(4, "ber-1", "EU")
	other.Job.Tenant = "ber-1/third"
	f.refused("quota.jobs", other)
	f.refused("quota.jobs", f.hold("ber-1", 5, placement.DefaultResources(), "n1"))
	f.ok(f.granted(6, "mad-1", "EU"))
	want := placement.Layer{Origin: residency.OriginTenant, Tag: "FR"}
	if got := f.s.Job(jobID("fra-1", 1)).Policy; len(got) != 2 || got[1] != want {
		t.Errorf("policy %v", got)
	}
	f.refused("residency.never", f.granted(7, "ber-1", "DE"))
}

// A grant crosses under home's law pack: both permit, and one that is not held
// refuses.
func TestAGrantNamesItsLawPack(t *testing.T) {
	f := limited(t, Limits{})
	k := f.granted(1, "ber-1", "EU")
	k.LawPack = ""
	f.refused("law.unnamed", k)
	k.LawPack = "sha256:other"
	f.refused("law.not-held", k)
	// A pack that puts France outside the EU is home's: this region's own still
	// permits, home's does not.
	tables := residency.Embedded().Tables()
	var rows []string
	for _, row := range strings.SplitAfter(string(tables["groups.csv"]), "\n") {
		if !strings.HasPrefix(row, "EU,FR,") {
			rows = append(rows, row)
		}
	}
	if len(rows) == strings.Count(string(tables["groups.csv"]), "\n")+1 {
		t.Fatal("the table of groups has another form")
	}
	tables["groups.csv"] = []byte(strings.Join(rows, ""))
	k.LawPack = f.ok(ImportLawPack{Tables: tables}).ID
	f.refused("residency.refused", k)
	k = f.granted(2, "ber-1", "EU")
	f.ok(k)
	if r, _ := f.s.jobs.get(string(k.Job.ID)); r.LawPack != f.s.Active || f.s.Grant(grantKey("ber-1", k.Grant)).LawPack != f.s.Active || r.Grant != k.Grant {
		t.Errorf("recorded %+v", r)
	}
	// What the peer says that it decides by now counts as well.
	f.ok(UpdatePeer{Region: "ber-1", LawPack: "sha256:next"})
	f.refused("law.not-held", f.granted(3, "ber-1", "EU"))
	f.refused("law.not-held", IssueGrant{ID: "g", Tenant: "default", Audience: "ber-1", LawPack: f.s.Active, Expires: f.now.Add(time.Minute)})
	f.refused("law.stale", IssueGrant{ID: "g", Tenant: "default", Audience: "mad-1", LawPack: "sha256:old", Expires: f.now.Add(time.Minute)})
}

// A job that was landed here is this region's: it may go on to another, never
// back, and what comes by a reservation goes no further.
func TestALandedJobGoesOnOnce(t *testing.T) {
	f := limited(t, Limits{})
	f.ok(f.granted(1, "ber-1", "EU"))
	to := func(id placement.JobID, region string) SetForward {
		return SetForward{Job: id, Forward: placement.Forward{Region: placement.RegionID(region), Attempt: 1, State: placement.ForwardAsking}}
	}
	f.refused("forward.back", to(jobID("fra-1", 1), "ber-1"))
	f.ok(to(jobID("fra-1", 1), "mad-1"))
	key := f.ok(f.hold("ber-1", 2, placement.DefaultResources(), "n1")).ID
	f.ok(SubmitJob{Job: foreign(2, "ber-1", "EU"), Reservation: key})
	f.refused("job.foreign", to(jobID("ber-1", 2), "mad-1"))
	// At the next region its tenant is one of the region that speaks.
	third := foreign(3, "ber-1", "EU")
	third.Tenant = "ber-1/iad-1/acme"
	key = f.ok(f.hold("ber-1", 3, placement.DefaultResources(), "n1")).ID
	f.ok(SubmitJob{Job: third, Reservation: key})
	third.Tenant = "iad-1/acme"
	third.ID = jobID("ber-1", 4)
	key = f.ok(f.hold("ber-1", 4, placement.DefaultResources(), "n1")).ID
	f.refused("tenant.foreign", SubmitJob{Job: third, Reservation: key})
	// A body that may pass through no relay is passed on by nobody.
	tag := map[string]any{"residency": "EU", "transit": map[string]any{"direct": true}}
	direct := f.granted(5, "ber-1", wire(t, tag))
	f.ok(direct)
	f.refused("residency.refused", to(jobID("fra-1", 5), "mad-1"))
}
