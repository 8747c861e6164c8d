package agents

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports for agents lie below those that the kernel gives to outgoing
// connections (32768 on Linux), so that a restarted agent finds its own again.
const (
	portFirst = 21000
	portLast  = 32000
)

var given struct {
	sync.Mutex
	ports map[int]bool
}

// FreePort is a port of loopback that is free for TCP and for UDP now, and that
// this process has not given out before.
func FreePort() (int, error) {
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	for range 1000 {
		port := portFirst + rand.IntN(portLast-portFirst)
		if given.ports[port] || !free(port) {
			continue
		}
		given.ports[port] = true
		return port, nil
	}
	return 0, fmt.Errorf("no port of 127.0.0.1 between %d and %d is free", portFirst, portLast)
}

func free(port int) bool {
	tcp, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	return udp.Close() == nil
}
