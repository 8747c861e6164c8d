package node

import (
	"strings"
	"testing"
)

// Who asks the wrong region for a receipt is told which one to ask: the id says
// it.
func TestAReceiptOfAnotherRegionIsPlaced(t *testing.T) {
	g := gatewayReceipts{n: &Node{who: whoami{Region: "fra-1", Node: "fra-1-n1"}}}
	e := g.elsewhere(t.Context(), "ber-1.6476c4cae695f9c29701a8f0f5039cdf.2.0")
	if !strings.Contains(e.Message, "region ber-1 keeps") || e.Hint() == "" {
		t.Errorf("%q: %q", e.Message, e.Hint())
	}
	if len(e.Doors) != 0 {
		t.Errorf("doors %v", e.Doors)
	}
}
