package state

import (
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// TestNoInputStopsAReplica: a leaf that would not fit, or that quotes broken
// text, must not end every replica of a region, now and at each restart.
func TestNoInputStopsAReplica(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	f.apply(RevokeToken{ID: strings.Repeat("é", 40)})
	f.apply(ApprovePeer{Region: placement.RegionID(strings.Repeat("ö", 60_000))})

	var layers []placement.Layer
	for i := range maxLayers {
		tag := "EU"
		for n := 0; len(tag)+80 < maxPolicy/maxLayers-8; n++ {
			tag += ",region:" + strings.Repeat(string(rune('a'+i)), 50) + "-" + strings.Repeat("b", n%10+1)
		}
		layers = append(layers, placement.Layer{Origin: residency.OriginJob, Tag: tag})
	}
	r := f.reservation(1, "EU")
	r.Policy = layers
	f.apply(r)
	j := foreign(1, "ber-1", "EU")
	j.Policy = layers
	f.apply(SubmitJob{Job: j, Reservation: ReservationKey("ber-1", j.ID, 1)})
}

// TestAStoppedJobDoesNotWaitAbroad: stopped while another region was asked, and
// refused there, it ends at home.
func TestAStoppedJobDoesNotWaitAbroad(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	id := f.submit(1, "EU")
	f.ok(SetForward{Job: id, Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardAsking}})
	f.ok(StopJob{Job: id})
	f.ok(SetForward{Job: id, Forward: placement.Forward{Attempt: 1, State: placement.ForwardWaiting}})
	f.wantJob(id, placement.JobStopped)
}

// TestWhatAnotherRegionHasIsNotTakenBack: a late refusal of the same errand must
// not let home run the job a second time.
func TestWhatAnotherRegionHasIsNotTakenBack(t *testing.T) {
	f := newFixture(t)
	f.peer("ber-1", "DE")
	id := f.submit(1, "EU")
	f.ok(SetForward{Job: id, Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardAsking}})
	f.ok(SetForward{Job: id, Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardPlaced}})
	f.refused("forward.placed", SetForward{Job: id, Forward: placement.Forward{Attempt: 1, State: placement.ForwardWaiting}})
	f.refused("forward.placed", SetForward{Job: id, Forward: placement.Forward{Region: "ber-1", Attempt: 1, State: placement.ForwardUnknown}})
}
