package state

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// A job whose tag keeps it in France names a region elsewhere in what its
// workload may reach: what may not be placed there may not be sent there.
func TestAJobReachesNoRegionOutsideItsTag(t *testing.T) {
	f := newFixture(t)
	for id, country := range map[placement.RegionID]string{"ber-1": "DE", "iad-1": "US"} {
		f.ok(PutPeer{Region: placement.Region{ID: id, Mesh: "mesh.example", Facts: facts(country), Bundle: []byte(`{"spiffe_sequence":1}`), Fingerprint: "f-" + string(id)}})
		f.ok(ApprovePeer{Region: id, Fingerprint: "f-" + string(id)})
		f.ok(UpdatePeer{Region: id, LawPack: f.s.Active})
	}
	reaching := func(n int, tag string, allow ...string) SubmitJob {
		j := aJob(n, tag)
		j.Spec.Setup = &placement.Setup{Network: &placement.Network{Allow: allow}}
		return SubmitJob{Job: j}
	}
	f.refused("residency.refused", reaching(1, "FR", "region:iad-1"))
	f.refused("residency.refused", reaching(2, "FR", "192.0.2.7:443", "region:ber-1"))
	f.refused("residency.refused", reaching(3, "EU", "region:ber-1", "region:iad-1"))
	f.refused("tag.unknown-place", reaching(4, "EU", "region:nowhere"))
	f.refused("job.network", reaching(5, "EU", "http://example.org"))
	var many []string
	for i := range placement.MaxReachRegions + 1 {
		many = append(many, fmt.Sprint("region:r-", i))
	}
	f.refused("job.network", reaching(6, "EU", many...))

	accepted := f.ok(reaching(7, "EU", "region:ber-1", "region:fra-1", "192.0.2.7:443"))
	leaf, err := ledger.Decode(accepted.Entry)
	if err != nil {
		t.Fatal(err)
	}
	var judged []string
	for _, j := range leaf.Judged {
		if j.Facts != nil {
			judged = append(judged, j.Facts.Region)
		}
	}
	if got := strings.Join(judged, " "); !strings.Contains(got, "ber-1") {
		t.Errorf("the leaf shows judgements of %q", got)
	}
	if strings.Contains(string(accepted.Entry), "192.0.2.7") {
		t.Error("the leaf holds an address of the job in clear")
	}
}
