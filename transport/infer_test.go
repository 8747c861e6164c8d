package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sovmesh/sovmesh/transport/identity"
	"pgregory.net/rapid"
)

func head() Head {
	return Head{RequestID: "r1", Tenant: "fr/acme", Tag: "EEA,CH", LawPack: strings.Repeat("a", 64), Model: "m",
		Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json"}
}

func prompt() Cargo { return Cargo{Kind: CargoInference, Policy: anyPolicy()} }

func infer(m *testMesh, h InferHandler) (a, b *testNode) {
	a, b = m.node("fr", "n1", "10.0.0.1:7000"), m.node("de", "n1", "10.0.0.2:7000")
	if h != nil {
		b.ServeInfer(h)
	}
	return a, b
}

func TestInferWholeAnswer(t *testing.T) {
	inBubble(t, 1232, func(t *testing.T, m *testMesh) {
		body := strings.Repeat("prompt ", 50000)
		a, b := infer(m, func(ctx context.Context, s *Stream) {
			got, err := io.ReadAll(s.Body())
			if err != nil || string(got) != body {
				t.Errorf("body of %d bytes, %v", len(got), err)
			}
			if id, ok := PeerFrom(ctx); !ok || id != s.Peer || id.Region != "fr" {
				t.Errorf("peer %s %v", id, ok)
			}
			_ = s.Answer(Answer{Status: 200, ContentType: "text/event-stream", Size: -1, Region: "de"})
			for range 20 {
				_, _ = io.WriteString(s, "token ")
				time.Sleep(40 * time.Millisecond)
			}
			_ = s.Close()
		})
		s, err := a.OpenInfer(ctxFor(t, time.Minute), b.peer(), prompt(), head(), []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.Answer.Status != 200 || s.Answer.Region != "de" || s.Peer != b.id {
			t.Errorf("answer %+v of %s", s.Answer, s.Peer)
		}
		got, err := io.ReadAll(s)
		if err != nil || string(got) != strings.Repeat("token ", 20) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestInferRefusalComesBeforeTheBody(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := infer(m, nil)
		ask := func() *InferStream {
			s, err := a.OpenInfer(ctxFor(t, time.Minute), b.peer(), prompt(), head(), make([]byte, 10<<20))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return s
		}
		if s := ask(); s.Answer.Code != "not_ready" || s.Answer.RetryAfter != time.Second {
			t.Errorf("without a handler: %+v", s.Answer)
		}
		b.ServeInfer(func(_ context.Context, s *Stream) {
			_ = s.Refuse(Answer{Status: 403, Code: "residency_not_permitted", Message: "not here"})
		})
		s := ask()
		if s.Answer.Status != 403 || s.Answer.Code != "residency_not_permitted" {
			t.Errorf("got %+v", s.Answer)
		}
		if got, err := io.ReadAll(s); err != nil || len(got) != 0 {
			t.Errorf("a refusal has a body of %d bytes, %v", len(got), err)
		}
		if n := m.wan.packetsFrom(a.addr); n > 2000 {
			t.Errorf("%d packets for prompts that were refused unread", n)
		}
	})
}

// Reader, writer, node and network can all cut an answer; the client must see
// each as a cut and none as an end.
func TestInferCutIsNoEnd(t *testing.T) {
	cuts := map[string]func(m *testMesh, b *testNode, s *Stream){
		"handler cuts":          func(_ *testMesh, _ *testNode, s *Stream) { s.Cut() },
		"handler forgets Close": func(*testMesh, *testNode, *Stream) {},
		"handler panics":        func(*testMesh, *testNode, *Stream) { panic("on purpose") },
		"fewer bytes than said": func(_ *testMesh, _ *testNode, s *Stream) { _ = s.Close() },
		"connection closed":     func(_ *testMesh, b *testNode, s *Stream) { b.Drop(s.Peer) },
		"border silently cut":   func(m *testMesh, b *testNode, s *Stream) { m.wan.setCut(b.addr, true); time.Sleep(20 * time.Second) },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1500, func(t *testing.T, m *testMesh) {
				var node *testNode
				a, b := infer(m, func(_ context.Context, s *Stream) {
					_ = s.Answer(Answer{Status: 200, Size: 1000})
					_, _ = io.WriteString(s, "a part")
					time.Sleep(time.Second)
					cut(m, node, s)
				})
				node = b
				s, err := a.OpenInfer(ctxFor(t, time.Minute), b.peer(), prompt(), head(), []byte("hi"))
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				begin := time.Now()
				got, err := io.ReadAll(s)
				var broken *CutError
				if !errors.As(err, &broken) || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the cut shows as %v", err)
				}
				if took := time.Since(begin); took > 6*time.Second {
					t.Errorf("the cut showed after %s", took)
				}
				if string(got) != "a part" {
					t.Errorf("got %q before the cut", got)
				}
			})
		})
	}
}

