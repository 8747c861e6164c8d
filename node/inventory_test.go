package node

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestANodeReportsItsResolvers(t *testing.T) {
	deps := Deps{Now: time.Now, Log: slog.New(slog.DiscardHandler), Resolvers: []netip.Addr{
		netip.MustParseAddr("2001:db8:0::53"), netip.MustParseAddr("::ffff:192.0.2.53"), netip.MustParseAddr("192.0.2.53"),
	}}
	inv := takeInventory(t.Context(), Config{CPU: 1000, Memory: 1 << 30}, deps, 1)
	if want := []string{"192.0.2.53", "2001:db8::53"}; !slices.Equal(inv.Resolvers, want) {
		t.Errorf("it reports %v, want %v", inv.Resolvers, want)
	}
}
