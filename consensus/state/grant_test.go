package state

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// quoting is what home proposes when a region tells of a job that landed there.
func quoting(grant, region string, n int) UseGrant {
	return UseGrant{ID: grant, Region: placement.RegionID(region), Job: jobID(region, n), PeerLeaf: LeafRef{uint64(n), ledger.Hash{byte(n)}}}
}

// A region speaks of the grants that it was issued, of each once, and of jobs
// that are its own; whatever else it says is not recorded as a crossing.
func TestAGrantIsQuotedOnce(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	f.peer("mad-1", "ES")
	for id, to := range map[string]placement.RegionID{"g1": "ber-1", "g2": "mad-1"} {
		f.ok(IssueGrant{ID: id, Tenant: "default", Audience: to, LawPack: f.s.Active, Expires: f.now.Add(time.Minute)})
	}
	landed := f.granted(1, "ber-1", "EU")
	f.ok(landed)
	f.refused("grant.unknown", quoting("g7", "ber-1", 1))
	f.refused("grant.unknown", quoting(landed.Grant, "ber-1", 1)) // consumed here, issued there
	f.refused("grant.unknown", quoting(grantKey("ber-1", landed.Grant), "ber-1", 1))
	f.refused("grant.foreign", quoting("g2", "ber-1", 1))
	f.refused("grant.foreign", quoting("g1", "mad-1", 1))
	other := quoting("g1", "ber-1", 1)
	other.Job = jobID("mad-1", 1)
	f.refused("job.home", other)
	other.Job = "ber-1.x"
	f.refused("job.home", other)
	none := quoting("g1", "ber-1", 1)
	none.PeerLeaf = LeafRef{Index: 4}
	f.refused("grant.leaf", none)

	k := quoting("g1", "ber-1", 1)
	leaf := f.applyAs("node:n1", k)
	want := map[string]string{
		ledger.ShownRole: "node", ledger.ShownRegion: "ber-1", ledger.ShownGrant: "g1",
		ledger.ShownPeerLeaf: "ber-1 1 0100000000000000000000000000000000000000000000000000000000000000",
	}
	for name, value := range want {
		if got := leaf.Get(name); got != value {
			t.Errorf("the leaf shows %s %q, want %q", name, got, value)
		}
	}
	if !leaf.Accepted() || leaf.Kind != string(KindUseGrant) || leaf.Subject != string(k.Job) || f.s.Grant("g1").Job != k.Job {
		t.Fatalf("%+v, kept %+v", leaf, f.s.Grant("g1"))
	}
	f.refused("grant.quoted", k)
	f.refused("grant.quoted", quoting("g1", "ber-1", 2))
	if got := reopened(t, f.s).Apply(f.index+1, f.encode(quoting("g1", "ber-1", 2))); got.Refused == nil || got.Refused.Code != "grant.quoted" {
		t.Errorf("a restored replica says %+v", got.Refused)
	}
}

// A region tells each other one of the grants that it consumed of it, and
// nobody else's; leaves of a log that ended are named no more.
func TestUsedGrantsAreToldToTheirHome(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	f.peer("mad-1", "ES")
	since := f.now.Add(-time.Hour)
	first := f.ok(f.granted(1, "ber-1", "EU"))
	f.ok(f.granted(2, "mad-1", "EU"))
	f.ok(IssueGrant{ID: "own", Tenant: "default", Audience: "ber-1", LawPack: f.s.Active, Expires: f.now.Add(time.Minute)})
	third := f.ok(f.granted(3, "ber-1", "EU"))
	v := f.s.Freeze()
	used := v.GrantsUsed("ber-1", 0, since)
	if len(used) != 2 || used[0].Job != jobID("fra-1", 1) || used[0].Leaf != first.Leaf || used[1].Index != third.Index {
		t.Fatalf("%+v", used)
	}
	if later := v.GrantsUsed("ber-1", first.Index, since); len(later) != 1 || later[0].Job != jobID("fra-1", 3) {
		t.Errorf("after the first: %+v", later)
	}
	if n := len(v.GrantsUsed("ber-1", third.Index, since)) + len(v.GrantsUsed("ber", 0, since)) + len(v.GrantsUsed("ber-1", 0, f.now.Add(time.Hour))); n != 0 {
		t.Errorf("%d too many", n)
	}
	if n := len(reopened(t, f.s).Freeze().GrantsUsed("ber-1", 0, since)); n != 2 {
		t.Errorf("a restored replica tells %d", n)
	}
	if !v.GrantOpen("ber-1", since) || v.GrantOpen("mad-1", since) || v.GrantOpen("ber-1", f.now.Add(2*time.Minute)) {
		t.Error("the region does not know which of its grants are open")
	}
	f.ok(quoting("own", "ber-1", 4))
	if f.s.Freeze().GrantOpen("ber-1", since) || !v.GrantOpen("ber-1", since) {
		t.Error("a grant whose leaf is quoted is open, or a view changed")
	}
	f.ok(RestartLog{})
	if again := f.s.Freeze().GrantsUsed("ber-1", 0, since); len(again) != 0 || len(v.GrantsUsed("ber-1", 0, since)) != 2 {
		t.Errorf("under the new log it tells %+v", again)
	}
	replayed := f.granted(9, "ber-1", "EU")
	replayed.Grant = used[0].ID
	f.refused("grant.spent", replayed)
}
