package fetch

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
)

func TestPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"93.184.216.34": true, "2606:4700::1111": true, "64:ff9b::5db8:d822": true, "2002:5db8:d822::1": true,
		"127.0.0.1": false, "127.9.9.9": false, "::1": false, "0.0.0.0": false, "::": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false,
		"169.254.169.254": false, "fe80::1": false, "fd00:ec2::254": false, "100.64.0.1": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "64:ff9b:1::1": false, "::7f00:1": false,
		"198.18.0.1": false, "192.0.0.192": false, "0.1.2.3": false,
	} {
		if got := Public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is public: %v", text, got)
		}
	}
}

func TestNothingIsFetchedFromWithin(t *testing.T) {
	var asked int
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer secret.Close()
	_, port, _ := net.SplitHostPort(secret.Listener.Addr().String())
	leads := httptest.NewServer(http.RedirectHandler("http://localhost:"+port+"/key", http.StatusFound))
	defer leads.Close()
	front, err := url.Parse(leads.URL)
	if err != nil {
		t.Fatal(err)
	}
	get := func(allow Allowed, at string) error {
		t.Helper()
		tr := Transport(allow)
		tr.Proxy = nil
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(at)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	var refused *Error
	for name, test := range map[string]struct {
		allow Allowed
		at    string
	}{
		"an address":                        {nil, secret.URL},
		"a name of it":                      {nil, "http://localhost:" + port},
		"an address in other words":         {nil, "http://[::ffff:127.0.0.1]:" + port},
		"a redirection from an allowed one": {Allowed{front.Host}, leads.URL},
		"another port of an allowed one":    {Allowed{"localhost:1"}, "http://localhost:" + port},
		"beside an allowed prefix":          {Allowed{"10.0.0.0/8", "127.0.0.2"}, secret.URL},
	} {
		if err := get(test.allow, test.at); !errors.As(err, &refused) || refused.Hint() == "" {
			t.Errorf("%s gives %v", name, err)
		}
	}
	if asked != 0 {
		t.Fatalf("it was asked %d times", asked)
	}
	for _, allow := range []string{"127.0.0.0/8", "127.0.0.1", "127.0.0.1:" + port} {
		if err := get(Allowed{allow}, secret.URL); err != nil {
			t.Errorf("with %s allowed: %v", allow, err)
		}
	}
	if err := get(Allowed{"LOCALHOST"}, "http://localhost:"+port); err != nil || asked != 4 {
		t.Errorf("by its name: %v, asked %d times", err, asked)
	}
}

// TestTheMachinesOwnAddressesAreItsInside: a public one too, unless it is allowed.
func TestTheMachinesOwnAddressesAreItsInside(t *testing.T) {
	own := netip.MustParsePrefix("93.184.216.34/24")
	g := newGuard(nil)
	g.own = func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}, nil
	}
	var refused *Error
	for _, at := range []string{"93.184.216.34:443", "[::ffff:93.184.216.34]:443"} {
		if err := g.judge("", at, nil); !errors.As(err, &refused) {
			t.Errorf("%s gives %v", at, err)
		}
	}
	if err := g.judge("", "93.184.216.35:443", nil); err != nil {
		t.Errorf("a neighbour's address: %v", err)
	}
	allowed := newGuard(Allowed{"93.184.216.0/24"})
	allowed.own = g.own
	if err := allowed.judge("", "93.184.216.34:443", nil); err != nil {
		t.Errorf("as the operator allows: %v", err)
	}
	g.own = func() ([]net.Addr, error) { return nil, errors.New("cannot tell") }
	if err := g.judge("", "93.184.216.35:443", nil); err == nil {
		t.Error("an address of which it cannot be told whose it is, is taken")
	}
}

// TestAProxyIsNoWayIn: it resolves the names, and is asked for nothing else but the web.
func TestAProxyIsNoWayIn(t *testing.T) {
	g := newGuard(Allowed{"registry.example:5000", "10.9.0.0/16"})
	g.proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.example:3128") }
	for at, fine := range map[string]bool{
		"https://a.example/x": true, "http://a.example/x": true, "https://a.example:443/x": true, "https://registry.example:5000/v2/": true, "https://10.9.1.1/x": true,
		"https://a.example:22/": false, "https://a.example:8443/": false, "https://registry.example:5001/": false, "https://proxy.example:3128/": false,
		"https://127.0.0.1/": false, "https://[::1]/": false, "https://169.254.169.254/latest": false, "https://10.1.1.1/": false, "https://localhost/": false, "https://a.localhost/": false,
	} {
		req, err := http.NewRequest(http.MethodGet, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		by, err := g.through(req)
		if (err == nil) != fine || fine && by == nil {
			t.Errorf("%s: %v, %v", at, by, err)
		}
		var hinted interface{ Hint() string }
		if err != nil && (!errors.As(err, &hinted) || hinted.Hint() == "") {
			t.Errorf("%s: no hint with %v", at, err)
		}
	}
	g.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	if by, err := g.through(httptest.NewRequest(http.MethodGet, "https://a.example:8443/", nil)); by != nil || err != nil {
		t.Errorf("without a proxy: %v, %v", by, err)
	}
}
