package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// An inference stream (DESIGN 5) is, from the client,
//
//	u32 length of the head, head, body, FIN
//
// and from the server the same with an [Answer] as head. Numbers are big
// endian. A head is one version byte, then its fields in the order of the
// struct: a string as u16 length and bytes, a number in its own width, a time as
// i64 milliseconds since 1970 with 0 for none. Nothing may follow the last field.
//
// FIN is a whole message, RESET a cut one, STOP_SENDING a cancel. The head has
// named fields only: a map of forwarded headers would carry authorization,
// cookies and user agents over the border.

// inferVersion is the first byte of each head.
const inferVersion = 1

// InferHeadMax bounds an encoded head; a long policy is most of it.
const InferHeadMax = 64 << 10

// Head opens an inference request.
type Head struct {
	RequestID string // opaque; at most 128 bytes
	Tenant    string // the tenant's handle as the destination knows it; at most 130 bytes
	// Tag is the effective policy in residency's canonical form, all layers, so
	// that the receiver can check again; at most 48 KiB.
	Tag         string
	LawPack     string // hash of the pack under which the sender checked; at most 80 bytes
	Model       string // at most 256 bytes
	Method      string // "POST" or "GET"
	Path        string // "/v1/..."; at most 1,024 bytes
	ContentType string // at most 256 bytes
	// Deadline is the sender's, by its clock: two clocks may differ by a minute,
	// so the transport acts on the sender's cancel and not on this.
	Deadline time.Time
	// Hops counts the gateways that the request has passed; at most 3. It ends loops.
	Hops uint8
	// BodySize is the number of bytes that follow the head.
	BodySize uint64
	// Accept, APIBeta and APIVersion are the only headers of the client that a
	// model server needs: Accept, OpenAI-Beta and Anthropic-Version.
	Accept, APIBeta, APIVersion string // at most 256 bytes each
	// ReceiptID is the receipt that the sending region keeps of the request, so
	// that the receiver's own can quote it; at most 160 bytes.
	ReceiptID string
}

// Answer opens the answer to an inference request. A refusal is an Answer with a
// Code and no body: only then may the request be tried elsewhere.
type Answer struct {
	Status      uint16 // HTTP status, 200 to 599
	ContentType string // at most 256 bytes
	// Code is empty for an answer of the model server; otherwise the reason for
	// which a node refused, as the API names it; at most 64 bytes.
	Code    string
	Message string // for people; at most 2,048 bytes
	// RetryAfter is how long to wait before asking again; 0 for no advice.
	RetryAfter time.Duration
	// Size is the number of bytes of the body, or -1 when it streams.
	Size      int64
	RequestID string // of the model server; at most 128 bytes
	ReceiptID string // of the region that ran it; at most 160 bytes
	Region    string // where it ran; at most 63 bytes
	// Hash commits to the node that ran it, opaque outside of its region; at most 80 bytes.
	Hash string
}

// ErrHead is wrapped by every refusal of a head that is not in its format.
var ErrHead = errors.New("not an inference head")

// Validate reports what the format does not allow.
func (h *Head) Validate() error {
	if h.Method != "POST" && h.Method != "GET" {
		return fmt.Errorf("%w: method %.20q", ErrHead, h.Method)
	}
	if len(h.Path) < 4 || h.Path[:4] != "/v1/" {
		return fmt.Errorf("%w: path %.40q does not begin with /v1/", ErrHead, h.Path)
	}
	if h.RequestID == "" || h.Tag == "" || h.LawPack == "" {
		return fmt.Errorf("%w: request id, tag and law pack are required", ErrHead)
	}
	if h.Hops > 3 {
		return fmt.Errorf("%w: it has passed %d gateways, a loop", ErrHead, h.Hops)
	}
	return nil
}

// Validate reports what the format does not allow.
func (a *Answer) Validate() error {
	if a.Status < 200 || a.Status > 599 {
		return fmt.Errorf("%w: status %d", ErrHead, a.Status)
	}
	if a.Code != "" && a.Status < 400 {
		return fmt.Errorf("%w: a refusal with status %d", ErrHead, a.Status)
	}
	if a.Size < -1 || a.RetryAfter < 0 || a.RetryAfter > 24*time.Hour {
		return fmt.Errorf("%w: a size or a wait out of range", ErrHead)
	}
	return nil
}

// fields walks the head's fields in the order of the wire, for both directions.
func (h *Head) fields(c *headCoder) {
	c.text(&h.RequestID, 128)
	c.text(&h.Tenant, 130)
	c.text(&h.Tag, 48<<10)
	c.text(&h.LawPack, 80)
	c.text(&h.Model, 256)
	c.text(&h.Method, 8)
	c.text(&h.Path, 1024)
	c.text(&h.ContentType, 256)
	c.time(&h.Deadline)
	hops := uint64(h.Hops)
	c.number(&hops, math.MaxUint8)
	h.Hops = uint8(hops)
	c.number(&h.BodySize, math.MaxInt64)
	c.text(&h.Accept, 256)
	c.text(&h.APIBeta, 256)
	c.text(&h.APIVersion, 256)
	c.text(&h.ReceiptID, 160)
}

