//go:build linux

package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Restore makes the connection's end in a network namespace, which has its local
// address. Nothing is sent until Go: the other end still stands still, and may
// yet go on where it was.
func Restore(namespace *os.File, s State) (*Restored, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	var r *Restored
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace %s: %w", namespace.Name(), err)
			return
		}
		var err error
		r, err = restore(s)
		done <- err
	}()
	if err := <-done; err != nil {
		return nil, fmt.Errorf("restore the connection to %s: %w", s.Remote, err)
	}
	return r, nil
}

// Restored is a connection's new end, which is silent yet.
type Restored struct {
	file   *os.File
	unsent []byte
}

func restore(s State) (_ *Restored, err error) {
	local, family := sockaddr(s.Local)
	remote, _ := sockaddr(s.Remote)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	set := func(option, value int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value)
		}
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	set(unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
	set(unix.TCP_REPAIR_QUEUE, sendQueue)
	set(unix.TCP_QUEUE_SEQ, int(s.SendSeq))
	set(unix.TCP_REPAIR_QUEUE, receiveQueue)
	set(unix.TCP_QUEUE_SEQ, int(s.ReceiveSeq))
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, local); err != nil {
		return nil, fmt.Errorf("take the address %s: %w", s.Local, err)
	}
	if err := unix.Connect(fd, remote); err != nil {
		return nil, err
	}
	if err := s.agree(fd); err != nil {
		return nil, fmt.Errorf("set what both ends agreed on: %w", err)
	}
	if err := fill(fd, receiveQueue, s.Received); err != nil {
		return nil, err
	}
	if err := fill(fd, sendQueue, s.Sent); err != nil {
		return nil, err
	}
	if err := setOption(fd, unix.TCP_REPAIR_WINDOW, unsafe.Pointer(&s.Window), int(unsafe.Sizeof(s.Window))); err != nil {
		return nil, fmt.Errorf("set the windows: %w", err)
	}
	set(unix.TCP_REPAIR_QUEUE, noQueue)
	if err != nil {
		return nil, err
	}
	return &Restored{file: os.NewFile(uintptr(fd), "tcp"), unsent: s.Unsent}, nil
}

// agree sets what the first packets of both ends said.
func (s *State) agree(fd int) error {
	options := []unix.TCPRepairOpt{{Code: unix.TCPOPT_MAXSEG, Val: s.MaxSegment}}
	if s.Scales {
		options = append(options, unix.TCPRepairOpt{Code: unix.TCPOPT_WINDOW, Val: uint32(s.SendScale) | uint32(s.ReceiveScale)<<16})
	}
	if s.Selective {
		options = append(options, unix.TCPRepairOpt{Code: unix.TCPOPT_SACK_PERMITTED})
	}
	if s.Timestamps {
		options = append(options, unix.TCPRepairOpt{Code: unix.TCPOPT_TIMESTAMP})
	}
	err := setOption(fd, unix.TCP_REPAIR_OPTIONS, unsafe.Pointer(&options[0]), len(options)*int(unsafe.Sizeof(options[0])))
	if err == nil && s.Timestamps {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP, int(s.Timestamp))
	}
	return err
}

// fill puts bytes into a queue of a socket under repair.
func fill(fd, which int, data []byte) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, which); err != nil {
		return err
	}
	for len(data) > 0 {
		n, err := unix.SendmsgN(fd, data[:min(len(data), 64<<10)], nil, nil, unix.MSG_DONTWAIT)
		if err != nil {
			return fmt.Errorf("put %d bytes back on their way: %w", len(data), err)
		}
		data = data[n:]
	}
	return nil
}

// Go lets the connection go on here. What waited to be sent comes before
// anything else that is: it is the caller's to write, for the other end may take
// as long as it likes to read it.
func (r *Restored) Go() (conn *net.TCPConn, unsent []byte, err error) {
	defer r.file.Close()
	raw, err := r.file.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	inner := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF)
	})
	if err := errors.Join(inner, err); err != nil {
		return nil, nil, fmt.Errorf("let a connection go on: %w", err)
	}
	c, err := net.FileConn(r.file)
	if err != nil {
		return nil, nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, nil, errors.Join(errors.New("this is no TCP connection"), c.Close())
	}
	return tcp, r.unsent, nil
}

// GiveUp removes the new end without a word to the other one.
func (r *Restored) GiveUp() error { return r.file.Close() }
