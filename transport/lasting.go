package transport

import (
	"io"
	"sync"
	"time"
)

// Lasting is a kind of request that goes on for as long as others like, and may stand
// still: bytes that nobody reads use up the window of their connection, and with it
// all that shares the connection. So none of them goes by the connection of the
// requests, and each kind has others, one for each of those whose they are: an answer
// that a tenant does not read stops that tenant's of the same kind alone.
type Lasting string

// The kinds. No value is a request that its sender answers and reads at once.
const (
	LastingService Lasting = "service" // connections of tasks to services
	LastingSession Lasting = "session" // what people read and write: sessions, output, what is relayed to them
	LastingMove    Lasting = "move"    // what a guest that moves stands for
)

// What unread bytes may take. A stream begins with 64 KiB, and a connection with room
// for 16 such, in both directions: the listening side cannot tell connections apart
// before they are there. It is stopped once three quarters of that are unread, because
// it is given more room after a quarter was read. The side that dials gives answers
// more: of services and of sessions less than 48 unread ones, or 6 of those that grew
// by being read fast before they stood still, leave a connection open, and at most
// 4 MiB wait in memory for each. Those of moves are read by drivers, and grow as all
// do, to 15 MiB.
const (
	streamWindow     = 64 << 10
	lastingWindow    = 4 << 20
	lastingStreamMax = 512 << 10
)

// apartMax is how many of one kind have a connection of their own to one peer; those
// beyond share one. apartIdle is how long a connection that nobody uses stays: a move
// asks first and sends its sessions at its end.
const (
	apartMax  = 64
	apartIdle = 5 * time.Minute
)

// bound takes the name off the key of one who is beyond the bound. The caller holds mu.
func (e *Endpoint) bound(key *poolKey) {
	if key.whose == "" || e.pool[*key] != nil {
		return
	}
	n, same := 0, *key
	for k := range e.pool {
		same.whose = k.whose
		if k == same && k.whose != "" {
			n++
		}
	}
	if n >= apartMax {
		key.whose = ""
	}
}

// leave is the end of one use of a connection that [Endpoint.connect] gave.
func (e *Endpoint) leave(d *dialing) {
	if d.key.lasting == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if d.users--; d.users > 0 || e.closed {
		return
	}
	if d.idle == nil {
		d.idle = time.AfterFunc(apartIdle, func() { e.retire(d) })
	} else {
		d.idle.Reset(apartIdle)
	}
}

// retire closes a connection that was used by nobody since.
func (e *Endpoint) retire(d *dialing) {
	e.mu.Lock()
	if d.users > 0 || e.closed {
		e.mu.Unlock()
		return
	}
	if e.pool[d.key] == d {
		delete(e.pool, d.key)
	}
	e.mu.Unlock()
	<-d.done // long ago: a dial takes no longer than its handshake may
	if d.conn != nil {
		_ = d.conn.CloseWithError(codeNone, "nobody uses it any more")
	}
}

// leaving is the body of an answer whose end is the end of the use.
func (e *Endpoint) leaving(d *dialing, body io.ReadCloser) io.ReadCloser {
	if d.key.lasting == "" {
		return body
	}
	return &leavingBody{ReadCloser: body, leave: sync.OnceFunc(func() { e.leave(d) })}
}

type leavingBody struct {
	io.ReadCloser
	leave func()
}

func (b *leavingBody) Close() error {
	defer b.leave()
	return b.ReadCloser.Close()
}
