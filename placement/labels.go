package placement

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// MaxLabels is how many labels a node has at most.
const MaxLabels = 16

// CheckLabels says what is wrong with a node's labels; nil if nothing is. Cost
// and carbon are whole numbers, so that they can be compared.
func CheckLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("%d labels are more than %d", len(labels), MaxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		value := labels[key]
		if !ValidName(key) {
			return fmt.Errorf("%.80q is no name of a label: use 1 to 63 lower-case letters, digits and hyphens", key)
		}
		if value == "" || len(value) > 63 || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("label %s cannot be %.80q: use 1 to 63 printable characters without spaces", key, value)
		}
		if _, err := strconv.ParseUint(value, 10, 31); err != nil && (key == LabelCost || key == LabelCarbon) {
			return fmt.Errorf("label %s cannot be %.80q: use a whole number from 0", key, value)
		}
	}
	return nil
}