func TestInferStreamingCut(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := infer(m, func(_ context.Context, s *Stream) {
			_ = s.Answer(Answer{Status: 200, Size: -1})
			_, _ = io.WriteString(s, "a part")
			time.Sleep(time.Second)
			s.Cut()
		})
		s, err := a.OpenInfer(ctxFor(t, time.Minute), b.peer(), prompt(), head(), []byte("hi"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got, err := io.ReadAll(s)
		var broken *CutError
		if !errors.As(err, &broken) || broken.Code != codeCut || string(got) != "a part" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestInferCancelReachesTheHandler(t *testing.T) {
	ways := map[string]func(cancel func(), s *InferStream){
		"context ends": func(cancel func(), _ *InferStream) { cancel() },
		"Close":        func(_ func(), s *InferStream) { _ = s.Close() },
	}
	for name, leave := range ways {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1500, func(t *testing.T, m *testMesh) {
				ended := make(chan time.Time, 1)
				a, b := infer(m, func(ctx context.Context, s *Stream) {
					_ = s.Answer(Answer{Status: 200, Size: -1})
					_, _ = io.WriteString(s, "first")
					<-ctx.Done()
					ended <- time.Now()
					if _, err := io.WriteString(s, "more"); err == nil {
						t.Error("writing to a client that left")
					}
				})
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				s, err := a.OpenInfer(ctx, b.peer(), prompt(), head(), []byte("hi"))
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				begin := time.Now()
				leave(cancel, s)
				if took := (<-ended).Sub(begin); took > 50*time.Millisecond {
					t.Errorf("the handler learned of it after %s", took)
				}
				var broken *CutError
				if _, err := io.ReadAll(s); !errors.As(err, &broken) {
					t.Errorf("the canceled answer ends with %v", err)
				}
			})
		})
	}
}

// A client that leaves before the answer's head must not leave the model at work.
func TestInferCancelBeforeTheAnswer(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		ended := make(chan struct{})
		a, b := infer(m, func(ctx context.Context, s *Stream) {
			<-ctx.Done()
			close(ended)
		})
		begin := time.Now()
		_, err := a.OpenInfer(ctxFor(t, 300*time.Millisecond), b.peer(), prompt(), head(), []byte("hi"))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 310*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		within(t, time.Second, "the handler to be told", func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
	})
}

// The request can be cut as well: a part of a prompt is no prompt.
func TestInferCutRequestIsSeen(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		seen := make(chan error, 4)
		a, b := infer(m, func(_ context.Context, s *Stream) {
			_, err := io.ReadAll(s.Body())
			seen <- err
		})
		h := head()
		h.BodySize = 100
		message, err := MarshalHead(h)
		if err != nil {
			t.Fatal(err)
		}
		send := func(end func(*quic.Stream), body string) error {
			ctx := ctxFor(t, 5*time.Second)
			d, _, err := a.connect(ctx, poolKey{class: identity.ClassInfer, addr: b.peer().Addr, id: b.peer().ID})
			if err != nil {
				t.Fatal(err)
			}
			s, err := d.conn.OpenStreamSync(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Write(append(message, body...))
			time.Sleep(100 * time.Millisecond)
			end(s)
			return <-seen
		}
		finish := func(s *quic.Stream) { _ = s.Close() }
		reset := func(s *quic.Stream) { s.CancelWrite(codeCut) }
		var broken *CutError
		if err := send(finish, "short"); !errors.As(err, &broken) {
			t.Errorf("a short body: %v", err)
		}
		if err := send(finish, strings.Repeat("x", 101)); !errors.As(err, &broken) {
			t.Errorf("a long body: %v", err)
		}
		if err := send(reset, strings.Repeat("x", 100)); !errors.As(err, &broken) {
			t.Errorf("a body without its FIN: %v", err)
		}
		if err := send(finish, strings.Repeat("x", 100)); err != nil {
			t.Errorf("a whole body: %v", err)
		}
	})
}

func TestInferStaleConnectionIsReplaced(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		serve := func(n *testNode) {
			n.ServeInfer(func(_ context.Context, s *Stream) {
				_, _ = io.Copy(io.Discard, s.Body())
				_ = s.Answer(Answer{Status: 200, Size: 2})
				_, _ = io.WriteString(s, "ok")
				_ = s.Close()
			})
		}
		a, b := infer(m, nil)
		serve(b)
		ask := func() error {
			s, err := a.OpenInfer(ctxFor(t, 10*time.Second), b.peer(), prompt(), head(), []byte("hi"))
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = io.ReadAll(s)
			return err
		}
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		b = m.restart(b, serve)
		begin := time.Now()
		if err := ask(); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

func TestInferGarbageHeads(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := infer(m, func(context.Context, *Stream) { t.Error("the handler was shown garbage") })
		good, err := MarshalHead(head())
		if err != nil {
			t.Fatal(err)
		}
		huge := binary.BigEndian.AppendUint32(nil, 1<<31)
		for _, junk := range []string{"\x00\x00\x00\x00", string(huge), string(good[:10]), "GET / HTTP/1.1\r\n\r\n",
			string(good[:4]) + "\x09" + string(good[5:])} {
			ctx := ctxFor(t, 10*time.Second)
			d, _, err := a.connect(ctx, poolKey{class: identity.ClassInfer, addr: b.peer().Addr, id: b.peer().ID})
			if err != nil {
				t.Fatal(err)
			}
			s, err := d.conn.OpenStreamSync(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Write([]byte(junk))
			if len(junk) < 30 {
				_ = s.Close()
			}
			if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
				t.Errorf("%q was answered: %d, %v", junk[:4], n, err)
			}
		}
	})
}

