package metrics

import "github.com/prometheus/client_golang/prometheus"

// table collects the metrics of one source: it is read once for a scrape, and
// every row takes its numbers from that one reading.
type table[S any] struct {
	read func() S
	rows []row[S]
}

// row is one metric.
type row[S any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	each func(s S, put func(value float64, labels ...string))
}

// Describe and Collect make a table a [prometheus.Collector].
func (t table[S]) Describe(ch chan<- *prometheus.Desc) {
	for _, r := range t.rows {
		ch <- r.desc
	}
}

// Collect reads the source.
func (t table[S]) Collect(ch chan<- prometheus.Metric) {
	s := t.read()
	for _, r := range t.rows {
		r.each(s, func(value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(r.desc, r.kind, value, labels...)
		})
	}
}

func newRow[S any](name, help string, kind prometheus.ValueType, labels []string, each func(S, func(float64, ...string))) row[S] {
	return row[S]{prometheus.NewDesc("sovmesh_"+name, help, labels, nil), kind, each}
}

// number is what Stats count in.
type number interface {
	~int | ~int64 | ~uint64 | ~float64
}

func counter[S any, N number](name, help string, value func(S) N) row[S] {
	return newRow(name, help, prometheus.CounterValue, nil, func(s S, put func(float64, ...string)) { put(float64(value(s))) })
}

func gauge[S any, N number](name, help string, value func(S) N) row[S] {
	return newRow(name, help, prometheus.GaugeValue, nil, func(s S, put func(float64, ...string)) { put(float64(value(s))) })
}

// truth is a gauge of 0 or 1.
func truth[S any](name, help string, value func(S) bool) row[S] {
	return gauge(name, help, func(s S) int { return bit(value(s)) })
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// spread puts a count for every word of the list, zeros too, so that a rule
// sees a state that nobody is in. What is not in the list is counted as "other":
// words from the wire never become labels.
func spread[W ~string](list []W, counts map[W]int, put func(float64, ...string)) {
	other := 0
	for _, n := range counts {
		other += n
	}
	for _, w := range list {
		put(float64(counts[w]), string(w))
		other -= counts[w]
	}
	put(float64(other), "other")
}
