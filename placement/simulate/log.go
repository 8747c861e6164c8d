package simulate

import (
	"bytes"
	"strconv"
	"strings"
)

// LogHead is the first line of a decision log. gpus are indexes joined by ";";
// an empty node is a rejection; op is place or release.
const LogHead = "seq,pod,node,gpus,op,region,reason"

// The reasons and operations of a log.
const (
	opPlace   = "place"
	opRelease = "release"

	reasonEnded    = "ended"
	reasonCapacity = "capacity" // no node has the room
)

// log writes the decisions.
type log struct {
	buf bytes.Buffer
	seq int
}

func (l *log) row(pod, node, gpus, op, region, reason string) {
	if l.seq == 0 {
		l.buf.WriteString(LogHead)
		l.buf.WriteByte('\n')
	}
	l.seq++
	l.buf.WriteString(strconv.Itoa(l.seq))
	for _, field := range [...]string{pod, node, gpus, op, region, reason} {
		l.buf.WriteByte(',')
		l.buf.WriteString(quote(field))
	}
	l.buf.WriteByte('\n')
}

// quote writes a field as RFC 4180 has it.
func quote(s string) string {
	if !strings.ContainsAny(s, ",\"\r\n") {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

func joined(gpus []int) string {
	words := make([]string, len(gpus))
	for i, g := range gpus {
		words[i] = strconv.Itoa(g)
	}
	return strings.Join(words, ";")
}

func (l *log) place(j *Job, m *Machine, at place) {
	l.row(j.Name, m.Name, joined(at.gpus), opPlace, RegionName(m.Region), "cost="+strconv.Itoa(at.cost))
}

func (l *log) release(j *Job, m *Machine, at place) {
	l.row(j.Name, m.Name, joined(at.gpus), opRelease, RegionName(m.Region), reasonEnded)
}

func (l *log) reject(j *Job) { l.row(j.Name, "", "", opPlace, "", reasonCapacity) }

func (l *log) bytes() []byte { return l.buf.Bytes() }
