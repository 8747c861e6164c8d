//go:build linux

package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/output"
	"github.com/sovmesh/sovmesh/node/runner"
)

// A machine's output goes with it, so that it can be read from its beginning
// where it goes on: a line with the number of the first byte that is kept, then
// bytes.

// logTail sends a task's output.
type logTail struct {
	d    *Driver
	h    runner.Handle
	conn net.Conn
	at   int64 // sent up to there
}

const logPatience = 30 * time.Second

func (d *Driver) beginLog(ctx context.Context, h runner.Handle, to runner.Streams, p *pipes) (*logTail, error) {
	c, err := to.Open(ctx, streamLog)
	if err != nil {
		return nil, err
	}
	p.holds(c)
	t := &logTail{d: d, h: h, conn: c}
	all, err := output.Files(d.TaskDir(h.Task))
	if err != nil {
		return nil, err
	}
	if len(all) > 0 {
		t.at = all[0]
	}
	defer cutAfter(ctx, c.SetWriteDeadline, logPatience)()
	if _, err := fmt.Fprintf(c, "%d\n", t.at); err != nil {
		return nil, fmt.Errorf("send its output: %w", err)
	}
	return t, t.send(ctx)
}

// send brings the other side up to date.
func (t *logTail) send(ctx context.Context) error {
	r, err := t.d.Logs(ctx, t.h, t.at, false)
	if err != nil {
		return err
	}
	defer r.Close()
	defer cutAfter(ctx, t.conn.SetWriteDeadline, logPatience)()
	n, err := io.Copy(t.conn, r)
	t.at += n
	if err != nil {
		return fmt.Errorf("send its output: %w", err)
	}
	return nil
}

// What the guest printed before it stood counts as whole when so many looks,
// quietEvery apart, found no more. Its supervisor, which does not say what it has
// read, may still be about to write it; the guest stands meanwhile.
const (
	quietLooks = 3
	quietEvery = 15 * time.Millisecond
)

// rest sends what the guest printed before it stood.
func (t *logTail) rest(ctx context.Context) error {
	for quiet := 0; quiet < quietLooks; quiet++ {
		before := t.at
		if pause(ctx, quietEvery); ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.send(ctx); err != nil {
			return err
		}
		if t.at != before {
			quiet = -1
		}
	}
	return nil
}

// logTaker keeps a task's output that comes from elsewhere.
type logTaker struct {
	reached chan int64 // how much is there, after each piece; the newest alone
	done    chan error
}

func newLogTaker() *logTaker {
	return &logTaker{reached: make(chan int64, 1), done: make(chan error, 1)}
}

// run takes until the stream ends.
func (t *logTaker) run(c net.Conn, w *output.Writer) {
	err := t.take(c, w)
	t.done <- errors.Join(err, w.Close())
}

func (t *logTaker) take(c net.Conn, w *output.Writer) error {
	in := bufio.NewReaderSize(c, 32<<10)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	at, err := strconv.ParseUint(strings.TrimSuffix(string(line), "\n"), 10, 62)
	if err != nil {
		return fmt.Errorf("the output begins at %.40q", line)
	}
	w.Begin(int64(at))
	buf := make([]byte, 32<<10)
	for {
		select {
		case <-t.reached:
		default:
		}
		t.reached <- int64(at)
		n, err := in.Read(buf)
		_, _ = w.Write(buf[:n])
		at += uint64(n)
		if err != nil {
			return err
		}
	}
}

// until waits until so much is there.
func (t *logTaker) until(ctx context.Context, at int64) error {
	for {
		select {
		case have := <-t.reached:
			if have == at {
				return nil
			}
			if have > at {
				return fmt.Errorf("%d bytes of its output came, and there are %d", have, at)
			}
		case err := <-t.done:
			select {
			case have := <-t.reached: // all of it, and then the end
				if have == at {
					return nil
				}
			default:
			}
			return errors.Join(errors.New("its output did not come whole"), err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
