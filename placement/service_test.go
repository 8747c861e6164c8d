package placement

import (
	"fmt"
	"slices"
	"testing"
)

func TestServicesHaveTheAddressOfTheirPlaceInTheList(t *testing.T) {
	n := &Network{Allow: []string{"192.0.2.7", "service:db", "region:fra-1", "service:web", "service:db", "nonsense", "service:a b", "service:$(x)"}}
	want := []string{"db.service.sovmesh 198.19.0.1", "web.service.sovmesh 198.19.0.2"}
	var got []string
	for _, s := range n.Services() {
		got = append(got, s.Host()+" "+s.Addr.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if n.HostLines() != "198.19.0.1 db.service.sovmesh\n198.19.0.2 web.service.sovmesh\n" || n.Services()[0].Env() != "SOVMESH_SERVICE_DB" {
		t.Errorf("%q, %q", n.HostLines(), n.Services()[0].Env())
	}
	if !n.Allows("web") || n.Allows("w") || n.Allows("") || (*Network)(nil).Allows("db") {
		t.Error("a list allows what it does not name")
	}
	many := &Network{}
	for i := range 300 {
		many.Allow = append(many.Allow, fmt.Sprintf("service:s%d", i))
	}
	all := many.Services()
	if len(all) != MaxServices || !ServicePrefix.Contains(all[MaxServices-1].Addr) {
		t.Errorf("%d services, the last one at %s", len(all), all[len(all)-1].Addr)
	}
}
