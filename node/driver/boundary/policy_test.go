package boundary

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

func TestWhatAListMaySay(t *testing.T) {
	resolve := func(name string) ([]Destination, error) {
		if name != "region:fra-1" {
			return nil, errors.New("there is no such region")
		}
		return []Destination{{netip.MustParsePrefix("192.0.2.9/32"), 7443}}, nil
	}
	for _, test := range []struct{ entry, means string }{
		{"192.0.2.7", "192.0.2.7"},
		{"192.0.2.7:443", "192.0.2.7:443"},
		{"192.0.2.0/24", "192.0.2.0/24"},
		{"192.0.2.0/24:443", "192.0.2.0/24 port 443"},
		{"2001:db8::7", "2001:db8::7"},
		{"[2001:db8::7]:443", "[2001:db8::7]:443"},
		{"[2001:db8::7]", "2001:db8::7"},
		{"[2001:db8::/32]:443", "2001:db8::/32 port 443"},
		{"::ffff:192.0.2.7", "192.0.2.7"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"region:fra-1", "192.0.2.9:7443"},
		{"region:ber-1", ""},
		{"192.0.2.7/24", ""}, // bits behind the prefix
		{"192.0.2.7:0", ""}, {"192.0.2.7:65536", ""}, {"192.0.2.7:", ""}, {"[2001:db8::7]443", ""}, {"[2001:db8::7", ""},
		{"example.org", ""}, {"", ""}, {"fe80::1%eth0", ""}, {"::ffff:192.0.2.0/120", ""},
		{"169.254.169.254", ""}, {"169.254.0.0/16", ""}, {"fe80::1", ""}, {"224.0.0.1", ""}, {"ff02::1", ""},
		{"fd00:ec2::254", ""}, {"127.0.0.1:80", ""}, {"::1", ""}, {"0.0.0.0", ""}, {"255.255.255.255", ""},
	} {
		p, err := Parse(&placement.Network{Allow: []string{test.entry}}, resolve)
		if test.means == "" {
			var e *EntryError
			if !errors.As(err, &e) || e.Hint() == "" {
				t.Errorf("%q: %+v, %v", test.entry, p, err)
			}
			continue
		}
		if err != nil || len(p.Allow) != 1 || p.Allow[0].String() != test.means {
			t.Errorf("%q: %+v, %v; want %s", test.entry, p, err, test.means)
		}
	}
	if _, err := Parse(&placement.Network{Allow: []string{"region:fra-1"}}, nil); err == nil {
		t.Error("a name is taken where nothing resolves it")
	}
	if _, err := Parse(&placement.Network{Allow: make([]string, MaxAllow+1)}, nil); err == nil {
		t.Error("a list without end is taken")
	}
	if _, err := Parse(&placement.Network{DNS: []string{"169.254.169.253", "resolver"}}, nil); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("every problem is told at once: %v", err)
	}
}

// FuzzParse: what is read means what it says when it is written down again, and
// nothing that no task reaches is ever read.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"192.0.2.7:443", "[2001:db8::/32]:443", "192.0.2.0/24", "::1", "region:x", "[::]:1", "1.2.3.4/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		p, err := Parse(&placement.Network{Allow: []string{entry}}, nil)
		if err != nil {
			return
		}
		if len(p.Allow) != 1 || !p.Allow[0].Prefix.IsValid() || p.Allow[0].Prefix != p.Allow[0].Prefix.Masked() {
			t.Fatalf("%q: %+v", entry, p)
		}
		if a := p.Allow[0].Prefix; a.IsSingleIP() && (a.Addr().IsLoopback() || a.Addr().IsLinkLocalUnicast() || a.Addr().IsMulticast() || a.Addr().Is4In6()) {
			t.Fatalf("%q: %s is reached", entry, a)
		}
	})
}
