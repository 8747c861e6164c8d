package api

import (
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Bounds of the fields that say how a job waits and whom it stands beside.
const (
	maxNeighbours = 16 // names in avoid, places in near
	maxWeight     = 100
)

// queueField reads the keys that say how a job waits and where it rather stands.
func (r *jobReader) queueField(name string, v residency.Value) (err error) {
	s := &r.spec
	switch name {
	case "preemptible":
		s.Preemptible, err = boolean(name, v)
	case "gang":
		if s.Members, err = integer(name, v, 1, placement.MaxMembers); s.Members == 1 {
			s.Members = 0 // a gang of one is none
		}
	case "spread":
		s.Spread, err = word(name, v, placement.SpreadNode, placement.SpreadSite)
	case "avoid":
		s.Avoid, err = neighbours(name, v, func(item residency.Value, text string) error {
			if len(text) > maxNameBytes || strings.ContainsAny(text, "\r\n\t") {
				return jobError(item, "write the names of jobs: avoid: [database]", "avoid cannot hold %s", quoteWord(text))
			}
			return nil
		})
	case "near":
		s.Near, err = neighbours(name, v, func(item residency.Value, text string) error {
			key, value, label := strings.Cut(text, "=")
			if label && placement.ValidName(key) && value != "" && len(value) <= 63 || !label && placement.ValidName(text) {
				return nil
			}
			return jobError(item, "write names of sites, or labels of nodes: near: [par-2, storage=ssd]", "near cannot hold %s", quoteWord(text))
		})
	case "rank":
		s.Rank, err = rank(v)
	case "max_runtime":
		s.MaxRuntime, err = runtime(name, v)
	}
	return err
}

// runtime reads how long a task may run: a second at least, a year at most.
func runtime(name string, v residency.Value) (placement.Duration, error) {
	d, err := time.ParseDuration(v.Text)
	if v.Kind != residency.String || err != nil || d < time.Second || d > placement.LongestRun {
		return 0, jobError(v, "write a time such as 90s, 30m or 72h, at most 8760h", "%s cannot be %s", name, quoteWord(v.Text))
	}
	return placement.Duration(d), nil
}

// neighbours reads a short list of different words.
func neighbours(name string, v residency.Value, check func(residency.Value, string) error) ([]string, error) {
	out, err := texts(name, v)
	if err != nil {
		return nil, err
	}
	if len(out) > maxNeighbours {
		return nil, jobError(v, "write at most 16", "%s has %d items", name, len(out))
	}
	for i, text := range out {
		switch {
		case text == "":
			return nil, jobError(v.List[i], "write a name, or leave it out", "%s, item %d, is empty", name, i+1)
		case slices.Contains(out[:i], text):
			return nil, jobError(v.List[i], "write it once", "%s names %s a second time", name, quoteWord(text))
		}
		if err := check(v.List[i], text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func rank(v residency.Value) (out placement.Rank, err error) {
	err = fields("rank", "write rank: {cost: 1, carbon: 1}", v, []string{"cost", "carbon"}, func(f string, v residency.Value) (err error) {
		switch f {
		case "cost":
			out.Cost, err = integer(f, v, 0, maxWeight)
		case "carbon":
			out.Carbon, err = integer(f, v, 0, maxWeight)
		}
		return err
	})
	return out, err
}

// checkQueue looks at what these keys say together with others.
func (r *jobReader) checkQueue(at func(string) residency.Value) error {
	s := &r.spec
	switch {
	case s.MaxRuntime > 0 && s.Type != placement.TypeBatch:
		return jobError(at("max_runtime"), "leave it out, or write type: batch", "a service has no end: it takes no max_runtime")
	case s.Gang() && s.Singleton:
		return jobError(at("gang"), "leave out gang, or singleton", "a singleton has one copy, and a gang of %d has %d", s.Members, s.Members)
	case s.Gang() && s.Kind == placement.KindInference:
		return jobError(at("gang"), "submit the replicas as jobs of their own", "an inference job is no gang: requests go to each replica by itself")
	case s.Name != "" && slices.Contains(s.Avoid, s.Name):
		return jobError(at("avoid"), "leave its own name out; to keep the members of a gang apart, write spread: node", "the job avoids itself")
	}
	return nil
}
