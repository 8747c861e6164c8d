package placement

import "testing"

func TestHostOf(t *testing.T) {
	for address, want := range map[string]string{
		"https://Node.Example:7443":       "node.example",
		"https://node.example.:7443/path": "node.example",
		"https://user@node.example":       "node.example",
		"https://127.0.0.1:1?x":           "127.0.0.1",
		"https://[2001:0DB8:0::1]:1":      "2001:db8::1",
		"https://[::ffff:10.0.0.2]:1":     "10.0.0.2",
		"node.example:1":                  "",
		"https://":                        "",
		"":                                "",
	} {
		if got := HostOf(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}
