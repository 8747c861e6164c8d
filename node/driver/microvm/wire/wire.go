// Package wire is what a micro-VM's init and its supervisor say to each other.
//
// One byte stream carries frames of a type, a run and a payload. Run 0 is the
// task's own command; runs from 1 on are commands executed beside it. The rule:
// neither side trusts the other. Frames are bounded, a run's bytes wait for
// credit so that one slow reader holds up nobody else, and what does not parse
// ends the connection. The guest is the workload's: whoever takes it over speaks
// this protocol as it likes, and must gain nothing on the host.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sync"
)

// Version is of the protocol; both sides come from one build.
const Version = 1

// Port is the name of the virtio-serial port.
const Port = "sovmesh.ctl"

// ImageDisk is the serial number of the image's disk.
const ImageDisk = "image"

// MaxPayload bounds a frame's payload, in bytes.
const MaxPayload = 64 << 10

// MaxJSON bounds what is said in words: a command with its environment.
const MaxJSON = 4 << 20

// Window is how many bytes of a run's stream may be under way without credit.
const Window = 256 << 10

// MaxRuns bounds the runs at one time.
const MaxRuns = 128

// Type says what a frame is.
type Type byte

// The types. Of the host's: Start is [Command] in parts, the last with More
// unset; of the guest's: Started, Failed, Exited answer it.
const (
	Hello    Type = iota + 1 // guest: a [Greeting]
	Start                    // host: part of a [Command]
	Begin                    // host: the command is whole
	Started                  // guest
	Failed                   // guest: a [Failure]
	Stdin                    // host: bytes; none is the end
	Stdout                   // guest: bytes
	Stderr                   // guest: bytes
	Credit                   // both: a number of bytes, 4 octets
	Signal                   // host: a number, 1 octet, for the run's process group
	Resize                   // host: columns and rows, 2 octets each
	Exited                   // guest: an [Exit]
	Measure                  // host
	Measured                 // guest: a [Memory]
	Clock                    // host: nanoseconds since 1970, 8 octets
	Off                      // host: power off
	Secret                   // host: part of a secret, see [Writer.SendSecret]; before the Start of run 0
	Dial                     // host: a port of the guest's loopback, 2 octets; then a run of Stdin and Stdout, of which an empty one is the end of that way
	lastType
)

// Frame is one message. Payload is valid until the next one is read.
type Frame struct {
	Type    Type
	Run     uint32
	Payload []byte
}

// Greeting is the guest's first word.
type Greeting struct {
	Version int    `json:"version"`
	Kernel  string `json:"kernel"`
	BootID  string `json:"boot_id"`
	// Uptime is the guest's own clock when its init was ready, in nanoseconds.
	Uptime int64 `json:"uptime"`
	// Init is how much of that was the init's own work: without the modules that
	// the kernel loaded for it.
	Init int64 `json:"init"`
}

