package gpu

import (
	"reflect"

	"github.com/sovmesh/sovmesh/placement"
)

// Change is how much two lists of devices differ.
type Change int

// The changes: nothing, only how often and when causes were seen, anything else.
const (
	Same Change = iota
	Counted
	Different
)

// Compare says how much has changed from one list of devices to the next.
func Compare(a, b []placement.Device) Change {
	if len(a) != len(b) {
		return Different
	}
	change := Same
	for i := range a {
		x, y := a[i], b[i]
		if len(x.Causes) != len(y.Causes) {
			return Different
		}
		for j := range x.Causes {
			p, q := x.Causes[j], y.Causes[j]
			if p.Code != q.Code || p.Health != q.Health || p.Action != q.Action || p.Reason != q.Reason {
				return Different
			}
			if p.Count != q.Count || !p.Last.Equal(q.Last) {
				change = Counted
			}
		}
		x.Causes, y.Causes = nil, nil
		if !reflect.DeepEqual(x, y) {
			return Different
		}
	}
	return change
}
