package main

import "testing"

func TestMediansOfGoBenchmarks(t *testing.T) {
	got := medians([]byte(`goos: linux
BenchmarkInclusion/make-2         	    7021	    186825 ns/op
BenchmarkInclusion/make-2         	    7423	    145370 ns/op
BenchmarkInclusion/make-2         	    9402	    125854 ns/op
BenchmarkPropose/64-without-ledger-16 	 3000	 500 ns/op	 2045.5 commits/s
PASS
`))
	for _, want := range []struct {
		name, unit string
		value      float64
	}{{"Inclusion/make", "ns/op", 145370}, {"Propose/64-without-ledger", "commits/s", 2045.5}} {
		if v, err := got.of(want.name, want.unit); err != nil || v != want.value {
			t.Errorf("%s: %v %s, %v; want %v", want.name, v, want.unit, err, want.value)
		}
	}
	if _, err := got.of("Inclusion/make", "B/op"); err == nil {
		t.Error("a figure that nobody gave was read")
	}
}
