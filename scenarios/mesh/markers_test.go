package mesh

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go/quicvarint"
)

// markers are words that stand for what somebody typed, one for each place where
// people type something. Each is found again however it was encoded.
type markers map[string]string

// add makes the marker of a place: lower case letters and digits, so that it may
// stand in any name.
func (k markers) add(place string) string {
	word := fmt.Sprintf("zq%02dx", len(k)) + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, place)
	k[place] = word
	return word
}

// in lists the places whose markers stand in the bytes, as they are or encoded up
// to three times over.
func (k markers) in(data []byte) (places []string) {
	found := map[string]bool{}
	k.look(data, 3, found)
	for place := range found {
		places = append(places, place)
	}
	slices.Sort(places)
	return places
}

func (k markers) look(data []byte, depth int, found map[string]bool) {
	lower := bytes.ToLower(data)
	for place, word := range k {
		if bytes.Contains(lower, []byte(word)) {
			found[place] = true
		}
	}
	if depth == 0 {
		return
	}
	for _, plain := range decoded(data) {
		k.look(plain, depth-1, found)
	}
}

var (
	base64Runs  = regexp.MustCompile(`[A-Za-z0-9+/_-]{12,}`)
	hexRuns     = regexp.MustCompile(`(?i)(?:[0-9a-f]{2}){8,}`)
	jsonEscapes = regexp.MustCompile(`\\u[0-9a-fA-F]{4}`)
)

// decoded is what the bytes may be an encoding of: base64 of both alphabets at
// every alignment, hexadecimal at both, escapes of URLs and of JSON.
func decoded(data []byte) (out [][]byte) {
	for _, run := range base64Runs.FindAll(data, -1) {
		std := strings.NewReplacer("-", "+", "_", "/").Replace(string(run))
		for skip := range min(4, len(std)) {
			part := std[skip:]
			if plain, err := base64.RawStdEncoding.DecodeString(part[:len(part)-len(part)%4]); err == nil && len(plain) > 0 {
				out = append(out, plain)
			}
		}
	}
	for _, run := range hexRuns.FindAll(data, -1) {
		for skip := range 2 {
			part := run[skip:]
			if plain, err := hex.DecodeString(string(part[:len(part)-len(part)%2])); err == nil {
				out = append(out, plain)
			}
		}
	}
	if bytes.Contains(data, []byte("%")) {
		if plain, err := url.QueryUnescape(string(data)); err == nil {
			out = append(out, []byte(plain))
		}
	}
	if jsonEscapes.Match(data) {
		out = append(out, jsonEscapes.ReplaceAllFunc(data, func(e []byte) []byte {
			var s string
			_ = json.Unmarshal([]byte(`"`+string(e)+`"`), &s) // what is no character is kept as nothing
			return []byte(s)
		}))
	}
	return out
}

// spoken is one direction of a request as people read it: method and path of the
// request it belongs to, its headers, and its body without frames.
type spoken struct {
	*utterance
	request string
	text    []byte
}

// read takes the frames of HTTP/3 off (RFC 9114, section 7.2): headers are
// compressed, and a word may be cut by a frame's end. Other streams stay as
// they are.
func (u *utterance) read() spoken {
	s := spoken{utterance: u, text: u.data}
	if u.alpn == "h3" && u.reply != nil {
		fields, body, ok := frames(u.data)
		if ok {
			s.text = slices.Concat(fields, []byte("\n"), body)
		}
		ask := u
		if !u.asks {
			ask = u.reply
		}
		if fields, _, ok := frames(ask.data); ok {
			s.request = requestLine(fields)
		}
	}
	return s
}

func requestLine(fields []byte) string {
	var method, path string
	for line := range strings.Lines(string(fields)) {
		line = strings.TrimSuffix(line, "\n")
		if v, ok := strings.CutPrefix(line, ":method: "); ok {
			method = v
		} else if v, ok := strings.CutPrefix(line, ":path: "); ok {
			path = v
		}
	}
	return method + " " + path
}

func frames(data []byte) (fields, body []byte, ok bool) {
	r := bytes.NewReader(data)
	for r.Len() > 0 {
		kind, err := quicvarint.Read(r)
		if err != nil {
			return fields, body, false
		}
		size, err := quicvarint.Read(r)
		if err != nil || size > uint64(r.Len()) {
			return fields, body, false // a stream that was cut: its bytes are looked at as they are
		}
		payload := make([]byte, size)
		_, _ = io.ReadFull(r, payload) // in memory, and long enough
		switch kind {
		case 0x0:
			body = append(body, payload...)
		case 0x1:
			next := qpack.NewDecoder().Decode(payload)
			for f, err := next(); err != io.EOF; f, err = next() {
				if err != nil {
					return fields, body, false
				}
				fields = fmt.Appendf(fields, "%s: %s\n", f.Name, f.Value)
			}
		}
	}
	return fields, body, true
}

func TestAMarkerIsFoundHoweverItIsEncoded(t *testing.T) {
	k := markers{}
	word := k.add("a.place")
	text := "the name is " + word + ", they said"
	escaped := ""
	for _, r := range text {
		escaped += fmt.Sprintf(`\u%04x`, r)
	}
	percent := ""
	for _, b := range []byte(text) {
		percent += fmt.Sprintf("%%%02X", b)
	}
	for name, data := range map[string]string{
		"raw": text, "in capitals": strings.ToUpper(text), "in hexadecimal": "x" + hex.EncodeToString([]byte(text)), "percent-encoded": percent, "escaped in JSON": `"` + escaped + `"`,
		"base64": base64.StdEncoding.EncodeToString([]byte(text)), "base64 of URLs": base64.RawURLEncoding.EncodeToString([]byte("?" + text)), "base64 out of step": "ab" + base64.StdEncoding.EncodeToString([]byte(text)),
		"base64 of base64": base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(text)))),
	} {
		if !slices.Equal(k.in([]byte(data)), []string{"a.place"}) {
			t.Errorf("%s: not found in %q", name, data)
		}
	}
	if places := k.in([]byte("nothing here")); len(places) != 0 {
		t.Errorf("found %v where nothing is", places)
	}
}
