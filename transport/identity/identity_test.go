package identity

import (
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	id, err := ParseID("spiffe://fra-1.mesh.example/node/n1")
	if err != nil || id != (ID{Region: "fra-1", Mesh: "mesh.example", Node: "n1"}) {
		t.Fatalf("%+v, %v", id, err)
	}
	if id.TrustDomain() != "fra-1.mesh.example" || id.String() != "spiffe://fra-1.mesh.example/node/n1" {
		t.Errorf("%s, %s", id.TrustDomain(), id)
	}
	for _, s := range []string{
		"", "fra-1", "https://fra-1.mesh/node/n1", "spiffe:///node/n1", "spiffe://fra-1/node/n1", "spiffe://fra-1.mesh",
		"spiffe://fra-1.mesh/", "spiffe://fra-1.mesh/node", "spiffe://fra-1.mesh/node/", "spiffe://fra-1.mesh/node/n1/", "spiffe://fra-1.mesh/node/n1/x",
		"spiffe://fra-1.mesh/user/n1", "spiffe://fra-1.mesh/node/N1", "spiffe://fra-1.mesh/node/n.1", "spiffe://fra-1.mesh/node/..",
		"spiffe://FRA-1.mesh/node/n1", "SPIFFE://fra-1.mesh/node/n1", "spiffe://fra-1.mesh:1/node/n1", "spiffe://u@fra-1.mesh/node/n1",
		"spiffe://fra-1.mesh/node/n1?q", "spiffe://fra-1.mesh/node/n1?", "spiffe://fra-1.mesh/node/n1#f", "spiffe://fra-1.mesh/node/%6e1",
		"spiffe://fra-1..mesh/node/n1", "spiffe://.mesh/node/n1", "spiffe://fra_1.mesh/node/n1", "spiffe://10.0.0.1/node/n1",
		"spiffe://fra-1.mesh./node/n1", " spiffe://fra-1.mesh/node/n1", "spiffe://fra-1.mesh/node/n1\n",
		"spiffe://fra-1." + strings.Repeat("m", 600) + "/node/n1",
	} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("%q was read as %+v", s, id)
		}
	}
	if _, err := ParseIDURI(nil); err == nil {
		t.Error("no URI was read as an ID")
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://fra-1.mesh.example/node/n1")
	f.Add("spiffe://x.fra-1.mesh.example/node/n1?")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		if id.String() != s || id.Validate() != nil {
			t.Fatalf("%q was read as %+v, which is %q", s, id, id)
		}
	})
}
