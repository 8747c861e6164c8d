package gossip

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// The attackers of these tests are nodes of the region: they have its keyring and
// a certificate of their own. Whoever has neither gets nowhere; see TestKeyring.

// few is a small crowd that has formed, and what its first node logged.
func few(t *testing.T, r *region, n int) (*crowd, *logged) {
	t.Helper()
	r.ttl = 24 * time.Hour
	c := newCrowd(r, n)
	lines := &logged{}
	c.nodes[0].cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
	stop := c.run()
	t.Cleanup(stop)
	within(t, time.Minute, "everybody to see everybody", c.formed)
	for _, m := range c.nodes {
		if err := m.Publish(payload("fr", m.name, 1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	within(t, time.Minute, "everybody to hold everything", func() bool {
		for _, m := range c.nodes {
			if len(m.Records()) != n {
				return false
			}
		}
		return true
	})
	return c, lines
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), word)
}

// speak makes a member tell the pool of a packed statement that Publish would not
// have made, and give it to those who ask.
func (m *member) speak(version uint64, statement string, packed []byte) {
	meta := MetaOf(version, statement)
	m.mu.Lock()
	m.meta = meta
	m.records[m.name] = Record{Node: m.name, Version: version, packed: packed, hash: meta.Hash}
	m.mu.Unlock()
	for i, b := range split(kindPiece, m.name, meta.Hash, packed) {
		m.broadcast(pieceName(meta.Hash, i), b)
	}
	m.announce()
}

// forge is a statement of the payload with one bit of it changed after signing.
func forge(t *testing.T, cred *identity.Credential, payload []byte) string {
	t.Helper()
	statement, err := identity.Sign(cred, RecordContext, payload, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	word, text, _ := strings.Cut(statement, ".")
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte(`"version":`))
	raw[at+len(`"version":`)]++
	return word + "." + base64.RawURLEncoding.EncodeToString(raw)
}

func TestARecordThatDoesNotVerifyHarmsItsSignerOnly(t *testing.T) {
	for _, test := range []struct {
		name  string
		lie   func(t *testing.T, m *member) string
		claim bool
	}{
		{"a signature that is not its own", func(t *testing.T, m *member) string {
			return forge(t, m.cred.Current(), payload("fr", m.name, 2, 2))
		}, false},
		{"another node's name", func(t *testing.T, m *member) string {
			s, _ := identity.Sign(m.cred.Current(), RecordContext, payload("fr", "node-0000", 2, 2), time.Now())
			return s
		}, true},
		{"the record of another node", func(_ *testing.T, m *member) string {
			r, _ := m.Record("node-0002")
			return r.Statement()
		}, true},
		{"a date in the future", func(t *testing.T, m *member) string {
			s, _ := identity.Sign(m.cred.Current(), RecordContext, payload("fr", m.name, 2, 2), time.Now().Add(time.Hour))
			return s
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *region) {
				c, lines := few(t, r, 5)
				liar, witness := c.nodes[4], c.nodes[0]
				before, ids := witness.Stats(), len(witness.Records())
				statement := test.lie(t, liar)
				packed, err := pack(statement)
				if err != nil {
					t.Fatal(err)
				}
				liar.speak(2, statement, packed)
				time.Sleep(20 * time.Second)
				rec, _ := witness.Record(liar.name)
				if rec.Version != 1 || len(witness.Records()) != ids {
					t.Errorf("the lie is held: %+v", rec)
				}
				if own, _ := witness.Record("node-0002"); own.Node != "node-0002" || own.Version != 1 {
					t.Errorf("another node's record became %+v", own)
				}
				after := witness.Stats()
				if after.RecordsRefused != before.RecordsRefused+1 || (after.ClaimsRefused > before.ClaimsRefused) != test.claim {
					t.Errorf("counted %+v after %+v", after, before)
				}
				if got := lines.count("was refused"); got != 1 {
					t.Errorf("the operator reads of it %d times, want once", got)
				}
				if m, _ := witness.Member(liar.name); !m.Behind {
					t.Error("nothing shows that the liar's record is not held")
				}
				// Neither the others nor the liar, once it tells the truth, are in its way.
				if err := c.nodes[2].Publish(payload("fr", "node-0002", 2, 2)); err != nil {
					t.Fatal(err)
				}
				if err := liar.Publish(payload("fr", liar.name, 3, 2)); err != nil {
					t.Fatal(err)
				}
				within(t, newsMax, "what is true everywhere", func() bool { return c.hold("node-0002", 2) == 5 && c.hold(liar.name, 3) == 5 })
			})
		})
	}
}

// An older record is not taken again, whoever sends it, asked or not.
func TestAnOldRecordIsNotReplayed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		c, _ := few(t, r, 5)
		victim, witness := c.nodes[3], c.nodes[0]
		old, _ := witness.Record(victim.name)
		time.Sleep(time.Second)
		if err := victim.Publish(payload("fr", victim.name, 2, 2)); err != nil {
			t.Fatal(err)
		}
		within(t, newsMax, "version 2 everywhere", func() bool { return c.hold(victim.name, 2) == 5 })
		time.Sleep(10 * time.Second)
		before := witness.Stats().Records
		// A forged alive message says that the old record is the victim's newest.
		witness.see(victim.name, false, func(m *Member) { witness.speaksLocked(m, Meta{1, old.hash}) })
		for _, b := range split(kindPiece, victim.name, old.hash, old.packed) {
			witness.message(b)
		}
		if rec, _ := witness.Record(victim.name); rec.Version != 2 || witness.Stats().Records != before {
			t.Errorf("version %d is held after the replay", rec.Version)
		}
	})
}

