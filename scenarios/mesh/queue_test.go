package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// gpuRegion is fra-1 with two devices on every node, the first of which is at
// par-a and the others at par-b.
func gpuRegion(nodes int) Spec {
	s := Region("fra-1", "FR", nodes)
	s.GPUs = []placement.Device{h200, h200}
	s.Sites = []string{"par-a"}
	for range nodes - 1 {
		s.Sites = append(s.Sites, "par-b")
	}
	return s
}

// attempt are the tasks of a job's attempt as the region's newest replica has them.
func (j *Job) attempt(number int) (out []*placement.Task) {
	for _, task := range j.m.region(j.home).newest().TasksOf(j.ID) {
		if _, n, ok := task.ID.Member(); ok && n == number {
			out = append(out, task)
		}
	}
	return out
}

// asOne checks that an attempt of a gang stands as a whole, placed by one entry
// of the log, each member on a node of its own.
func (j *Job) asOne(number, size int) []*placement.Task {
	j.m.t.Helper()
	all := j.attempt(number)
	nodes := map[placement.NodeID]bool{}
	for _, task := range all {
		nodes[task.Node] = true
		if task.Index != all[0].Index {
			j.m.t.Errorf("member %s was placed by entry %d, and %s by %d", task.ID, task.Index, all[0].ID, all[0].Index)
		}
	}
	if len(all) != size || len(nodes) != size {
		j.m.t.Fatalf("attempt %d of %s has %d members on %d nodes, want %d", number, j, len(all), len(nodes), size)
	}
	return all
}

// A gang over three nodes is one entry of the log. A member that fails ends the
// others and all start again as one, though the leader dies at that moment; a
// program that is killed and comes back ends none of them.
func TestAGangOverSeveralNodesIsOne(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, gpuRegion(3))
		gang := m.At("fra-1").Submit(`{"kind":"fake","name":"train","residency":"FR","gang":3,"command":["sleep"],"resources":{"gpus":2},"restart":{"policy":"on-failure","attempts":5}}`)
		m.Within(15*time.Second, "it runs", gang.Is(placement.JobRunning))
		first := gang.asOne(1, 3)

		follower := m.follower("fra-1")
		m.Kill("fra-1", follower)
		time.Sleep(time.Second)
		m.Restart("fra-1", follower)
		m.host("fra-1", follower).waitReady()
		time.Sleep(5 * time.Second)
		if n := m.starts("fra-1", gang.ID); n != 3 || !gang.Is(placement.JobRunning)() {
			t.Fatalf("an agent that came back: %d starts, %s", n, gang)
		}

		leader := m.Leader("fra-1")
		broken := first[0]
		for _, task := range first {
			if task.Node != leader {
				broken = task
			}
		}
		m.host("fra-1", broken.Node).world.Finish(broken.ID, 7)
		m.Within(10*time.Second, "the others are told to end", func() bool {
			for _, task := range gang.attempt(1) {
				if task.ID != broken.ID && !task.Stop {
					return false
				}
			}
			return true
		})
		m.Kill("fra-1", leader)
		time.Sleep(2 * time.Second)
		m.Restart("fra-1", leader)
		m.host("fra-1", leader).waitReady()
		m.Within(60*time.Second, "all of it runs again", func() bool {
			if n := len(gang.attempt(2)); n != 0 && n != 3 {
				t.Fatalf("%d members of the second attempt", n)
			}
			return gang.Is(placement.JobRunning)() && len(gang.attempt(2)) == 3
		})
		gang.asOne(2, 3)
		if n := m.starts("fra-1", gang.ID); n != 6 {
			t.Errorf("%d tasks were started, want three twice", n)
		}
		m.CheckInvariants()
	})
}

// A job of higher priority takes the room of a preemptible one, which has its
// grace first. The only free room is outside the victim's tag, at another site of
// the region and in another region: it waits until there is some inside.
func TestAVictimHasItsGraceAndStaysInItsTag(t *testing.T) {
	Run(t, func(t *testing.T) {
		us := Region("iad-1", "US", 1)
		us.GPUs = []placement.Device{h200, h200}
		m := New(t, gpuRegion(3), us)
		c := m.At("fra-1")
		const inside = `"kind":"fake","residency":"FR,!site:par-a","resources":{"gpus":2}`
		victim := c.Submit(`{` + inside + `,"name":"victim","command":["stubborn"],"preemptible":true,"stop_grace":"8s"}`)
		firm := c.Submit(`{` + inside + `,"name":"firm","command":["sleep"]}`)
		m.Within(20*time.Second, "both run", func() bool { return victim.Is(placement.JobRunning)() && firm.Is(placement.JobRunning)() })
		task := victim.attempt(1)[0]

		urgent := c.Submit(`{` + inside + `,"name":"urgent","priority":9,"command":["run","90s"]}`)
		m.watch(45*time.Second, time.Second, "nobody is ended in its first minute", func() bool {
			return victim.Is(placement.JobRunning)() && urgent.Is(placement.JobPending)()
		})
		m.Within(30*time.Second, "the victim is told to end", func() bool { return victim.attempt(1)[0].Stop })
		told := time.Now()
		m.Within(30*time.Second, "the urgent one runs", func() bool {
			ran := m.copies("fra-1", urgent.ID)
			if over := m.copies("fra-1", victim.ID) == 0; ran > 0 && !over {
				t.Fatal("both hold the devices")
			}
			return ran > 0
		})
		if d := time.Since(told); d < 7*time.Second {
			t.Errorf("the victim had %s, its grace is 8s", d)
		}
		if at := urgent.attempt(1)[0]; at.Node != task.Node {
			t.Errorf("%s stands on %s, the room was made on %s", urgent, at.Node, task.Node)
		}
		m.watch(75*time.Second, 100*time.Millisecond, "the victim waits, though there is room outside its tag", func() bool {
			now := victim.Now()
			return now.Status == placement.JobPending && now.Region == "" && now.Forward == nil && m.copies("fra-1", victim.ID)+m.copies("iad-1", victim.ID) == 0
		})
		for _, place := range []struct {
			region placement.RegionID
			node   placement.NodeID
		}{{"fra-1", "n1"}, {"iad-1", "n1"}} {
			if n := m.region(place.region).newest().Node(place.node); len(n.Used.Devices) != 0 {
				t.Fatalf("%s/%s holds %v: the attack needs it free", place.region, place.node, n.Used.Devices)
			}
		}
		m.Within(30*time.Second, "inside its tag it starts again", victim.Is(placement.JobRunning))
		if again := victim.attempt(2); len(again) != 1 || again[0].Node != task.Node {
			t.Errorf("its second task: %+v", again)
		}
		if !firm.Is(placement.JobRunning)() || m.starts("fra-1", firm.ID) != 1 {
			t.Errorf("who is not preemptible: %s", firm)
		}
		m.CheckInvariants()
	})
}

