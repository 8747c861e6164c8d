package gossip

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// noise is the text of a statement that does not get smaller.
func noise(t testing.TB, word string, raw int) string {
	t.Helper()
	b := make([]byte, raw)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return word + "." + base64.RawURLEncoding.EncodeToString(b)
}

func TestPackedStatementsComeBack(t *testing.T) {
	for _, want := range []string{noise(t, "sms1", 0), noise(t, "sms1", 1), noise(t, "", 900), noise(t, "sms1", 20_000), "sms1." + strings.Repeat("A", 24_000)} {
		packed, err := pack(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unpack(packed); err != nil || got != want {
			t.Fatalf("%.40s came back as %.40s: %v", want, got, err)
		}
	}
	like := payload("fr", "n1", 1, 8)
	packed, err := pack("sms1." + base64.RawURLEncoding.EncodeToString(like))
	if err != nil || len(packed) > len(like)/2 {
		t.Errorf("eight devices that are alike, %d bytes, take %d: %v", len(like), len(packed), err)
	}
	for _, bad := range []string{"", "no word", "sms1.?", "sms1." + strings.Repeat("A", RecordMax)} {
		if _, err := pack(bad); err == nil {
			t.Errorf("%.20q was packed", bad)
		}
	}
}

// A packed statement that would not end is cut off at the bound.
func TestUnpackIsBounded(t *testing.T) {
	var bomb bytes.Buffer
	bomb.WriteByte(0)
	w, _ := flate.NewWriter(&bomb, flate.BestCompression)
	_, _ = w.Write(make([]byte, 20<<20))
	_ = w.Close()
	if bomb.Len() > RecordMax {
		t.Fatalf("%d bytes are no test", bomb.Len())
	}
	allocated := testing.AllocsPerRun(1, func() {
		if _, err := unpack(bomb.Bytes()); err == nil {
			t.Error("20 MiB were unpacked")
		}
	})
	if allocated > 100 {
		t.Errorf("%.0f allocations", allocated)
	}
}

func TestPiecesFitAPacketAndItsMessages(t *testing.T) {
	node := placement.NodeID(strings.Repeat("n", 63))
	parts, err := Pieces(node, noise(t, "sms1", 20_000))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range parts {
		if len(b) > 930 { // of 1150, so that alive messages go with it
			t.Fatalf("a piece of %d bytes", len(b))
		}
		m, err := parseMessage(b)
		if err != nil || m.node != node || int(m.piece.index) != i || int(m.piece.count) != len(parts) {
			t.Fatalf("piece %d reads as %+v: %v", i, m, err)
		}
	}
	var wants []want
	for range wantsMax {
		wants = append(wants, want{node: node})
	}
	b := appendWants(nil, node, wants)
	if m, err := parseMessage(b); err != nil || len(b) > 1000 || !slices.Equal(m.wants, wants) {
		t.Errorf("wants of %d bytes: %v", len(b), err)
	}
	if _, err := parseMessage(appendWants(nil, node, append(wants, want{node: node}))); err == nil {
		t.Error("more wants than the bound were read")
	}
}

func FuzzMeta(f *testing.F) {
	f.Add(Meta{Inventory: 7, Hash: [8]byte{1}}.Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMeta(b)
		if err == nil && !bytes.Equal(m.Marshal(), b) {
			t.Fatalf("%x reads as %+v", b, m)
		}
		if len(b) >= 64 && err == nil {
			t.Fatal("a meta of 64 bytes")
		}
	})
}

// FuzzGossipRecord feeds what a peer with the keyring could send: messages,
// packed statements and payloads.
func FuzzGossipRecord(f *testing.F) {
	parts, _ := Pieces("n1", noise(f, "sms1", 700))
	f.Add(parts[0])
	f.Add(appendNotice(nil, "n1"))
	f.Add(appendWants(nil, "n1", []want{{node: "n2"}, {node: "n3", hash: [8]byte{1}}}))
	packed, _ := pack(noise(f, "sms1", 100))
	f.Add(packed)
	f.Add([]byte(`{"name":"n1","region":"fr","inventory":{"version":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseMessage(b); err == nil {
			if !placement.ValidName(string(m.node)) || len(m.piece.data) > pieceSize || len(m.wants) > wantsMax {
				t.Fatalf("%+v", m)
			}
			if m.kind == kindWant && !bytes.Equal(appendWants(nil, m.node, m.wants), b) {
				t.Fatalf("%x reads as %+v", b, m)
			}
		}
		if s, err := unpack(b); err == nil {
			if len(s) > RecordMax {
				t.Fatalf("%d bytes were unpacked", len(s))
			}
			again, err := pack(s)
			if err != nil && !strings.HasPrefix(err.Error(), "a signed record is a word") {
				t.Fatal(err)
			}
			if back, err2 := unpack(again); err == nil && (err2 != nil || back != s) {
				t.Fatalf("%q came back as %q: %v", s, back, err2)
			}
		}
		if c, err := readClaims(b, identity.ID{Region: "fr", Mesh: "mesh.test", Node: "n1"}); err == nil && (c.Name != "n1" || c.Region != "fr") {
			t.Fatalf("%+v", c)
		}
	})
}
