package runner

import (
	"io"
	"net"
	"testing"
)

// A connection to a service ends cleanly once both of its ends have said so; any
// other end of it is a reset, which nobody takes for the end of what was said.
func TestAnUntoldEndResetsTheServicesConnection(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, told := range map[string]bool{"told": true, "untold": false} {
		near, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		service, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer service.Close()
		s := newServedConn(&Runner{}, &task{}, near)
		if _, err := io.WriteString(s, "half a request"); err != nil {
			t.Fatal(err)
		}
		if told {
			_ = service.(*net.TCPConn).CloseWrite()
			if _, err := io.ReadAll(s); err != nil {
				t.Fatal(err)
			}
			_ = s.CloseWrite()
		}
		_ = s.Close()
		if _, err := io.ReadAll(service); (err == nil) != told {
			t.Errorf("%s: the service hears the end as %v", name, err)
		}
	}
}