// A connection of the inference class that does not say hello is closed.
func TestInferNeedsItsHello(t *testing.T) {
	inBubble(t, 1500, func(t *testing.T, m *testMesh) {
		a, b := infer(m, nil)
		c, err := a.quic.Dial(ctxFor(t, time.Second), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(b.addr)),
			a.cfg.Verifier.ClientConfig(a.cfg.Credential, identity.ClassInfer, b.id), a.dialConfig(poolKey{class: identity.ClassInfer}))
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Context().Done():
		case <-time.After(helloTimeout + time.Second):
			t.Error("a silent connection stays")
		}
	})
}

func genHead(t *rapid.T) Head {
	word := func(label string) string {
		return rapid.StringMatching(`[ -~]{1,60}`).Draw(t, label)
	}
	h := Head{RequestID: word("id"), Tenant: word("tenant"), Tag: word("tag"), LawPack: word("pack"),
		Model: word("model"), Method: rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"),
		Path: "/v1/" + word("path"), ContentType: word("type"),
		Hops: rapid.Uint8Range(0, 3).Draw(t, "hops"), BodySize: rapid.Uint64Range(0, 1<<40).Draw(t, "size"),
		Accept: word("accept"), APIBeta: word("beta"), APIVersion: word("version")}
	if rapid.Bool().Draw(t, "deadline") {
		h.Deadline = time.UnixMilli(rapid.Int64Range(1, timeMax).Draw(t, "at")).UTC()
	}
	return h
}

func TestHeadRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := genHead(t)
		b, err := MarshalHead(h)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadHead(strings.NewReader(string(b) + "body"))
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Fatalf("%+v, %v; want %+v", got, err, h)
		}
	})
}

func TestHeadBounds(t *testing.T) {
	bad := map[string]func(*Head){
		"control character": func(h *Head) { h.Model = "m\r\nX-Evil: 1" },
		"long model":        func(h *Head) { h.Model = strings.Repeat("m", 257) },
		"long tag":          func(h *Head) { h.Tag = strings.Repeat("D", 48<<10+1) },
		"no tag":            func(h *Head) { h.Tag = "" },
		"no request id":     func(h *Head) { h.RequestID = "" },
		"a method of ours":  func(h *Head) { h.Method = "DELETE" },
		"another path":      func(h *Head) { h.Path = "/admin" },
		"a loop":            func(h *Head) { h.Hops = 4 },
		"a date beyond":     func(h *Head) { h.Deadline = time.UnixMilli(timeMax + 1) },
		"too large":         func(h *Head) { h.BodySize = 1 << 63 },
	}
	for name, spoil := range bad {
		h := head()
		spoil(&h)
		if _, err := MarshalHead(h); !errors.Is(err, ErrHead) {
			t.Errorf("%s: %v", name, err)
		}
	}
	answer := Answer{Status: 429, Code: "rate_limit_exceeded", Message: "slow down", RetryAfter: time.Minute, Size: 0,
		RequestID: "x", ReceiptID: "y", Region: "de", Hash: "h", ContentType: "application/json"}
	b, err := MarshalAnswer(answer)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadAnswer(strings.NewReader(string(b))); err != nil || got != answer {
		t.Errorf("%+v, %v", got, err)
	}
	for name, a := range map[string]Answer{"status": {Status: 100}, "refusal of 200": {Status: 200, Code: "x"},
		"size": {Status: 200, Size: -2}, "wait": {Status: 429, RetryAfter: -1}} {
		if _, err := MarshalAnswer(a); !errors.Is(err, ErrHead) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzInferHead(f *testing.F) {
	good, _ := MarshalHead(head())
	f.Add(good)
	answer, _ := MarshalAnswer(Answer{Status: 200, Size: -1, Region: "de"})
	f.Add(answer)
	f.Add([]byte{0, 0, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ReadHead(strings.NewReader(string(b))); err == nil {
			// What is accepted is written back as it came: one form only.
			again, err := MarshalHead(h)
			if err != nil || !strings.HasPrefix(string(b), string(again)) {
				t.Fatalf("read %q, wrote %q, %v", b, again, err)
			}
		}
		if a, err := ReadAnswer(strings.NewReader(string(b))); err == nil {
			again, err := MarshalAnswer(a)
			if err != nil || !strings.HasPrefix(string(b), string(again)) {
				t.Fatalf("read %q, wrote %q, %v", b, again, err)
			}
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte{packetMark, 1, 2, 3})
	f.Add([]byte{packetMark})
	f.Add([]byte{0xc0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		data, ok := ParsePacket(b)
		if ok && (b[0] != packetMark || len(data) == 0 || len(data) > PacketMax || string(data) != string(b[1:])) {
			t.Fatalf("%q gave %q", b, data)
		}
	})
}
