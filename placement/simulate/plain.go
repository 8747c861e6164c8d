package simulate

import (
	"math"
	"math/rand/v2"
	"slices"
)

// plain is a cluster for the reference policies: arrays and a scan of all nodes
// at every arrival, as they are published.
type plain struct {
	machines []Machine
	cpu, mem []int64
	idle     [][]int // thousandths free of each GPU
	rate     func(p *plain, node int, j *Job) (score float64, gpu int)
	random   *rand.Rand // for ties and choices of the policy random
	typical  *typical   // for fgd
	maxCPU   float64
	maxGPU   float64
}

func newPlain(machines []Machine) *plain {
	p := &plain{machines: machines}
	for _, m := range machines {
		p.cpu = append(p.cpu, m.CPU)
		p.mem = append(p.mem, m.MemoryMiB)
		idle := make([]int, m.GPUs)
		for i := range idle {
			idle[i] = 1000
		}
		p.idle = append(p.idle, idle)
		p.maxCPU, p.maxGPU = max(p.maxCPU, float64(m.CPU), 1), max(p.maxGPU, float64(m.GPUs*1000), 1)
	}
	return p
}

// lawful reports whether the job may ever be on the node: region and model.
func lawful(m *Machine, j *Job) bool {
	return j.Regions>>m.Region&1 == 1 && (j.GPUs == 0 || len(j.Models) == 0 || slices.Contains(j.Models, m.Model))
}

func (p *plain) fits(i int, j *Job) bool {
	if p.cpu[i] < j.CPU || p.mem[i] < j.MemoryMiB || !lawful(&p.machines[i], j) {
		return false
	}
	free := 0
	for _, v := range p.idle[i] {
		if v >= j.Milli {
			free++
		}
	}
	return free >= j.GPUs
}

// decide takes the node of the least rate, the first of equals.
func (p *plain) decide(j *Job) (place, bool) {
	best, at := math.Inf(1), place{node: -1}
	ties := 0
	for i := range p.machines {
		if !p.fits(i, j) {
			continue
		}
		score, gpu := p.rate(p, i, j)
		if p.random != nil {
			// Each of n equals ends up chosen with a chance of 1/n.
			if ties++; p.random.IntN(ties) == 0 {
				at = place{node: i, gpus: p.pick(i, gpu, j)}
			}
			continue
		}
		if score < best {
			best, at = score, place{node: i, gpus: p.pick(i, gpu, j)}
		}
	}
	return at, at.node >= 0
}

// pick names the GPUs: the one chosen for a share, or the first unused ones.
func (p *plain) pick(i, gpu int, j *Job) []int {
	if j.GPUs == 1 && gpu >= 0 {
		return []int{gpu}
	}
	var out []int
	for g, v := range p.idle[i] {
		if v >= j.Milli && len(out) < j.GPUs {
			out = append(out, g)
		}
	}
	return out
}

func (p *plain) take(j *Job, at place)    { p.move(j, at, -1) }
func (p *plain) release(j *Job, at place) { p.move(j, at, 1) }
func (p *plain) learn(*Job)               {}
func (p *plain) refused(*Job)             {}

func (p *plain) move(j *Job, at place, sign int) {
	p.cpu[at.node] += int64(sign) * j.CPU
	p.mem[at.node] += int64(sign) * j.MemoryMiB
	for _, g := range at.gpus {
		p.idle[at.node][g] += sign * j.Milli
	}
}

// rateFirst: the first node that fits.
func rateFirst(*plain, int, *Job) (float64, int) { return 0, -1 }

// rateBest: the node with the least left over, processor and GPUs weighing the
// same in shares of the biggest node; of its GPUs the fullest that fits.
func rateBest(p *plain, i int, j *Job) (float64, int) {
	left, gpu, least := -j.amount(), -1, math.MaxInt
	for g, v := range p.idle[i] {
		left += int64(v)
		if v >= j.Milli && v < least {
			gpu, least = g, v
		}
	}
	return float64(p.cpu[i]-j.CPU)/p.maxCPU + float64(left)/p.maxGPU, gpu
}
