package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/sovmesh/sovmesh/node/api"
)

// listenFault explains why an address cannot be listened on.
func listenFault(addr string, err error) error {
	code, hint := "listen.failed", "choose an address of this machine, with its port"
	message := fmt.Sprintf("cannot listen on %s: %v", addr, err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		code, message = "listen.taken", "port taken: another program listens on "+addr
		hint = "end it, or choose another port; see who it is: ss -ltunp"
	case errors.Is(err, syscall.EACCES):
		code, message = "listen.forbidden", "this user may not listen on "+addr
		hint = "choose a port from 1024 on"
	}
	return &api.InputError{Code: code, Message: message, Help: hint}
}

// listenable reports whether addr is host:port with a port of numbers.
func listenable(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}
