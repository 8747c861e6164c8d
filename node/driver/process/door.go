//go:build linux

package process

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
)

// A supervisor's door is a socket in its task's directory, where an agent asks for
// further commands in the task. The agent hands the command's ends of its pipes
// in, or is handed the master of its terminal: the supervisor carries no bytes.
// The command lives for as long as the connection at most.
//
// Where the agent is not root, its tasks are of its own user, and Landlock keeps
// them from reading each other's directories but not from connecting to a socket
// there. So whoever asks shows what the key in the directory says.
const (
	doorSocket = "door"
	doorKey    = "door.key"
)

// Bounds of a door: how many commands a task runs at once beside its own, how
// large what is asked for may be in bytes, and how long it may take to be said.
const (
	maxExecs    = 64
	maxCall     = 1 << 20
	callTimeout = 10 * time.Second
)

// Bounds of those who have not shown the key: how many are attended to at once, of
// how many bytes what they show may be, and how long it may take. Others wait before
// the door.
const (
	maxStrangers = 16
	maxKey       = 64
	keyTimeout   = 5 * time.Second
)

// opening is the first that an agent sends; what it asks for comes after it.
type opening struct {
	Key string `json:"key"`
}

// call is what an agent asks for.
type call struct {
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	TTY     bool              `json:"tty,omitempty"`
	Columns uint16            `json:"columns,omitempty"`
	Rows    uint16            `json:"rows,omitempty"`
}

// answer is a supervisor's: first whether the command was started, then its end.
type answer struct {
	Started bool         `json:"started,omitempty"`
	Exit    *runner.Exit `json:"exit,omitempty"`
	Reason  string       `json:"reason,omitempty"` // why it was not started
	Advice  string       `json:"advice,omitempty"`
}

// openDoor listens. A disk that takes no socket takes no further commands either:
// the task itself goes on.
func (s *supervisor) openDoor() {
	key := rand.Text()
	if os.WriteFile(s.dir.path(doorKey), []byte(key), 0o600) != nil {
		return
	}
	l, err := ListenUnix(string(s.dir), doorSocket)
	if err != nil {
		return
	}
	go func() {
		places, strangers := make(chan struct{}, maxExecs), make(chan struct{}, maxStrangers)
		for {
			strangers <- struct{}{}
			conn, err := l.Accept()
			if err != nil {
				<-strangers
				if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
					time.Sleep(100 * time.Millisecond)
					continue
				}
				return
			}
			go s.attendDoor(conn.(*net.UnixConn), key, strangers, places)
		}
	}()
}

// attendDoor is one connection's life.
func (s *supervisor) attendDoor(conn *net.UnixConn, key string, strangers, places chan struct{}) {
	defer conn.Close()
	known := knows(conn, key)
	<-strangers
	if !known {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(callTimeout))
	var c call
	files, err := receive(conn, &c, maxCall)
	defer closeAll(files)
	if err != nil {
		return
	}
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	default:
		_ = send(conn, answer{Reason: fmt.Sprintf("%d commands run in the task beside its own, and more may not", maxExecs), Advice: "end one of them first"})
		return
	}
	_ = conn.SetDeadline(time.Time{})
	e := s.execute(conn, c, files)
	if e == nil {
		return
	}
	closeAll(files) // the command's own are open: its end must be the end of them
	_, _ = conn.Read(make([]byte, 1))
	s.execs.kill(e) // the agent wants it no more, or has ended
	<-e.over
}

// knows reports whether who connected shows the key.
func knows(conn *net.UnixConn, key string) bool {
	_ = conn.SetDeadline(time.Now().Add(keyTimeout))
	var o opening
	files, err := receive(conn, &o, maxKey)
	closeAll(files)
	return err == nil && subtle.ConstantTimeCompare([]byte(o.Key), []byte(key)) == 1
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// send writes one message with the files that go along: four bytes of length,
// big-endian, and JSON.
func send(conn *net.UnixConn, v any, files ...*os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(binary.BigEndian.AppendUint32(nil, uint32(len(data))), rights, nil); err != nil {
		return err
	}
	_, err = conn.Write(data)
	return err
}

// receive reads one, of at most that many bytes. The files are the caller's, also
// with an error.
func receive(conn *net.UnixConn, v any, most int) ([]*os.File, error) {
	head, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(3*4))
	n, got, _, _, err := conn.ReadMsgUnix(head, rights)
	if n == 0 && err == nil {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	files, err := filesOf(rights[:got])
	if err != nil {
		return files, err
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return files, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > uint32(most) {
		return files, fmt.Errorf("a message of %d bytes, of which %d are taken", size, most)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(conn, data); err != nil {
		return files, err
	}
	return files, json.Unmarshal(data, v)
}

// filesOf are what came along.
func filesOf(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed"))
		}
	}
	return files, nil
}
