package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// deadline is a context that ends by its own time, told apart from the caller
// having gone.
type deadline struct {
	ctx    context.Context
	parent context.Context
	stop   context.CancelFunc
}

func newDeadline(parent context.Context, after time.Duration) deadline {
	ctx, cancel := context.WithTimeoutCause(parent, after, errEnough)
	return deadline{ctx, parent, cancel}
}

func (d deadline) passed() bool {
	return d.parent.Err() == nil && errors.Is(context.Cause(d.ctx), errEnough)
}

// readBody reads a bounded body; it is here that a waiting client is told to
// send it.
func (c *call) readBody(most int64) ([]byte, error) {
	if c.r.ContentLength > most {
		return nil, &http.MaxBytesError{Limit: most}
	}
	size := max(c.r.ContentLength, 512)
	buf := make([]byte, 0, min(size, 64<<10)+1)
	r := http.MaxBytesReader(c.w, c.r.Body, most)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			var tooBig *http.MaxBytesError
			if errors.As(err, &tooBig) {
				return nil, err
			}
			return nil, &InputError{Code: CodeBody, Message: "the body ended before its end", Help: "send it again, whole"}
		}
	}
}

func marshal(v any) ([]byte, error) { return json.Marshal(v) }

// shortError is the JSON decoder's message without its package's name.
func shortError(err error) string {
	s := strings.TrimPrefix(err.Error(), "json: ")
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}

// lingerTime is how long a refused connection stays half open, so that its
// refusal is read before the reset that unread bytes cause.
const lingerTime = 500 * time.Millisecond

// refuseUnread answers without reading a byte of the body. On HTTP/1.1 it takes
// the connection over: net/http would otherwise read on, to use the connection
// again. Whatever was pushed at us stays in the socket's buffers and goes with
// the connection.
func refuseUnread(w http.ResponseWriter, r *http.Request, p *Problem) {
	if r.ContentLength == 0 || r.ProtoMajor != 1 {
		if r.ProtoMajor == 1 { // HTTP/2 and 3 know no such header: the answer would not be read
			w.Header().Set("Connection", "close")
		}
		writeProblem(w, p)
		return
	}
	body, err := json.Marshal(p)
	if err != nil {
		body = nil
	}
	h := w.Header().Clone()
	problemHeaders(h, p)
	h.Set("Connection", "close")
	h.Set("Content-Length", fmt.Sprint(len(body)))
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.Header().Set("Connection", "close")
		writeProblem(w, p)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return
	}
	writeRaw(buffered.Writer, p.Status, h, body)
	linger(r.Context(), conn)
}

func writeRaw(w *bufio.Writer, status int, h http.Header, body []byte) {
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = h.Write(w) // a failed write shows at Flush, and nobody reads it then
	_, _ = w.WriteString("\r\n")
	_, _ = w.Write(body)
	_ = w.Flush()
}

// linger says that nothing more comes, and gives the client a moment to read.
func linger(ctx context.Context, conn net.Conn) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	t := time.NewTimer(lingerTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
