package simulate

import (
	"cmp"
	"math"
	"slices"
)

// typical is the mix of jobs that fragmentation is measured with, as the
// published artifact of FGD takes it: the most frequent classes until they cover
// 95 % of the jobs, known beforehand.
type typical struct {
	classes []typicalClass
}

type typicalClass struct {
	job   Job
	share float64
}

func typicalOf(jobs []Job) *typical {
	type key struct {
		cpu         int64
		gpus, milli int
		models      string
	}
	count := make(map[key]int)
	sample := make(map[key]*Job)
	var keys []key
	for i := range jobs {
		j := &jobs[i]
		models := ""
		for _, m := range j.Models {
			models += m + "|"
		}
		k := key{j.CPU, j.GPUs, j.Milli, models}
		if count[k]++; count[k] == 1 {
			keys = append(keys, k)
			sample[k] = j
		}
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.gpus, b.gpus), cmp.Compare(a.milli, b.milli), cmp.Compare(a.models, b.models))
	})
	t, covered := &typical{}, 0
	for _, k := range keys {
		if covered*100 >= 95*len(jobs) {
			break
		}
		t.classes = append(t.classes, typicalClass{*sample[k], float64(count[k])})
		covered += count[k]
	}
	for i := range t.classes {
		t.classes[i].share /= float64(covered)
	}
	return t
}

// fragmentation is F of a node: the expected amount of GPU that a job of the mix
// could not use of it.
func (t *typical) fragmentation(m *Machine, cpu int64, idle []int) float64 {
	all := 0
	for _, v := range idle {
		all += v
	}
	sum := 0.0
	for i := range t.classes {
		c := &t.classes[i]
		sum += c.share * float64(c.lost(m, cpu, idle, all))
	}
	return sum
}

func (c *typicalClass) lost(m *Machine, cpu int64, idle []int, all int) int {
	j := &c.job
	if j.GPUs == 0 || cpu < j.CPU || len(j.Models) > 0 && !slices.Contains(j.Models, m.Model) {
		return all
	}
	free, small := 0, 0
	for _, v := range idle {
		if v >= j.Milli {
			free++
		} else {
			small += v
		}
	}
	if free < j.GPUs {
		return all
	}
	return small
}

// rateFGD: the least growth of fragmentation, rounded as the artifact rounds it,
// the first node of equals.
func rateFGD(p *plain, i int, j *Job) (float64, int) {
	m, cpu := &p.machines[i], p.cpu[i]
	before := p.typical.fragmentation(m, cpu, p.idle[i])
	best, gpu := math.Inf(1), -1
	var after [gpusMax]int
	idle := after[:len(p.idle[i])]
	if j.GPUs != 1 || j.Milli == 1000 {
		copy(idle, p.idle[i])
		for _, g := range p.pick(i, -1, j) {
			idle[g] = 0
		}
		best = p.typical.fragmentation(m, cpu-j.CPU, idle) - before
	} else {
		for g, v := range p.idle[i] {
			if v < j.Milli || slices.Contains(p.idle[i][:g], v) {
				continue
			}
			copy(idle, p.idle[i])
			idle[g] -= j.Milli
			if d := p.typical.fragmentation(m, cpu-j.CPU, idle) - before; d < best {
				best, gpu = d, g
			}
		}
	}
	return -math.Floor(100 / (1 + math.Exp(best/1000))), gpu
}
