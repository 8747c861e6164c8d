// Package transport is the one UDP socket of a node: QUIC connections between
// peers, one ALPN per class of traffic, and gossip packets beside them.
//
// Two rules hold here and are tested to fail when their protection is taken
// away. Whoever speaks is whoever the certificate on the connection names: no
// header, address or configuration line is asked. And nothing leaves for
// another region before a [Guard] has permitted a declared [Cargo].
//
// consensus relies on [StreamLayer], transport/gossip on [PacketLayer], api on
// [Endpoint.ServeH3] and [Endpoint.Do], gateway on [Endpoint.ServeInfer] and
// [Endpoint.OpenInfer].
package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// Peer is where a message goes: an address, and who must be found there.
type Peer struct {
	// ID is checked against the certificate found at Addr. Region is required;
	// an empty Node means any node of that region.
	ID identity.ID
	// Addr is "host:port" of the peer's UDP socket.
	Addr string
}

// Config is what an [Endpoint] is built from.
type Config struct {
	// Socket is the node's UDP socket. Run owns it and closes it at its end.
	Socket net.PacketConn
	// Credential gives the node's own certificate, renewed while running.
	Credential *identity.Source
	// Verifier judges every certificate, on dialing and on accepting.
	Verifier *identity.Verifier
	// Home is the node's own region: what goes elsewhere asks Guard.
	Home placement.RegionID
	// ResetKey makes the stateless reset tokens. Keep it over restarts: with
	// the old key a restarted peer is back in 0.1 s, with a new one in 2.6 s.
	ResetKey [32]byte
	// Guard permits what leaves the region. Without one, nothing does.
	Guard Guard
	// Log receives one line per refused peer and per lost connection.
	Log *slog.Logger

	// IdleTimeout closes a connection that has been silent for so long. It is
	// one value for all classes, because a listener has but one; quic-go raises
	// what a peer asks for to at least 5 s, so both sides set it.
	IdleTimeout time.Duration
	// KeepAlive is how often an open connection is kept awake; a dead border
	// shows after KeepAlive + IdleTimeout. Gossip connections go idle.
	KeepAlive time.Duration
	// HandshakeTimeout bounds the silence within a handshake, and the hello.
	HandshakeTimeout time.Duration
	// StreamsMax is how many streams one peer may have open at once.
	StreamsMax int64
	// HeaderMax is how many bytes of HTTP header are read, per message.
	HeaderMax int
}

// DefaultConfig has the timers that were measured together (see DESIGN 5).
func DefaultConfig() Config {
	return Config{
		IdleTimeout:      3 * time.Second,
		KeepAlive:        time.Second,
		HandshakeTimeout: 2 * time.Second,
		StreamsMax:       4096,
		HeaderMax:        64 << 10,
	}
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("transport: "+what))
		}
	}
	need(c.Socket != nil, "Socket is missing: hand in a bound UDP socket")
	need(c.Credential != nil, "Credential is missing: a node speaks with its certificate only")
	need(c.Verifier != nil, "Verifier is missing: a peer is believed by its certificate only")
	need(placement.ValidName(string(c.Home)), fmt.Sprintf("Home %q is no region name", c.Home))
	need(c.Verifier == nil || c.Verifier.Home == c.Home, "Verifier.Home is not Home: foreigners would pass for neighbours")
	need(c.ResetKey != [32]byte{}, "ResetKey is zero: make one at random and keep it over restarts")
	need(c.Log != nil, "Log is missing")
	need(c.IdleTimeout > 0, "IdleTimeout must be positive")
	need(c.KeepAlive > 0 && c.KeepAlive < c.IdleTimeout, "KeepAlive must be positive and shorter than IdleTimeout")
	need(c.HandshakeTimeout > 0, "HandshakeTimeout must be positive")
	need(c.StreamsMax > 0, "StreamsMax must be positive")
	need(c.HeaderMax > 0, "HeaderMax must be positive")
	return errors.Join(errs...)
}
