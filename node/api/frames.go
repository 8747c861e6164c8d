package api

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// MediaFrames is the type of a body that is a row of frames, in both directions
// at once: a byte for the kind, three for the length of the payload, big-endian,
// and the payload. A request begins with a head; an answer ends with an end, and
// one that does not was cut off.
const MediaFrames = "application/vnd.sovmesh.frames"

type frameKind byte

// The kinds of frames. Their numbers are the wire.
const (
	frameHead   frameKind = 1 // ReachHead as JSON, first, to the task
	frameIn     frameKind = 2 // bytes to the task
	frameInEnd  frameKind = 3 // nothing more comes; no payload
	frameResize frameKind = 4 // TermSize as JSON
	frameOut    frameKind = 5 // bytes from the task
	frameErr    frameKind = 6 // bytes from a command's standard error
	frameEnd    frameKind = 7 // ReachEnd as JSON, last, from the task
)

// maxFrame bounds a payload: a reader holds no more of what another side sends.
const maxFrame = 64 << 10

// ErrCutOff is how a session ends that lost its way: what became of the task is
// not known by it.
var ErrCutOff = errors.New("the connection broke off before the end was told")

// frameReader reads frames; the payload is valid until the next call.
type frameReader struct {
	r    io.Reader
	head [4]byte
	buf  []byte
}

// next is the next frame; io.EOF between two frames is a clean end.
func (f *frameReader) next() (frameKind, []byte, error) {
	if _, err := io.ReadFull(f.r, f.head[:]); err != nil {
		return 0, nil, err
	}
	kind, n := frameKind(f.head[0]), int(binary.BigEndian.Uint32(f.head[:])&0xffffff)
	if kind < frameHead || kind > frameEnd || n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of kind %d with %d bytes is none of this protocol", kind, n)
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	if _, err := io.ReadFull(f.r, f.buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, f.buf[:n], nil
}

// frameWriter writes frames whole, from several goroutines.
type frameWriter struct {
	mu    sync.Mutex // held around a frame
	w     io.Writer
	flush func()
}

func (f *frameWriter) write(kind frameKind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		part := payload[:min(len(payload), maxFrame)]
		if err := writeFrame(f.w, kind, part); err != nil {
			return err
		}
		if payload = payload[len(part):]; len(payload) == 0 {
			break
		}
	}
	if f.flush != nil {
		f.flush()
	}
	return nil
}

func writeFrame(w io.Writer, kind frameKind, payload []byte) error {
	frame := make([]byte, 4+len(payload))
	binary.BigEndian.PutUint32(frame, uint32(len(payload)))
	frame[0] = byte(kind)
	copy(frame[4:], payload)
	_, err := w.Write(frame)
	return err
}

func (f *frameWriter) json(kind frameKind, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	if len(data) > maxFrame {
		return fmt.Errorf("write a frame: %d bytes are more than it holds", len(data))
	}
	return f.write(kind, data)
}

// as is a writer whose bytes go out as frames of one kind.
func (f *frameWriter) as(kind frameKind) io.Writer { return kindWriter{f, kind} }

type kindWriter struct {
	f    *frameWriter
	kind frameKind
}

func (k kindWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := k.f.write(k.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// answerFrames begins an answer of frames, while the request's body still comes.
func (c *call) answerFrames() *frameWriter {
	out := http.NewResponseController(c.w)
	_ = out.EnableFullDuplex() // HTTP/1 asks for it; where it is not known it is so anyway
	h := c.w.Header()
	h.Set("Content-Type", MediaFrames)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	if c.r.ProtoMajor == 1 {
		h.Set("Connection", "close") // what the client still sends is not drained
	}
	c.w.WriteHeader(http.StatusOK)
	_ = out.Flush() // an error shows at the next write
	return &frameWriter{w: c.w, flush: func() { _ = out.Flush() }}
}
