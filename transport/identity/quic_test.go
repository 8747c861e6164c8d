package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// ticketCache tells when the server's session ticket has arrived.
type ticketCache struct {
	tls.ClientSessionCache
	arrived chan struct{}
}

func (c *ticketCache) Put(key string, cs *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, cs)
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

// Over QUIC a dial returns before the server has judged the client, so the
// verdict shows on the first read. It is made on a resumed session too.
func TestQUICResumptionIsVerified(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	m := newMesh(t)
	n1, n2 := node(t, m.fra, "n1"), node(t, m.fra, "n2")
	server := m.verifier.ServerConfig(NewSource(n1), Classes()...)
	server.SessionTicketsDisabled = false // somebody turned them on
	listener, err := quic.ListenAddr("127.0.0.1:0", server, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go greet(ctx, listener)

	cache := &ticketCache{tls.NewLRUClientSessionCache(4), make(chan struct{}, 1)}
	client := m.verifier.ClientConfig(NewSource(n2), ClassInfer, n1.ID)
	client.ClientSessionCache, client.ServerName = cache, "n1"
	hello := func() (resumed bool, err error) {
		conn, err := quic.DialAddr(ctx, listener.Addr().String(), client, nil)
		if err != nil {
			return false, err
		}
		defer func() { _ = conn.CloseWithError(0, "") }()
		stream, err := conn.AcceptUniStream(ctx)
		if err == nil {
			_, err = io.ReadFull(stream, make([]byte, 1))
		}
		if err == nil {
			select {
			case <-cache.arrived:
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
		return conn.ConnectionState().TLS.DidResume, err
	}
	if resumed, err := hello(); err != nil || resumed {
		t.Fatalf("first connection: resumed %v, %v", resumed, err)
	}
	if resumed, err := hello(); err != nil || !resumed {
		t.Fatalf("second connection: resumed %v, %v; without resumption this test shows nothing", resumed, err)
	}
	m.revoked.Store(&n2.ID)
	_, err = hello()
	var refused *quic.TransportError
	if !errors.As(err, &refused) || !refused.ErrorCode.IsCryptoError() || !refused.Remote {
		t.Fatalf("a revoked client resumed: %v", err)
	}
	m.revoked.Store(&n1.ID)
	if _, err = hello(); ReasonOf(err) != Revoked {
		t.Fatalf("dialing a revoked server: %v", err)
	}
}

// greet sends one byte on every connection, until the listener closes.
func greet(ctx context.Context, l *quic.Listener) {
	for {
		conn, err := l.Accept(ctx)
		if err != nil {
			return
		}
		if stream, err := conn.OpenUniStream(); err == nil {
			_, _ = stream.Write([]byte{1})
			_ = stream.Close()
		}
	}
}