// A version that no later one exceeds stands in nobody's way.
func TestAVersionFromTheFarFutureBlocksNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		c, _ := few(t, r, 5)
		m := c.nodes[3]
		if err := m.Publish(payload("fr", m.name, math.MaxUint64, 2)); err != nil {
			t.Fatal(err)
		}
		within(t, newsMax, "the odd version everywhere", func() bool { return c.hold(m.name, math.MaxUint64) == 5 })
		time.Sleep(2 * time.Second)
		if err := m.Publish(payload("fr", m.name, 7, 2)); err != nil {
			t.Fatal(err)
		}
		within(t, newsMax, "version 7 everywhere", func() bool { return c.hold(m.name, 7) == 5 })
	})
}

// What would grow without end when it is unpacked is never a record.
func TestAnOversizeRecordIsNotTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		c, _ := few(t, r, 5)
		liar, witness := c.nodes[4], c.nodes[0]
		statement, err := identity.Sign(liar.cred.Current(), RecordContext, append(payload("fr", liar.name, 2, 0), bytes.Repeat([]byte(" "), 200<<10)...), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		word, text, _ := strings.Cut(statement, ".")
		raw, _ := base64.RawURLEncoding.DecodeString(text)
		packed := bytes.NewBuffer(append([]byte{byte(len(word))}, word...))
		w, _ := flate.NewWriter(packed, flate.BestCompression)
		_, _ = w.Write(raw)
		_ = w.Close()
		before := witness.Stats()
		liar.speak(2, statement, packed.Bytes())
		time.Sleep(20 * time.Second)
		after := witness.Stats()
		if rec, _ := witness.Record(liar.name); rec.Version != 1 || after.Records != before.Records {
			t.Errorf("version %d is held: %d bytes of %d", rec.Version, len(statement), RecordMax)
		}
		if after.Garbage == before.Garbage {
			t.Error("it was not counted")
		}
	})
}

// Pieces that no member speaks of are neither kept nor passed on.
func TestAFloodOfPiecesIsNotPassedOn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		c, _ := few(t, r, 5)
		time.Sleep(30 * time.Second)
		witness := c.nodes[0]
		for i := range 20_000 {
			name := placement.NodeID(fmt.Sprintf("node-%04d", i%10))
			for _, b := range split(kindPiece, name, [8]byte{byte(i), byte(i >> 8), 1}, bytes.Repeat([]byte{byte(i)}, 2*pieceSize)) {
				witness.message(b)
			}
		}
		witness.mu.Lock()
		kept := len(witness.late)
		witness.mu.Unlock()
		if queued := witness.Stats().Queued; kept != 0 || queued != 0 {
			t.Errorf("of 20,000 records that nobody speaks of %d are kept and %d pieces passed on", kept, queued)
		}
	})
}

// A node that changes its record without pause makes the others send hardly
// anything, and verify one record a second at most.
func TestARecordThatNeverRestsCostsLittle(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		c, _ := few(t, r, 12)
		time.Sleep(30 * time.Second)
		flood := c.nodes[11]
		before, checked := c.sent(), c.nodes[5].Stats().Records
		const seconds = 20
		for i := range uint64(seconds * 10) {
			if err := flood.Publish(payload("fr", flood.name, 2+i, 8)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		after := c.sent()
		if got := c.nodes[5].Stats().Records - checked; got > seconds {
			t.Errorf("%d records were verified in %d s", got, seconds)
		}
		for i, m := range c.nodes[:11] {
			if rate := (after[i] - before[i]) / seconds; rate > quietMax {
				t.Errorf("%s sent %d B/s because another never rests", m.name, rate)
			}
		}
		within(t, newsMax, "the last of them everywhere", func() bool { return c.hold(flood.name, 1+seconds*10) == 12 })
	})
}

// Who asks again and again, or in another's name, gets no more than the rate.
func TestAFloodOfQuestionsIsAnsweredAtARate(t *testing.T) {
	inBubble(t, func(t *testing.T, r *region) {
		c, _ := few(t, r, 5)
		time.Sleep(30 * time.Second)
		asked := c.nodes[0]
		var wants []want
		for _, rec := range asked.Records() {
			wants = append(wants, want{rec.Node, rec.hash})
		}
		before := asked.layer.sent.Load()
		const seconds = 10
		for range seconds * 100 {
			asked.message(appendWants(nil, "node-0003", wants))
			asked.message(appendWants(nil, "nobody-here", wants))
			time.Sleep(10 * time.Millisecond)
		}
		if sent := asked.layer.sent.Load() - before; sent > (seconds+2)*answerRate*5/4 {
			t.Errorf("%d bytes were sent in %d s to one who asks without end, the rate is %d", sent, seconds, answerRate)
		}
	})
}
