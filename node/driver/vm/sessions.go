//go:build linux

package vm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/sovmesh/sovmesh/node/driver/boundary"
	"github.com/sovmesh/sovmesh/node/driver/handover"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Sessions into a guest outlive its move where its network is one of its own: its
// address and that of its way out are the same on every node, so the kernel end
// of a connection can go along. Whoever holds the session stays where they came
// in; that node relays until it ends.

// maxSessions is how many go along at most, and maxStreams how many streams a move
// has with all that it consists of, as package runner bounds them. Sessions beyond
// end with the move.
const (
	maxSessions = 8
	maxStreams  = 16
)

// sessionsBeside is how many can go along with a machine whose disks, and their
// snapshots, have so many streams: the word between both sides, the output and the
// memory have one each too.
func sessionsBeside(streams int) int { return max(0, min(maxSessions, maxStreams-3-streams)) }

// maxSessionState bounds a connection's state on the wire, in bytes.
const maxSessionState = 4 * handover.MaxQueued

// sessions are the connections into this node's machines.
type sessions struct {
	mu       sync.Mutex
	open     map[placement.TaskID]map[*handover.Conn]bool // guarded by mu
	leaving  map[placement.TaskID][]leaving               // guarded by mu; frozen until the move is decided
	arriving map[placement.TaskID][]arriving              // guarded by mu; silent until then
}

type leaving struct {
	conn   *handover.Conn
	stream net.Conn
}

type arriving struct {
	end    *handover.Restored
	stream net.Conn
}

func newSessions() *sessions {
	return &sessions{
		open: make(map[placement.TaskID]map[*handover.Conn]bool), leaving: make(map[placement.TaskID][]leaving),
		arriving: make(map[placement.TaskID][]arriving),
	}
}

// track makes a connection one that can go along.
func (s *sessions) track(id placement.TaskID, tcp *net.TCPConn) *handover.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c *handover.Conn
	c = handover.NewConn(tcp, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open[id], c)
		if len(s.open[id]) == 0 {
			delete(s.open, id)
		}
	})
	if s.open[id] == nil {
		s.open[id] = make(map[*handover.Conn]bool)
	}
	s.open[id][c] = true
	return c
}

func (s *sessions) of(id placement.TaskID, most int) (all []*handover.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open[id] {
		all = append(all, c)
	}
	return all[:min(len(all), most)]
}

// send freezes a machine's sessions, with the machine, and sends each by a stream
// of its own, on which it goes on if the machine does over there: most at most. It
// tells how many. One that cannot go along stays as it is, and ends with the machine here.
func (s *sessions) send(ctx context.Context, id placement.TaskID, most int, to runner.Streams) (n int) {
	for _, c := range s.of(id, most) {
		state, err := c.Freeze()
		if err != nil {
			continue // closed, or half so
		}
		stream, err := to.Open(ctx, runner.SessionStream+strconv.Itoa(n))
		if err != nil {
			_ = c.Thaw()
			return n
		}
		n++ // the other side saw a stream, whatever comes of it
		done := cutAfter(ctx, stream.SetWriteDeadline, lastPatience)
		err = writeSession(stream, state)
		done()
		if err != nil {
			_, _ = c.Thaw(), stream.Close()
			continue
		}
		s.mu.Lock()
		s.leaving[id] = append(s.leaving[id], leaving{c, stream})
		s.mu.Unlock()
	}
	return n
}

// takeLeaving hands the frozen ones out, once.
func (s *sessions) takeLeaving(id placement.TaskID) []leaving {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.leaving[id]
	delete(s.leaving, id)
	return all
}

func (s *sessions) takeArriving(id placement.TaskID) []arriving {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.arriving[id]
	delete(s.arriving, id)
	return all
}

// goOn lets the sessions of a machine go on where it does: here.
func (s *sessions) goOn(id placement.TaskID) {
	for _, l := range s.takeLeaving(id) {
		_, _ = l.conn.Thaw(), l.stream.Close()
	}
	for _, a := range s.takeArriving(id) {
		tcp, unsent, err := a.end.Go()
		if err != nil {
			_ = a.stream.Close()
			continue
		}
		// From here on the end of the machine closes it, whatever it waits for.
		go relay(s.track(id, tcp), unsent, a.stream)
	}
}

// giveUp lets them go on where the machine does: on the other side.
func (s *sessions) giveUp(id placement.TaskID) {
	for _, l := range s.takeLeaving(id) {
		_ = l.conn.Follow(l.stream) // one that cannot ends for its user
	}
	for _, a := range s.takeArriving(id) {
		_, _ = a.end.GiveUp(), a.stream.Close()
	}
}

// relay carries a session between its first node and the machine, until either
// ends. The machine may be moved once more meanwhile.
func relay(c *handover.Conn, unsent []byte, stream net.Conn) {
	defer stream.Close()
	defer c.Close()
	back := make(chan struct{})
	go func() {
		defer close(back)
		if _, err := c.Write(unsent); err == nil {
			_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{stream})
		}
		_ = c.Close()
	}()
	_, _ = io.Copy(struct{ io.Writer }{stream}, struct{ io.Reader }{c})
	_ = stream.Close()
	<-back
}

// end closes what leads into a machine that is removed: its kernel ends have no
// device any more.
func (s *sessions) end(id placement.TaskID) {
	s.giveUp(id)
	s.mu.Lock()
	var all []*handover.Conn
	for c := range s.open[id] {
		if c.Here() {
			all = append(all, c)
		}
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// sessionNumber reads the name of a session's stream.
func sessionNumber(name string) bool {
	number, ok := strings.CutPrefix(name, runner.SessionStream)
	i, err := strconv.ParseUint(number, 10, 8)
	return ok && err == nil && i < maxSessions && strconv.FormatUint(i, 10) == number
}

// takeSession makes the end of a session that comes by a stream, in the network
// of the task's machine. One that cannot be made ends for its user.
func (d *Driver) takeSession(ctx context.Context, id placement.TaskID, stream net.Conn) error {
	end, err := d.restoreSession(ctx, id, stream)
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	d.sessions.mu.Lock()
	defer d.sessions.mu.Unlock()
	d.sessions.arriving[id] = append(d.sessions.arriving[id], arriving{end, stream})
	return nil
}

func (d *Driver) restoreSession(ctx context.Context, id placement.TaskID, stream net.Conn) (*handover.Restored, error) {
	defer cutAfter(ctx, stream.SetReadDeadline, lastPatience)()
	state, err := readSession(stream)
	switch {
	case err != nil:
		return nil, err
	case state.Local.Addr() != boundary.MachineGateway || state.Remote.Addr() != boundary.MachineAddress:
		return nil, fmt.Errorf("a session from %s to %s is none into this machine", state.Local, state.Remote)
	case d.cfg.Hold.Network == nil:
		return nil, errors.New("its machine has no network of its own here")
	}
	ns, err := d.cfg.Hold.Network.Namespace(id)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return handover.Restore(ns, state)
}

// writeSession writes a state with its length before it.
func writeSession(w io.Writer, s handover.State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if len(data) > maxSessionState {
		return fmt.Errorf("the session has %d bytes of state, more than %d", len(data), maxSessionState)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

// readSession reads what another node wrote, and believes none of it.
func readSession(r io.Reader) (s handover.State, err error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return s, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxSessionState {
		return s, fmt.Errorf("a session's state of %d bytes is more than %d", n, maxSessionState)
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return s, err
	}
	if len(data) != int(n) {
		return s, io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read a session's state: %w", err)
	}
	return s, s.Validate()
}
