//go:build linux

package handover

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// Conn is a connection into a machine which may be moved while it is open. Its
// user notices nothing but a pause.
type Conn struct {
	mu     sync.Mutex
	ready  sync.Cond
	at     net.Conn // guarded by mu: the kernel's own, then a stream to where the machine went
	still  bool     // guarded by mu: nobody reads or writes
	users  int      // guarded by mu: calls that use at now
	closed bool     // guarded by mu
	frozen *Frozen  // guarded by mu
	// The user's own deadlines.
	readBy, writeBy time.Time // guarded by mu
	onClose         func()
}

// NewConn wraps a connection; onClose, which may be nil, is called once, when
// it is closed.
func NewConn(tcp *net.TCPConn, onClose func()) *Conn {
	c := &Conn{at: tcp, onClose: onClose}
	c.ready.L = &c.mu
	return c
}

// begin waits until the connection is somewhere.
func (c *Conn) begin() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.still && !c.closed {
		c.ready.Wait()
	}
	if c.closed {
		return nil, net.ErrClosed
	}
	c.users++
	return c.at, nil
}

// end reports whether a call that was broken off is to be made again.
func (c *Conn) end(err error) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users--
	c.ready.Broadcast()
	return c.still && !c.closed && errors.Is(err, os.ErrDeadlineExceeded)
}

// Read reads from wherever the machine is.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		at, err := c.begin()
		if err != nil {
			return 0, err
		}
		n, err := at.Read(p)
		if again := c.end(err); !again || n > 0 {
			return n, quiet(err, again)
		}
	}
}

// Write writes to wherever the machine is.
func (c *Conn) Write(p []byte) (done int, err error) {
	for {
		at, err := c.begin()
		if err != nil {
			return done, err
		}
		n, err := at.Write(p[done:])
		done += n
		if again := c.end(err); !again || done == len(p) {
			return done, quiet(err, again)
		}
	}
}

// quiet hides what broke a call off that did its work.
func quiet(err error, again bool) error {
	if again {
		return nil
	}
	return err
}

// Freeze holds the connection still, with the machine at its other end.
func (c *Conn) Freeze() (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tcp, ok := c.at.(*net.TCPConn)
	if c.closed || c.still || !ok {
		return State{}, errors.New("the connection is closed, or has been moved before")
	}
	c.still = true
	_ = tcp.SetDeadline(time.Unix(1, 0)) // breaks off whoever waits
	for c.users > 0 && !c.closed {
		c.ready.Wait()
	}
	f, err := (*Frozen)(nil), net.ErrClosed
	if !c.closed {
		f, err = Freeze(tcp)
	}
	if err != nil {
		c.goOn(tcp)
		return State{}, err
	}
	c.frozen = f
	return f.State, nil
}

// Thaw lets it go on where it was.
func (c *Conn) Thaw() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen == nil {
		return nil
	}
	at := c.frozen.conn
	err := c.frozen.Thaw()
	c.goOn(at)
	if c.closed { // meanwhile
		err = errors.Join(err, at.Close())
	}
	return err
}

// Follow gives this end up and goes on by a stream, which ends at the restored
// one on the machine's new node.
func (c *Conn) Follow(stream net.Conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen == nil {
		return errors.Join(errors.New("the connection was not frozen"), stream.Close())
	}
	err := c.frozen.GiveUp()
	c.goOn(stream)
	if c.closed {
		err = errors.Join(err, stream.Close())
	}
	return err
}

// goOn is called with mu held.
func (c *Conn) goOn(at net.Conn) {
	c.at, c.still, c.frozen = at, false, nil
	_ = c.applyDeadlines() // a closed one says so to whoever uses it
	c.ready.Broadcast()
}

// Close closes it; while it is frozen, that is told once it goes on, so that the
// other end sees an orderly end.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	at, frozen := c.at, c.frozen
	c.ready.Broadcast()
	c.mu.Unlock()
	if c.onClose != nil {
		c.onClose()
	}
	if frozen != nil {
		return nil
	}
	return at.Close()
}

// CloseWrite tells the machine that nothing more comes.
func (c *Conn) CloseWrite() error {
	at, err := c.begin()
	if err != nil {
		return err
	}
	defer c.end(nil)
	if half, ok := at.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.New("this end cannot be closed alone")
}

// Here reports whether the connection's end is this node's kernel's.
func (c *Conn) Here() bool {
	_, ok := c.now().(*net.TCPConn)
	return ok
}

// LocalAddr is the address of its end on the first node.
func (c *Conn) LocalAddr() net.Addr { return c.now().LocalAddr() }

// RemoteAddr is the machine's.
func (c *Conn) RemoteAddr() net.Addr { return c.now().RemoteAddr() }

func (c *Conn) now() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// SetDeadline sets both. While the machine is moved it is put off until the move
// is decided.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(&t, &t) }

// SetReadDeadline sets that of reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(&t, nil) }

// SetWriteDeadline sets that of writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(nil, &t) }

func (c *Conn) setDeadlines(read, write *time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if read != nil {
		c.readBy = *read
	}
	if write != nil {
		c.writeBy = *write
	}
	if c.still {
		return nil
	}
	return c.applyDeadlines()
}

// applyDeadlines is called with mu held.
func (c *Conn) applyDeadlines() error {
	return errors.Join(c.at.SetReadDeadline(c.readBy), c.at.SetWriteDeadline(c.writeBy))
}
