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
