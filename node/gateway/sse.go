package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// eventMax bounds one event of a stream, in bytes. A token has a few hundred.
const eventMax = 8 << 20

// errEventTooLong ends a stream whose event does not end.
var errEventTooLong = fmt.Errorf("an event of the model server is longer than %d bytes", eventMax)

// events cuts a byte stream into the events of a text/event-stream
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). An event
// ends with an empty line; lines end with LF, CR LF or CR. An event is given
// back byte for byte, its empty line included; the rest is kept.
type events struct {
	buf     []byte
	scanned int  // of buf: no event ends before it
	line    bool // the line at scanned has bytes
}

func newEvents() *events { return &events{} }

// add appends what was read.
func (e *events) add(p []byte) error {
	if len(e.buf)+len(p) > 2*eventMax {
		return errEventTooLong
	}
	e.buf = append(e.buf, p...)
	return nil
}

// next gives the next whole event, or nil. The slice is valid until add.
func (e *events) next() []byte {
	for i := e.scanned; i < len(e.buf); i++ {
		c := e.buf[i]
		if c != '\n' && c != '\r' {
			e.line = true
			continue
		}
		if c == '\r' && i+1 == len(e.buf) {
			// Its LF may still come: an event that ends here is given with the next bytes.
			e.scanned = i
			return nil
		}
		if c == '\r' && e.buf[i+1] == '\n' {
			i++
		}
		if !e.line {
			event := e.buf[:i+1]
			e.buf, e.scanned = e.buf[i+1:], 0
			return event
		}
		e.line = false
	}
	e.scanned = len(e.buf)
	return nil
}

// last gives the event that the end of the stream ends, or nil: a CR at the very
// end waits in vain for its LF.
func (e *events) last() []byte {
	if n := len(e.buf); n == 0 || e.buf[n-1] != '\r' {
		return nil
	}
	e.buf = append(e.buf, '\n')
	return e.next()
}

// overlong reports whether the unfinished event is past its bound.
func (e *events) overlong() bool { return len(e.buf) > eventMax }

// data joins the data lines of an event.
func data(event []byte) []byte {
	var out []byte
	several := false
	for len(event) > 0 {
		n := bytes.IndexAny(event, "\r\n")
		line := event
		if n >= 0 {
			line, event = event[:n], event[n+1:]
		} else {
			event = nil
		}
		value, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		value = bytes.TrimPrefix(value, []byte(" "))
		if several {
			out = append(append(bytes.Clone(out), '\n'), value...)
			continue
		}
		out, several = value, true
	}
	return out
}

// meaning is what the gateway has to know of an event.
type meaning struct {
	done  bool   // data: [DONE]
	fault bool   // data: {"error": ...}
	usage *Usage // the count of tokens, where the event has one
	bare  bool   // it has a usage and no choice: it came because of include_usage
}

// chunk is the part of a stream's chunk, or of a whole answer, that is counted.
type chunk struct {
	Error   json.RawMessage    `json:"error"`
	Usage   *wireUsage         `json:"usage"`
	Choices *[]json.RawMessage `json:"choices"`
}

// wireUsage is OpenAI's usage object.
type wireUsage struct {
	Prompt     int64 `json:"prompt_tokens"`
	Completion int64 `json:"completion_tokens"`
}

func (u *wireUsage) usage() *Usage {
	if u == nil {
		return nil
	}
	return &Usage{PromptTokens: max(u.Prompt, 0), CompletionTokens: max(u.Completion, 0)}
}

// read understands an event. One that is not JSON means nothing to the gateway
// and passes as it is.
func read(event []byte) meaning {
	d := data(event)
	if bytes.Equal(bytes.TrimSpace(d), []byte("[DONE]")) {
		return meaning{done: true}
	}
	// A chunk with neither word needs no decoding: that is nearly every token.
	if !bytes.Contains(d, []byte(`"usage"`)) && !bytes.Contains(d, []byte(`"error"`)) {
		return meaning{}
	}
	var c chunk
	var wrong *json.UnmarshalTypeError
	if err := json.Unmarshal(d, &c); errors.As(err, &wrong) {
		c.Usage = nil // not OpenAI's, so not to be counted
	} else if err != nil {
		return meaning{}
	}
	fault := len(c.Error) > 0 && string(c.Error) != "null"
	bare := c.Usage != nil && (c.Choices == nil || len(*c.Choices) == 0) && !fault
	return meaning{fault: fault, usage: c.Usage.usage(), bare: bare}
}
