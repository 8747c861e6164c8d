package wire

import "sync"

// Gate holds a sender back until there is credit.
type Gate struct {
	mu     sync.Mutex
	more   *sync.Cond
	left   int  // guarded by mu
	closed bool // guarded by mu
}

// NewGate has a whole window.
func NewGate() *Gate {
	g := &Gate{left: Window}
	g.more = sync.NewCond(&g.mu)
	return g
}

// Take waits for credit and takes at most n of it; 0 is for a gate that closed.
func (g *Gate) Take(n int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.left == 0 && !g.closed {
		g.more.Wait()
	}
	if g.closed {
		return 0
	}
	n = min(n, g.left)
	g.left -= n
	return n
}

// Add gives credit back. More than a window is never had.
func (g *Gate) Add(n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = int(min(uint64(g.left)+min(n, Window), Window))
	g.more.Broadcast()
}

// Close lets every sender go.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.more.Broadcast()
}

// Queue takes bytes without ever waiting, up to a window, and gives them out
// as they are asked for. More than a window means that the other side does not
// keep to its credit.
type Queue struct {
	mu    sync.Mutex
	more  *sync.Cond
	data  []byte // guarded by mu
	ended bool   // guarded by mu; nothing more comes
}

// NewQueue is empty.
func NewQueue() *Queue {
	q := &Queue{}
	q.more = sync.NewCond(&q.mu)
	return q
}

// Put adds bytes and reports whether there was room.
func (q *Queue) Put(p []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.data)+len(p) > Window {
		return false
	}
	if !q.ended {
		q.data = append(q.data, p...)
	}
	q.more.Broadcast()
	return true
}

// End says that nothing more comes; what is there is still given out.
func (q *Queue) End() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.more.Broadcast()
}

// Get waits for bytes and fills p; 0 is the end.
func (q *Queue) Get(p []byte) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.data) == 0 && !q.ended {
		q.more.Wait()
	}
	n := copy(p, q.data)
	q.data = append(q.data[:0], q.data[n:]...)
	return n
}
