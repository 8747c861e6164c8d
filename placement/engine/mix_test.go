package engine

import (
	"reflect"
	"testing"
)

// What a mix knows outlives new numbers: classes that differ no more become one,
// those of what is gone are forgotten, and none comes to mean any device.
func TestAMixIsRenumbered(t *testing.T) {
	class := func(count uint64, models, zones Set, profile int) Class {
		return Class{CPU: 1000, Num: 1, Milli: MilliDevice, Models: models, Zones: zones, Profile: profile, Count: count, Refused: 1}
	}
	m := Mix{Arrivals: 9, Classes: []Class{
		{CPU: 500, Count: 7},
		class(1, SetOf(3), SetOf(0), 0), class(2, SetOf(3, 4), SetOf(0), 0), class(4, SetOf(4), SetOf(0), 0),
		class(8, SetOf(3), SetOf(5), 0), class(16, Set{}, SetOf(0, 5), 2), class(32, Set{}, SetOf(0), 3),
	}}
	only := func(from, to int) func(int) (int, bool) {
		return func(id int) (int, bool) { return to, id == from }
	}
	m.Renumber(only(3, 1), only(0, 200), only(2, 1))
	one, any := class(3, SetOf(1), SetOf(200), 0), class(16, Set{}, SetOf(200), 1)
	one.Refused = 2
	if want := []Class{{CPU: 500, Count: 7}, any, one}; !reflect.DeepEqual(m.Classes, want) || m.Arrivals != 9 {
		t.Errorf("renumbered:\n%+v, want\n%+v", m.Classes, want)
	}
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
}
