//go:build linux

// Package handover gives an open TCP connection from the kernel of one node to
// that of another, while the machine at its other end is moved there.
//
// The rule: a connection has one kernel end at every instant. While it is frozen
// neither end sends; then it is thawed where it was, or restored elsewhere and
// given up where it was, without a packet that the other end could notice. It
// is the kernel's own mechanism for that, TCP_REPAIR, made for CRIU:
// https://lwn.net/Articles/495304/, https://criu.org/TCP_connection
//
// Drivers of machines rely on it: a session into a guest outlives the guest's
// move, and the old node relays it until it ends ([Conn]).
package handover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// State is one end of a connection, as the kernel has it. It comes from another
// node: [Restore] takes nothing of it on trust but sequence numbers and bytes.
type State struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	// SendSeq and ReceiveSeq are those of the first byte in Sent or Unsent, and in
	// Received.
	SendSeq    uint32 `json:"send_seq"`
	ReceiveSeq uint32 `json:"receive_seq"`
	// Sent was not acknowledged yet, Unsent waits, Received was not read.
	Sent     []byte `json:"sent,omitempty"`
	Unsent   []byte `json:"unsent,omitempty"`
	Received []byte `json:"received,omitempty"`
	// What both ends agreed on in their first packets.
	MaxSegment   uint32 `json:"max_segment"`
	SendScale    uint8  `json:"send_scale"`
	ReceiveScale uint8  `json:"receive_scale"`
	Scales       bool   `json:"scales"`
	Selective    bool   `json:"selective"`
	Timestamps   bool   `json:"timestamps"`
	Timestamp    uint32 `json:"timestamp,omitempty"`
	Window       Window `json:"window"`
}

// MaxQueued bounds what a state may carry in each direction, in bytes: what a
// session into a machine rarely has under way. One with more cannot be frozen.
const MaxQueued = 4 << 20

// Validate reports what no kernel would have told.
func (s *State) Validate() error {
	switch {
	case !s.Local.IsValid() || !s.Remote.IsValid() || s.Local.Addr().Is4() != s.Remote.Addr().Is4():
		return errors.New("the connection has no two addresses of one kind")
	case s.Local.Port() == 0 || s.Remote.Port() == 0:
		return errors.New("the connection has a port 0")
	case len(s.Sent)+len(s.Unsent) > MaxQueued || len(s.Received) > MaxQueued:
		return fmt.Errorf("the connection brings more than %d bytes along", MaxQueued)
	case s.MaxSegment < 48 || s.MaxSegment > 65535 || s.SendScale > 14 || s.ReceiveScale > 14:
		return errors.New("the connection's segment size or window scales are out of range")
	}
	return nil
}

// Frozen is a connection that neither sends nor answers.
type Frozen struct {
	State State
	conn  *net.TCPConn
}

// Freeze stops the connection and reads its state. Only one that is open in both
// directions can be frozen; any other goes on as it was. The caller sees to it
// that nobody reads, writes or closes it, and that its other end stands still.
func Freeze(conn *net.TCPConn) (f *Frozen, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	f = &Frozen{conn: conn}
	inner := raw.Control(func(fd uintptr) { err = f.State.read(int(fd)) })
	if err = errors.Join(inner, err); err != nil {
		return nil, fmt.Errorf("freeze the connection to %s: %w", conn.RemoteAddr(), err)
	}
	return f, nil
}

// Thaw lets it go on where it was.
func (f *Frozen) Thaw() error {
	return f.repair(unix.TCP_REPAIR_OFF)
}

// GiveUp removes this end without a word to the other one.
func (f *Frozen) GiveUp() error { return f.conn.Close() } // a socket under repair says nothing

func (f *Frozen) repair(mode int) (err error) {
	raw, err := f.conn.SyscallConn()
	if err != nil {
		return err
	}
	inner := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, mode) })
	return errors.Join(inner, err)
}

// read fills the state; after an error the socket is as it was.
func (s *State) read(fd int) (err error) {
	var info [8]byte // the head of struct tcp_info
	if err := getOption(fd, unix.TCP_INFO, unsafe.Pointer(&info), len(info)); err != nil {
		return err
	}
	if info[infoState] != established {
		return errors.New("one of its ends has been closed")
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF)
		}
	}()
	options := info[infoOptions]
	s.Scales, s.Selective, s.Timestamps = options&hasScales != 0, options&hasSelective != 0, options&hasTimestamps != 0
	s.SendScale, s.ReceiveScale = info[infoScales]&15, info[infoScales]>>4
	if s.Local, err = addressOf(unix.Getsockname(fd)); err != nil {
		return err
	}
	if s.Remote, err = addressOf(unix.Getpeername(fd)); err != nil {
		return err
	}
	if err := s.readQueues(fd); err != nil {
		return err
	}
	segment, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	if err != nil {
		return err
	}
	s.MaxSegment = uint32(segment)
	if s.Timestamps {
		now, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP)
		if err != nil {
			return err
		}
		s.Timestamp = uint32(now)
	}
	return s.readWindow(fd)
}

// readWindow comes last: it tells whether a packet that was on its way in came
// while the rest was read.
func (s *State) readWindow(fd int) error {
	if err := getOption(fd, unix.TCP_REPAIR_WINDOW, unsafe.Pointer(&s.Window), int(unsafe.Sizeof(s.Window))); err != nil {
		return err
	}
	next, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ) // of what was received: that queue is chosen
	if err == nil && uint32(next) != s.ReceiveSeq+uint32(len(s.Received)) {
		err = errors.New("its other end does not stand still")
	}
	return err
}

// readQueues copies what is under way; the sequence numbers become those of its
// first bytes.
func (s *State) readQueues(fd int) error {
	all, next, err := queue(fd, sendQueue, unix.SIOCOUTQ)
	if err != nil {
		return fmt.Errorf("read what was sent: %w", err)
	}
	unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
	if err != nil || unsent > len(all) {
		return fmt.Errorf("ask what was not sent: %w", err)
	}
	s.Sent, s.Unsent, s.SendSeq = all[:len(all)-unsent], all[len(all)-unsent:], next-uint32(len(all))
	s.Received, next, err = queue(fd, receiveQueue, unix.SIOCINQ)
	if err != nil {
		return fmt.Errorf("read what was received: %w", err)
	}
	s.ReceiveSeq = next - uint32(len(s.Received))
	return nil
}

// queue reads a queue of a socket under repair, and the number of the byte after.
func queue(fd, which int, size uint) (data []byte, next uint32, err error) {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, which); err != nil {
		return nil, 0, err
	}
	seq, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
	if err != nil {
		return nil, 0, err
	}
	n, err := unix.IoctlGetInt(fd, size)
	if err != nil {
		return nil, 0, err
	}
	if n > MaxQueued {
		return nil, 0, fmt.Errorf("%d bytes are under way, which is more than %d", n, MaxQueued)
	}
	data = make([]byte, n)
	for got := 0; got < n; {
		m, _, err := unix.Recvfrom(fd, data, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != nil {
			return nil, 0, err
		}
		if m != n {
			return nil, 0, fmt.Errorf("the kernel gave %d bytes of %d", m, n)
		}
		got = m
	}
	return data, uint32(seq), nil
}
