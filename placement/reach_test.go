package placement

import (
	"strconv"
	"testing"
)

func TestParseReach(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7":             "192.0.2.7/32 0",
		"192.0.2.7:443":         "192.0.2.7/32 443",
		"192.0.2.0/24":          "192.0.2.0/24 0",
		"192.0.2.0/24:443":      "192.0.2.0/24 443",
		"2001:db8::7":           "2001:db8::7/128 0",
		"[2001:db8::7]:443":     "2001:db8::7/128 443",
		"2001:db8::/32":         "2001:db8::/32 0",
		"[2001:db8::]/32:443":   "2001:db8::/32 443",
		"10.0.0.0/8":            "10.0.0.0/8 0",
		"region:fra-1":          "region fra-1",
		"service:a data base 1": "service a data base 1",
	} {
		r, err := ParseReach(in)
		got := ""
		switch {
		case err != nil:
			got = err.Error()
		case r.Region != "":
			got = "region " + string(r.Region)
		case r.Service != "":
			got = "service " + r.Service
		default:
			got = r.Prefix.String() + " " + strconv.Itoa(int(r.Port))
		}
		if got != want {
			t.Errorf("%s reads as %s, want %s", in, got, want)
		}
	}
	for _, bad := range []string{
		"", "example.org", "example.org:443", "0.0.0.0/0", "::/0", "10.0.0.0/7", "192.0.2.1/24", "127.0.0.1", "::1", "169.254.169.254",
		"169.254.0.0/16", "[::ffff:127.0.0.1]:80", "224.0.0.1", "192.0.2.7:0", "192.0.2.7:65536", "192.0.2.7:", "192.0.2.0/33", "fe80::1%eth0",
		"region:", "region:A B", "region:../x", "service:", "[2001:db8::7", "192.0.2.7:443:1", "[192.0.2.7]x",
	} {
		if r, err := ParseReach(bad); err == nil {
			t.Errorf("%q reads as %+v", bad, r)
		}
	}
}

func FuzzParseReach(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24:443", "[2001:db8::]/32:1", "region:fra-1", "service:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReach(s)
		if err != nil {
			return
		}
		if n := r.Prefix; r.Region == "" && r.Service == "" && (!n.IsValid() || ReachProblem(n) != nil) {
			t.Errorf("%q is allowed to reach %v", s, n)
		}
	})
}
