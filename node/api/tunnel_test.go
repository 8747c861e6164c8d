package api

import (
	"bytes"
	"errors"
	"net"
	"testing"
)

// What a caller says to a service is whole only if it told the end of it: a body that
// merely ends is a caller that broke off.
func TestACallersEndHasToBeTold(t *testing.T) {
	for name, told := range map[string]bool{"told": true, "untold": false} {
		var body bytes.Buffer
		out := &frameWriter{w: &body}
		err := out.write(frameIn, []byte("half a request"))
		if told {
			err = errors.Join(err, out.write(frameInEnd, nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		near, service := net.Pipe()
		go func() { _, _ = service.Read(make([]byte, 100)) }()
		in := tunnelIn{frames: &frameReader{r: &body}, conn: near, broken: make(chan struct{})}
		if err := in.run(); (err == nil) != told || !told && !errors.Is(err, ErrCutOff) {
			t.Errorf("%s: %v", name, err)
		}
		_, _ = near.Close(), service.Close()
	}
}
