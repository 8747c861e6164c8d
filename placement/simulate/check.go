package simulate

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Verdict is what a decision log says when somebody else counts it.
type Verdict struct {
	Rows int `json:"rows"`
	// Violations are jobs placed in a region that their tag does not permit.
	Violations int `json:"residency_violations"`
	// Avoidable are rejections of jobs that a node had lawful room for.
	Avoidable int `json:"avoidable_rejections"`
	// Impossible are rows that no cluster could carry out: a GPU given twice, a
	// model not asked for, a node overfull, a release of what did not run.
	Impossible int `json:"impossible_rows"`
}

// Check counts a decision log against the cluster and the jobs. It shares
// nothing with the policies but the traces: each row is carried out on arrays,
// and at each rejection every node is looked at.
func Check(log []byte, machines []Machine, jobs []Job) (Verdict, error) {
	c := newChecker(machines, jobs)
	r := csv.NewReader(bytes.NewReader(log))
	r.ReuseRecord = true
	for line := 0; ; line++ {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return c.verdict, nil
		}
		if err != nil {
			return c.verdict, fmt.Errorf("read the decision log: %w", err)
		}
		if line == 0 {
			if strings.Join(row, ",") != LogHead {
				return c.verdict, fmt.Errorf("read the decision log: its head is not %s", LogHead)
			}
			continue
		}
		c.row(row)
	}
}

type checker struct {
	machines []Machine
	jobs     map[string]*Job
	places   map[string]int
	cpu, mem []int64
	idle     [][]int
	running  map[string]int // by job, node and gpus
	verdict  Verdict
}

func newChecker(machines []Machine, jobs []Job) *checker {
	c := &checker{machines: machines, jobs: make(map[string]*Job), places: make(map[string]int), running: make(map[string]int)}
	for i := range jobs {
		c.jobs[jobs[i].Name] = &jobs[i]
	}
	for i, m := range machines {
		c.places[m.Name] = i
		c.cpu, c.mem = append(c.cpu, m.CPU), append(c.mem, m.MemoryMiB)
		c.idle = append(c.idle, slices.Repeat([]int{1000}, m.GPUs))
	}
	return c
}

// row carries out one row: seq, pod, node, gpus, op, region, reason.
func (c *checker) row(row []string) {
	c.verdict.Rows++
	j := c.jobs[row[1]]
	if j == nil {
		c.verdict.Impossible++
		return
	}
	if row[2] == "" {
		for i := range c.machines {
			if c.holds(i, j) {
				c.verdict.Avoidable++
				break
			}
		}
		return
	}
	i, known := c.places[row[2]]
	if !known {
		c.verdict.Impossible++
		return
	}
	key := row[1] + "\n" + row[2] + "\n" + row[3]
	if row[4] == opRelease {
		if c.running[key]--; c.running[key] < 0 {
			c.verdict.Impossible++
			return
		}
		c.move(i, j, c.gpus(row[3]), 1)
		return
	}
	m := &c.machines[i]
	if j.Regions>>m.Region&1 == 0 || row[5] != RegionName(m.Region) {
		c.verdict.Violations++
	}
	gpus := c.gpus(row[3])
	if !c.possible(i, j, gpus) {
		c.verdict.Impossible++
		return
	}
	c.running[key]++
	c.move(i, j, gpus, -1)
}

// holds reports whether the job could be on the node now.
func (c *checker) holds(i int, j *Job) bool {
	m := &c.machines[i]
	if j.Regions>>m.Region&1 == 0 || c.cpu[i] < j.CPU || c.mem[i] < j.MemoryMiB {
		return false
	}
	if j.GPUs > 0 && len(j.Models) > 0 && !slices.Contains(j.Models, m.Model) {
		return false
	}
	free := 0
	for _, v := range c.idle[i] {
		if v >= j.Milli {
			free++
		}
	}
	return free >= j.GPUs
}

func (c *checker) possible(i int, j *Job, gpus []int) bool {
	m := &c.machines[i]
	if len(gpus) != j.GPUs || c.cpu[i] < j.CPU || c.mem[i] < j.MemoryMiB || j.GPUs > 0 && len(j.Models) > 0 && !slices.Contains(j.Models, m.Model) {
		return false
	}
	for n, g := range gpus {
		if g < 0 || g >= len(c.idle[i]) || c.idle[i][g] < j.Milli || slices.Contains(gpus[:n], g) {
			return false
		}
	}
	return true
}

func (c *checker) move(i int, j *Job, gpus []int, sign int) {
	c.cpu[i] += int64(sign) * j.CPU
	c.mem[i] += int64(sign) * j.MemoryMiB
	for _, g := range gpus {
		c.idle[i][g] += sign * j.Milli
	}
}

// gpus reads indexes joined by ";"; what is no number is -1, which no node has.
func (c *checker) gpus(text string) []int {
	if text == "" {
		return nil
	}
	var out []int
	for word := range strings.SplitSeq(text, ";") {
		g, err := strconv.Atoi(word)
		if err != nil {
			g = -1
		}
		out = append(out, g)
	}
	return out
}
