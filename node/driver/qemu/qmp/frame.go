package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// message is any object that QEMU sends: a greeting, a reply or an event.
type message struct {
	QMP       *hello          `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	ID        uint64          `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

type hello struct {
	Version struct {
		QEMU struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
		Package string `json:"package"`
	} `json:"version"`
	Capabilities []string `json:"capabilities"`
}

// readFrame reads one line, without its end, of at most so many bytes. What is
// returned is the caller's. Lines that are empty are skipped.
func readFrame(in *bufio.Reader, most int) ([]byte, error) {
	var frame []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(frame)+len(part) > most {
			return nil, fmt.Errorf("an object of more than %d bytes", most)
		}
		frame = append(frame, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return nil, err
		default:
			if frame = bytes.TrimRight(frame, "\r\n"); len(frame) > 0 {
				return frame, nil
			}
			frame = nil
		}
	}
}

// parse reads one object and says which kind it is by which fields it has.
func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("not an object of the protocol: %w", err)
	}
	kinds := 0
	for _, is := range []bool{m.QMP != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return m, errors.New("an object that is not one of greeting, reply, refusal and event")
	}
	return m, nil
}

// readGreeting reads the first object.
func readGreeting(in *bufio.Reader) (Greeting, error) {
	line, err := readFrame(in, 64<<10)
	if err != nil {
		return Greeting{}, fmt.Errorf("read the greeting: %w", err)
	}
	m, err := parse(line)
	if err == nil && m.QMP == nil {
		err = errors.New("the first object is no greeting; is this a QMP socket?")
	}
	if err != nil {
		return Greeting{}, err
	}
	v := m.QMP.Version
	return Greeting{v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package, m.QMP.Capabilities}, nil
}