// The leader dies when the victim was told to end and has not ended: the next one
// waits for that room, and ends nobody else.
func TestALeaderDiesInTheMiddleOfAPreemption(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, gpuRegion(3))
		leader := m.Leader("fra-1")
		var others []placement.NodeID
		for _, h := range m.region("fra-1").hosts {
			if h.name != leader {
				others = append(others, h.name)
			}
		}
		const whole = `"kind":"fake","residency":"FR","resources":{"gpus":2}`
		firm := m.on("fra-1", leader, `{`+whole+`,"name":"firm","command":["sleep"]}`)
		var soft []*Job
		for _, name := range others {
			soft = append(soft, m.on("fra-1", name, `{`+whole+`,"command":["stubborn"],"preemptible":true,"stop_grace":"25s"}`))
		}
		time.Sleep(placement.MinimumRun)
		c := m.AtNode("fra-1", others[0])
		urgent := c.Submit(`{` + whole + `,"name":"urgent","priority":9,"command":["sleep"]}`)
		told := func() (n int) {
			for _, j := range soft {
				if all := j.attempt(1); len(all) > 0 && all[0].Stop {
					n++
				}
			}
			return n
		}
		m.Within(20*time.Second, "a victim is told to end", func() bool { return told() > 0 })
		m.Kill("fra-1", leader)
		m.watch(15*time.Second, 100*time.Millisecond, "one victim is enough", func() bool { return told() == 1 })
		m.Restart("fra-1", leader)
		m.host("fra-1", leader).waitReady()
		m.Within(60*time.Second, "the urgent one runs", urgent.Is(placement.JobRunning))
		m.Within(60*time.Second, "the node that came back is heard of", firm.Is(placement.JobRunning))
		m.watch(30*time.Second, time.Second, "the other goes on, and one waits", func() bool {
			waits := 0
			for _, j := range soft {
				if j.Is(placement.JobPending)() {
					waits++
				}
			}
			return told() == 1 && waits == 1
		})
		for _, j := range []*Job{urgent, firm} {
			if n := m.starts("fra-1", j.ID); n != 1 {
				t.Errorf("%s was started %d times", j, n)
			}
		}
		m.CheckInvariants()
	})
}

// Small jobs never stop coming and would fill every hole. The gang that waits
// first has nodes kept for it and starts; beside them the small ones go on.
func TestTheHeadGangHasItsRoomKept(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, gpuRegion(3))
		c := m.At("fra-1")
		var small []*Job
		arrive := func() {
			small = append(small, c.Submit(fmt.Sprintf(`{"kind":"fake","name":"s%d","residency":"FR","command":["run","%ds"],"resources":{"gpus":1}}`, len(small), 80+len(small)%3*10)))
		}
		began := func() (n int) {
			for _, j := range small {
				if !j.Now().StartedAt.IsZero() {
					n++
				}
			}
			return n
		}
		for range 9 {
			arrive()
			time.Sleep(15 * time.Second)
		}
		gang := c.Submit(`{"kind":"fake","name":"gang","residency":"FR","gang":2,"command":["run","20s"],"resources":{"gpus":2}}`)
		asked := time.Now()
		var before int
		for n := 0; gang.Is(placement.JobPending)(); n++ {
			if time.Since(asked) > 6*time.Minute {
				t.Fatalf("after %s the gang still waits: %s", time.Since(asked), gang)
			}
			arrive()
			time.Sleep(15 * time.Second)
			if time.Since(asked) > 90*time.Second && before == 0 {
				before = began()
			}
		}
		gang.asOne(1, 2)
		if now := began(); before == 0 || now <= before {
			t.Errorf("%d small jobs had begun after a minute and a half, %d when the gang started: nobody was let in beside it", before, now)
		}
		t.Logf("the gang waited %s", time.Since(asked))
		m.CheckInvariants()
	})
}
