package simulate

import (
	"fmt"

	"github.com/sovmesh/sovmesh/placement/engine"
)

// ours is the engine of the live scheduler as a policy.
type ours struct {
	cluster *engine.Cluster
	demands map[string]engine.Demand // by name of the job
}

func newEngine(machines []Machine, jobs []Job, cfg engine.Config, warm bool) (*ours, error) {
	models := make(map[string]int)
	number := func(model string) int {
		n, ok := models[model]
		if !ok {
			n = len(models)
			models[model] = n
		}
		return n
	}
	nodes := make([]engine.Node, len(machines))
	for i, m := range machines {
		nodes[i] = engine.Node{Name: m.Name, Zone: m.Region, CPU: m.CPU, Memory: m.MemoryMiB << 20}
		for range m.GPUs {
			nodes[i].Devices = append(nodes[i].Devices, engine.Device{Model: number(m.Model), Idle: engine.MilliDevice})
		}
	}
	cluster, err := engine.New(nodes, cfg)
	if err != nil {
		return nil, err
	}
	p := &ours{cluster: cluster, demands: make(map[string]engine.Demand, len(jobs))}
	for i := range jobs {
		p.demands[jobs[i].Name] = demandOf(&jobs[i], number)
	}
	if warm {
		// A mix that has seen every job once, in no order of its own.
		for i := range jobs {
			cluster.Learn(p.demands[jobs[i].Name])
		}
		cluster.Renew()
	}
	return p, nil
}

func demandOf(j *Job, number func(string) int) engine.Demand {
	d := engine.Demand{CPU: j.CPU, Memory: j.MemoryMiB << 20, Num: j.GPUs, Milli: j.Milli}
	for _, m := range j.Models {
		d.Models = d.Models.With(number(m))
	}
	for r := range RegionsMax {
		if j.Regions>>r&1 == 1 {
			d.Zones = d.Zones.With(r)
		}
	}
	return d
}

func (p *ours) learn(j *Job) { p.cluster.Learn(p.demands[j.Name]) }

func (p *ours) refused(j *Job) { p.cluster.Refuse(p.demands[j.Name]) }

func (p *ours) decide(j *Job) (place, bool) {
	at, ok := p.cluster.Decide(p.demands[j.Name])
	return place{node: at.Node, gpus: at.Devices, cost: at.Cost}, ok
}

// The books of a replay are its own: what does not add up is a broken invariant.
func (p *ours) take(j *Job, at place) {
	if err := p.cluster.Take(p.demands[j.Name], engine.Spot{Node: at.node, Devices: at.gpus}); err != nil {
		panic(fmt.Sprintf("simulate: the engine's decision does not fit: %v", err))
	}
}

func (p *ours) release(j *Job, at place) {
	if err := p.cluster.Release(p.demands[j.Name], engine.Spot{Node: at.node, Devices: at.gpus}); err != nil {
		panic(fmt.Sprintf("simulate: %s ends where it did not run: %v", j.Name, err))
	}
}
