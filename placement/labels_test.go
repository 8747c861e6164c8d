package placement

import (
	"fmt"
	"strings"
	"testing"
)

func TestLabels(t *testing.T) {
	if err := CheckLabels(map[string]string{"cost": "120", "carbon": "0", "disk": "NVMe/gen5"}); err != nil {
		t.Error(err)
	}
	many := map[string]string{}
	for i := range MaxLabels + 1 {
		many[fmt.Sprint("l", i)] = "x"
	}
	for _, bad := range []map[string]string{many, {"Cost": "1"}, {"": "1"}, {"cost": "-1"}, {"cost": "1.5"}, {"carbon": "99999999999"}, {"disk": ""}, {"disk": "a b"}, {"disk": strings.Repeat("x", 64)}, {"disk": "\x1b[2J"}} {
		if CheckLabels(bad) == nil {
			t.Errorf("%v are taken", bad)
		}
	}
}
