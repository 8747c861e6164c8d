//go:build linux

package boundary

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A guest that knows of no way to be told its address asks by DHCP; the answer is
// always the same. RFC 2131, RFC 2132.

// The parts of a message, in bytes from its beginning.
const (
	dhcpFixed   = 240 // up to the options, with the four bytes that announce them
	dhcpLargest = 1500
	dhcpLease   = 24 * 60 * 60 // seconds
)

var dhcpMagic = [4]byte{99, 130, 83, 99}

// The kinds of a message.
const (
	dhcpDiscover, dhcpOffer, dhcpRequest, dhcpAck, dhcpNak, dhcpInform = 1, 2, 3, 5, 6, 8
)

// ServeDHCP answers the machine in the namespace at path until ctx ends.
// Resolvers are those that its job names.
func ServeDHCP(ctx context.Context, path string, resolvers []netip.Addr) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, tapName),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		})
		return errors.Join(control, err)
	}}
	var conn net.PacketConn
	err = inside(ns, func() error {
		var err error
		conn, err = listen.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", dhcpPort))
		return err
	})
	if err != nil {
		return fmt.Errorf("answer the machine's questions for an address: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buf := make([]byte, dhcpLargest)
	for {
		n, _, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if reply := dhcpReply(buf[:n], resolvers); reply != nil {
			_, _ = conn.WriteTo(reply, &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpPort + 1})
		}
	}
}

// dhcpReply answers a message; nil for one that needs none. The guest is not
// believed: nothing of what it asks for changes what it is told.
func dhcpReply(ask []byte, resolvers []netip.Addr) []byte {
	if len(ask) < dhcpFixed || ask[0] != 1 || ask[1] != 1 || ask[2] != 6 || [4]byte(ask[236:240]) != dhcpMagic {
		return nil
	}
	options := dhcpOptions(ask[dhcpFixed:])
	kind, mine, given := byte(0), MachineAddress.As4(), [4]byte{}
	if o := options[53]; len(o) == 1 {
		kind = o[0]
	}
	wanted := [4]byte(ask[12:16]) // what the client has already
	if o := options[50]; len(o) == 4 {
		wanted = [4]byte(o)
	}
	switch kind {
	case dhcpDiscover:
		kind, given = dhcpOffer, mine
	case dhcpRequest:
		if kind, given = dhcpAck, mine; wanted != mine {
			kind, given = dhcpNak, [4]byte{}
		}
	case dhcpInform:
		kind = dhcpAck
	default:
		return nil
	}
	r := make([]byte, dhcpFixed, 320)
	copy(r, ask[:12]) // with the number of the exchange and its flags
	r[0] = 2
	r[3], r[8], r[9] = 0, 0, 0
	copy(r[12:16], ask[12:16])
	copy(r[16:20], given[:])
	copy(r[28:44], ask[28:44]) // the client's hardware address
	copy(r[236:], dhcpMagic[:])
	add := func(code byte, value ...byte) { r = append(append(r, code, byte(len(value))), value...) }
	add(53, kind)
	add(54, MachineGateway.AsSlice()...)
	if kind != dhcpNak {
		if given == mine {
			add(51, binary.BigEndian.AppendUint32(nil, dhcpLease)...)
		}
		add(1, net.CIDRMask(MachineBits, 32)...)
		add(3, MachineGateway.AsSlice()...)
		var all []byte
		for _, a := range resolvers {
			if a.Is4() && len(all) < 4*MaxDNS {
				all = append(all, a.AsSlice()...)
			}
		}
		if len(all) > 0 {
			add(6, all...)
		}
	}
	r = append(r, 255)
	for len(r) < 300 { // as old clients expect (RFC 1542)
		r = append(r, 0)
	}
	return r
}

// dhcpOptions are those of a message, as far as they can be read; the first of
// each code counts.
func dhcpOptions(b []byte) map[byte][]byte {
	all := make(map[byte][]byte)
	for len(b) > 0 {
		switch code := b[0]; {
		case code == 255:
			return all
		case code == 0:
			b = b[1:]
		case len(b) < 2 || len(b) < 2+int(b[1]):
			return all
		default:
			if _, had := all[code]; !had {
				all[code] = b[2 : 2+int(b[1])]
			}
			b = b[2+int(b[1]):]
		}
	}
	return all
}
