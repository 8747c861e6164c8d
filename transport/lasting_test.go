package transport

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What nobody reads keeps nothing from a peer but what is of the same kind and the
// same tenant's: not by a window, nor by the number of streams.
func TestWhatNobodyReadsStopsNothingElse(t *testing.T) {
	for _, unread := range []Lasting{LastingService, LastingSession, LastingMove} {
		inBubble(t, 1500, func(t *testing.T, m *testMesh) {
			a := m.node("fr", "n1", "10.0.0.1:7000")
			cfg := m.config("fr", "n2", "10.0.0.2:7000")
			cfg.StreamsMax = 8
			b := m.run(cfg)
			b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/unread" {
					_ = http.NewResponseController(w).EnableFullDuplex()
					for r.Context().Err() == nil {
						if _, err := w.Write(make([]byte, 64<<10)); err != nil {
							return
						}
					}
					return
				}
				_, _ = io.WriteString(w, strings.Repeat("word", 64<<10))
			}))
			ask := func(ctx context.Context, lasting Lasting, whose, path string) (*http.Response, error) {
				c := summary
				c.Lasting, c.Whose = lasting, whose
				return a.Do(ctx, b.peer(), c, request(t, "GET", path, nil))
			}
			for range cfg.StreamsMax {
				res, err := ask(t.Context(), unread, "one", "/unread")
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
			}
			time.Sleep(5 * time.Second) // of the bubble's time: every window is used up
			for _, other := range []struct {
				kind  Lasting
				whose string
			}{{"", ""}, {LastingService, "two"}, {LastingSession, "two"}, {LastingMove, "two"}} {
				res, err := ask(ctxFor(t, 10*time.Second), other.kind, other.whose, "/")
				if err != nil {
					t.Errorf("%s of %q beside unread %s: %v", other.kind, other.whose, unread, err)
					continue
				}
				if said, err := io.ReadAll(res.Body); err != nil || len(said) != 256<<10 {
					t.Errorf("%s of %q beside unread %s: %d bytes, %v", other.kind, other.whose, unread, len(said), err)
				}
				_ = res.Body.Close()
			}
		})
	}
}

// Those of the same tenant have room beside some that stand still.
func TestSomeUnreadAnswersLeaveTheirConnectionOpen(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, strings.NewReader(strings.Repeat("w", 1<<20)))
		}))
		c := summary
		c.Lasting, c.Whose = LastingSession, "one"
		for range lastingWindow/streamWindow*3/4 - 1 {
			res, err := a.Do(t.Context(), b.peer(), c, request(t, "GET", "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
		}
		time.Sleep(5 * time.Second) // of the bubble's time
		res, err := a.Do(ctxFor(t, 10*time.Second), b.peer(), c, request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if n, err := io.Copy(io.Discard, res.Body); err != nil || n != 1<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// However many tenants there are, a peer has few connections, and those that nobody
// uses go.
func TestConnectionsOfWhatLastsAreBounded(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := m.node("fr", "n1", "10.0.0.1:7000"), m.node("fr", "n2", "10.0.0.2:7000")
		b.ServeH3(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		open := func() int {
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.conns)
		}
		var bodies []io.Closer
		for i := range apartMax + 8 {
			c := summary
			c.Lasting, c.Whose = LastingService, fmt.Sprint(i)
			for range 2 {
				res, err := a.Do(t.Context(), b.peer(), c, request(t, "GET", "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				bodies = append(bodies, res.Body)
			}
		}
		if n := open(); n != apartMax+1 {
			t.Errorf("%d connections, want %d", n, apartMax+1)
		}
		for _, one := range bodies[1:] {
			_ = one.Close()
			_ = one.Close()
		}
		time.Sleep(apartIdle - time.Second)
		synctest.Wait()
		if n := open(); n != apartMax+1 {
			t.Errorf("%d connections before their time, want %d", n, apartMax+1)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := open(); n != 1 {
			t.Errorf("%d connections are left, want the one that is used", n)
		}
		_ = bodies[0].Close()
	})
}