// Command is what to run.
type Command struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"` // KEY=value
	User string   `json:"user,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	TTY  bool     `json:"tty,omitempty"`
	Rows uint16   `json:"rows,omitempty"`
	Cols uint16   `json:"cols,omitempty"`
	// Root is about the whole machine; said with run 0.
	Root *Root `json:"root,omitempty"`
}

// Root is how the workload's root is made.
type Root struct {
	Writable     bool   `json:"writable,omitempty"`
	Capabilities []uint `json:"capabilities,omitempty"` // numbers of capability(7)
	Pids         int    `json:"pids,omitempty"`
	Hostname     string `json:"hostname,omitempty"`
	// Net is the guest's part of its network; nil without one.
	Net *Net `json:"net,omitempty"`
	// Disks are mounted beside the image's, in this order.
	Disks []Disk `json:"disks,omitempty"`
}

// Disk is an ext4 file system on a disk of the machine, or a directory of the node's.
type Disk struct {
	Serial   string `json:"serial"`
	Shared   bool   `json:"shared,omitempty"` // by virtiofs; Serial is its tag
	Path     string `json:"path"`             // in the workload
	ReadOnly bool   `json:"read_only,omitempty"`
	// Give makes its top the command's user's.
	Give bool `json:"give,omitempty"`
}

// Bounds of the secrets of one machine, in number and in bytes of all values.
const (
	MaxSecrets     = 64
	MaxSecretBytes = 1 << 20
)

// Net is an address and the way out.
type Net struct {
	Address   netip.Prefix `json:"address"`
	Gateway   netip.Addr   `json:"gateway"`
	Resolvers []netip.Addr `json:"resolvers,omitempty"`
	// Hosts are lines of hosts(5), added to the image's own.
	Hosts string `json:"hosts,omitempty"`
}

// Failure is why a command was not started.
type Failure struct {
	Reason string `json:"reason"`
	Advice string `json:"advice,omitempty"`
}

// Exit is how a run ended.
type Exit struct {
	Code   int  `json:"code"`
	Signal int  `json:"signal,omitempty"`
	OOM    bool `json:"oom,omitempty"`
}

// Memory is what the guest's kernel says of its memory, in bytes.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
	Processes int   `json:"processes"`
}

const headerSize = 9

// Reader reads frames.
type Reader struct {
	in  io.Reader
	buf []byte
}

// NewReader makes one.
func NewReader(in io.Reader) *Reader {
	return &Reader{in: in, buf: make([]byte, headerSize+MaxPayload)}
}

// Next is the next frame, or io.EOF between two.
func (r *Reader) Next() (Frame, error) {
	head := r.buf[:headerSize]
	if _, err := io.ReadFull(r.in, head); err != nil {
		return Frame{}, err
	}
	f := Frame{Type: Type(head[0]), Run: binary.BigEndian.Uint32(head[1:])}
	n := binary.BigEndian.Uint32(head[5:])
	if f.Type == 0 || f.Type >= lastType {
		return Frame{}, fmt.Errorf("wire: a frame of unknown type %d", f.Type)
	}
	if n > MaxPayload {
		return Frame{}, fmt.Errorf("wire: a frame of %d bytes, at most %d are taken", n, MaxPayload)
	}
	f.Payload = r.buf[headerSize : headerSize+n]
	if _, err := io.ReadFull(r.in, f.Payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return f, nil
}

// Writer writes frames; any number of goroutines may.
type Writer struct {
	mu  sync.Mutex
	out io.Writer // guarded by mu
	buf []byte    // guarded by mu
}

// NewWriter makes one.
func NewWriter(out io.Writer) *Writer { return &Writer{out: out} }

// Send writes one frame in one piece.
func (w *Writer) Send(t Type, run uint32, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("wire: a payload of %d bytes, at most %d are sent", len(payload), MaxPayload)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], byte(t))
	w.buf = binary.BigEndian.AppendUint32(w.buf, run)
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(payload)))
	w.buf = append(w.buf, payload...)
	_, err := w.out.Write(w.buf)
	return err
}

// SendJSON sends words that fit one frame.
func (w *Writer) SendJSON(t Type, run uint32, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.Send(t, run, data)
}

// SendCommand starts a run.
func (w *Writer) SendCommand(run uint32, c Command) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if len(data) > MaxJSON {
		return fmt.Errorf("wire: a command of %d bytes, at most %d are taken", len(data), MaxJSON)
	}
	for len(data) > 0 {
		n := min(len(data), MaxPayload)
		if err := w.Send(Start, run, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return w.Send(Begin, run, nil)
}

// SendCredit says that so many bytes of a run's stream were taken.
func (w *Writer) SendCredit(run uint32, n int) error {
	return w.Send(Credit, run, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// Decode reads words; it takes no more than one frame.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("wire: frame of type %d: %w", f.Type, err)
	}
	return nil
}

// Number reads a Credit, a Signal or a Clock.
func (f Frame) Number() (uint64, error) {
	switch len(f.Payload) {
	case 1:
		return uint64(f.Payload[0]), nil
	case 4:
		return uint64(binary.BigEndian.Uint32(f.Payload)), nil
	case 8:
		return binary.BigEndian.Uint64(f.Payload), nil
	}
	return 0, fmt.Errorf("wire: a number of %d octets", len(f.Payload))
}

// Size reads a Resize: columns, rows.
func (f Frame) Size() (columns, rows uint16, err error) {
	if len(f.Payload) != 4 {
		return 0, 0, fmt.Errorf("wire: a size of %d octets", len(f.Payload))
	}
	return binary.BigEndian.Uint16(f.Payload), binary.BigEndian.Uint16(f.Payload[2:]), nil
}

// AppendSize is the payload of a Resize.
func AppendSize(columns, rows int) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(columns))
	return binary.BigEndian.AppendUint16(b, uint16(rows))
}

// SendSecret hands a value over under its name, in as many frames as it takes.
func (w *Writer) SendSecret(name string, value []byte) error {
	if name == "" || len(name) > 255 {
		return fmt.Errorf("wire: a secret's name of %d bytes", len(name))
	}
	for first := true; first || len(value) > 0; first = false {
		n := min(len(value), MaxPayload-1-len(name))
		part := append(append([]byte{byte(len(name))}, name...), value[:n]...)
		if err := w.Send(Secret, 0, part); err != nil {
			return err
		}
		value = value[n:]
	}
	return nil
}

// Secret reads a part of one.
func (f Frame) Secret() (name string, part []byte, err error) {
	if len(f.Payload) < 2 || f.Payload[0] == 0 || len(f.Payload) < 1+int(f.Payload[0]) {
		return "", nil, fmt.Errorf("wire: a secret of %d octets", len(f.Payload))
	}
	n := 1 + int(f.Payload[0])
	return string(f.Payload[1:n]), f.Payload[n:], nil
}

// AppendPort is the payload of a Dial.
func AppendPort(port int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(port)) }

// Port reads a Dial.
func (f Frame) Port() (int, error) {
	if len(f.Payload) != 2 {
		return 0, fmt.Errorf("wire: a port of %d octets", len(f.Payload))
	}
	return int(binary.BigEndian.Uint16(f.Payload)), nil
}

// Error makes a Failure one.
func (f *Failure) Error() string { return f.Reason }