func (a *Answer) fields(c *headCoder) {
	status, wait, size := uint64(a.Status), uint64(a.RetryAfter/time.Millisecond), uint64(a.Size+1)
	c.number(&status, math.MaxUint16)
	c.text(&a.ContentType, 256)
	c.text(&a.Code, 64)
	c.text(&a.Message, 2048)
	c.number(&wait, uint64(24*time.Hour/time.Millisecond))
	c.number(&size, math.MaxInt64)
	c.text(&a.RequestID, 128)
	c.text(&a.ReceiptID, 160)
	c.text(&a.Region, 63)
	c.text(&a.Hash, 80)
	a.Status, a.RetryAfter, a.Size = uint16(status), time.Duration(wait)*time.Millisecond, int64(size)-1
}

// headCoder reads or writes the fields of a head; the first error stays.
type headCoder struct {
	buf     []byte
	reading bool
	err     error
}

func (c *headCoder) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrHead}, args...)...)
	}
}

// text is a string without control characters: a head can smuggle no line.
func (c *headCoder) text(s *string, limit int) {
	if c.err != nil {
		return
	}
	if c.reading {
		n := c.length(limit)
		if c.err != nil {
			return
		}
		*s = string(c.buf[:n])
		c.buf = c.buf[n:]
	}
	if len(*s) > limit {
		c.fail("a field of %d bytes, the limit is %d", len(*s), limit)
		return
	}
	for i := 0; i < len(*s); i++ {
		if (*s)[i] < 0x20 || (*s)[i] == 0x7f {
			c.fail("a control character in a field")
			return
		}
	}
	if !c.reading {
		c.buf = append(binary.BigEndian.AppendUint16(c.buf, uint16(len(*s))), *s...)
	}
}

func (c *headCoder) length(limit int) int {
	if len(c.buf) < 2 {
		c.fail("it ends within a field")
		return 0
	}
	n := int(binary.BigEndian.Uint16(c.buf))
	c.buf = c.buf[2:]
	if n > limit || n > len(c.buf) {
		c.fail("a field of %d bytes, the limit is %d and %d are left", n, limit, len(c.buf))
		return 0
	}
	return n
}

func (c *headCoder) number(v *uint64, limit uint64) {
	if c.err != nil {
		return
	}
	if c.reading {
		if len(c.buf) < 8 {
			c.fail("it ends within a number")
			return
		}
		*v = binary.BigEndian.Uint64(c.buf)
		c.buf = c.buf[8:]
	}
	if *v > limit {
		c.fail("a number of %d, the limit is %d", *v, limit)
		return
	}
	if !c.reading {
		c.buf = binary.BigEndian.AppendUint64(c.buf, *v)
	}
}

// timeMax is the year 9999: later instants have no RFC 3339 form.
const timeMax = 253402300799999

func (c *headCoder) time(t *time.Time) {
	ms := uint64(0)
	if !c.reading && !t.IsZero() {
		ms = uint64(max(t.UnixMilli(), 1))
	}
	c.number(&ms, timeMax)
	if c.reading && ms != 0 {
		*t = time.UnixMilli(int64(ms)).UTC()
	}
}

// wireHead is what both heads have in common.
type wireHead interface {
	fields(*headCoder)
	Validate() error
}

// appendHead appends the length and the head to buf.
func appendHead(buf []byte, h wireHead) ([]byte, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	start := len(buf)
	c := headCoder{buf: append(buf, 0, 0, 0, 0, inferVersion)}
	if h.fields(&c); c.err != nil {
		return nil, c.err
	}
	n := len(c.buf) - start - 4
	if n > InferHeadMax {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrHead, n, InferHeadMax)
	}
	binary.BigEndian.PutUint32(c.buf[start:], uint32(n))
	return c.buf, nil
}

// decodeHead reads a whole head, without its length, into h.
func decodeHead(b []byte, h wireHead) error {
	if len(b) == 0 || b[0] != inferVersion {
		return fmt.Errorf("%w: its version is not %d", ErrHead, inferVersion)
	}
	c := headCoder{buf: b[1:], reading: true}
	if h.fields(&c); c.err != nil {
		return c.err
	}
	if len(c.buf) != 0 {
		return fmt.Errorf("%w: %d bytes after its last field", ErrHead, len(c.buf))
	}
	return h.Validate()
}

// readHead reads a length and a head from r and nothing beyond.
func readHead(r io.Reader, h wireHead) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return fmt.Errorf("read the length of a head: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > InferHeadMax {
		return fmt.Errorf("%w: it announces %d bytes, the limit is %d", ErrHead, n, InferHeadMax)
	}
	// The buffer grows with what comes: an announced size alone costs nothing.
	buf := make([]byte, 0, min(n, 2048))
	for uint32(len(buf)) < n {
		part := min(int(n)-len(buf), 4096)
		buf = slices.Grow(buf, part)
		got, err := io.ReadFull(r, buf[len(buf):len(buf)+part])
		buf = buf[:len(buf)+got]
		if err != nil {
			return fmt.Errorf("read a head: %w", err)
		}
	}
	return decodeHead(buf, h)
}

// MarshalHead is a request's head as it stands on the wire, with its length.
func MarshalHead(h Head) ([]byte, error) { return appendHead(nil, &h) }

// ReadHead reads what [MarshalHead] wrote.
func ReadHead(r io.Reader) (Head, error) {
	var h Head
	err := readHead(r, &h)
	return h, err
}

// MarshalAnswer is an answer's head as it stands on the wire, with its length.
func MarshalAnswer(a Answer) ([]byte, error) { return appendHead(nil, &a) }

// ReadAnswer reads what [MarshalAnswer] wrote.
func ReadAnswer(r io.Reader) (Answer, error) {
	var a Answer
	err := readHead(r, &a)
	return a, err
}
