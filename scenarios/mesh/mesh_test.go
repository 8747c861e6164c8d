package mesh

import (
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func TestOneNodeRunsAJob(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 1))
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"EU","command":["run","2s"]}`)
		m.Within(5*time.Second, "the job runs", job.Is(placement.JobRunning))
		m.Within(5*time.Second, "the job ends", job.Exited(0))
		m.CheckInvariants()
	})
}

func TestARegionOfThreeSurvivesItsLeader(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","2s"]}`)
		m.Within(10*time.Second, "the job ends", job.Exited(0))
		leader := m.Leader("fra-1")
		m.Kill("fra-1", leader)
		second := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","2s"]}`)
		m.Within(20*time.Second, "the second job ends", second.Exited(0))
		m.Restart("fra-1", leader)
		m.host("fra-1", leader).waitReady()
		m.CheckInvariants()
	})
}
