package state

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// The compact body of a submit. Every replica reads every submit, so reading
// JSON was a third of what it cost to apply one. What Apply sets itself (status,
// place, times, counts) is not carried at all.
//
//	form     1 byte, compactForm; a body that begins with '{' is JSON instead
//	flags    1 byte, the flag* bits
//	fields   in the order of compactWriter.submit; numbers are varints as in
//	         encoding/binary (signed ones zigzag), a string is its length and
//	         UTF-8, a list or map its count and its members, keys ascending
//	more     with flagMore: a string, the JSON of a spec with the fields that
//	         have no place above; those that have one are not read from it
//
// A submit with a field outside its spec that has no place here is written as
// JSON, whole.
const compactForm = 1

const (
	flagAny byte = 1 << iota
	flagSingleton
	flagNamed  // the spec's name is not the job's, and follows it
	flagKinded // the spec's kind is not the job's, and follows it
	flagExpires
	flagMore
	flagsKnown = flagMore<<1 - 1
)

// encodeSubmit writes the body of a submit.
func encodeSubmit(k SubmitJob) ([]byte, error) {
	if !isCompact(k) {
		return json.Marshal(k)
	}
	w := compactWriter{b: make([]byte, 0, 512)}
	w.submit(&k)
	if hasMore(&k.Job.Spec) {
		more := k.Job.Spec
		carry(&more, &placement.JobSpec{})
		text, err := json.Marshal(more)
		if err != nil {
			return nil, err
		}
		w.strings(string(text))
	}
	return w.b, nil
}

// carry copies the fields of a spec that have a place of their own.
func carry(to, from *placement.JobSpec) {
	r := from.Resources
	to.Name, to.Kind, to.Type, to.Command, to.Env, to.Priority = from.Name, from.Kind, from.Type, from.Command, from.Env, from.Priority
	to.Resources.CPU, to.Resources.Memory, to.Resources.GPUs, to.Resources.GPUModel, to.Resources.GPUMemory = r.CPU, r.Memory, r.GPUs, r.GPUModel, r.GPUMemory
	to.Restart.Policy, to.Restart.Attempts, to.Singleton = from.Restart.Policy, from.Restart.Attempts, from.Singleton
	to.Evidence, to.OnDrain, to.StopGrace = from.Evidence, from.OnDrain, from.StopGrace
	to.Models, to.Upstream, to.Image, to.Site, to.NodeName = from.Models, from.Upstream, from.Image, from.Site, from.NodeName
}

// hasMore reports whether something of a spec is left without them.
func hasMore(s *placement.JobSpec) bool {
	more := *s
	carry(&more, &placement.JobSpec{})
	return !reflect.ValueOf(&more).Elem().IsZero()
}

// isCompact reports whether the compact form says all of a submit: nothing is
// left of it without the fields that are written, and those that Apply sets.
func isCompact(k SubmitJob) bool {
	j := k.Job
	k.AllowAny, k.IdempotencyKey, k.BodyHash = false, "", ""
	k.Grant, k.GrantExpires, k.Reservation = "", time.Time{}, ""
	j.ID, j.Name, j.Kind, j.Tenant, j.Residency, j.Policy, j.EntryRegion, j.Hops, j.Origin = "", "", "", "", "", nil, "", 0, ""
	// State.accept sets these itself.
	j.Region, j.Node, j.Status, j.Reason, j.Code, j.Receipt = "", "", "", "", "", ""
	j.QueuedAt = time.Time{}
	j.SubmittedAt, j.StartedAt, j.EndedAt, j.NotBefore, j.ExitCode = time.Time{}, time.Time{}, time.Time{}, time.Time{}, nil
	j.Attempts, j.Restarts, j.StopRequested, j.StopReason, j.Forward, j.Grant, j.Index = 0, 0, false, "", nil, "", 0
	j.Spec = placement.JobSpec{} // carried, all of it
	k.Job = j
	return reflect.ValueOf(&k).Elem().IsZero()
}

type compactWriter struct{ b []byte }

func (w *compactWriter) submit(k *SubmitJob) {
	j, s := &k.Job, &k.Job.Spec
	w.b = append(w.b, compactForm, flagsOf(k))
	w.strings(k.IdempotencyKey, k.BodyHash, k.Grant, k.Reservation)
	if !k.GrantExpires.IsZero() {
		w.int(k.GrantExpires.Unix())
		w.uint(uint64(k.GrantExpires.Nanosecond()))
	}
	w.strings(string(j.ID), j.Name, string(j.Kind), string(j.Tenant), j.Residency, string(j.EntryRegion), string(j.Origin))
	w.int(int64(j.Hops))
	w.uint(uint64(len(j.Policy)))
	for _, l := range j.Policy {
		w.strings(string(l.Origin), l.Tag)
	}
	if s.Name != j.Name {
		w.strings(s.Name)
	}
	if s.Kind != j.Kind {
		w.strings(string(s.Kind))
	}
	w.spec(s)
}

func flagsOf(k *SubmitJob) (f byte) {
	for _, has := range []struct {
		flag byte
		set  bool
	}{
		{flagAny, k.AllowAny}, {flagSingleton, k.Job.Spec.Singleton}, {flagNamed, k.Job.Spec.Name != k.Job.Name},
		{flagKinded, k.Job.Spec.Kind != k.Job.Kind}, {flagExpires, !k.GrantExpires.IsZero()},
		{flagMore, hasMore(&k.Job.Spec)},
	} {
		if has.set {
			f |= has.flag
		}
	}
	return f
}

func (w *compactWriter) spec(s *placement.JobSpec) {
	w.strings(string(s.Type), string(s.Evidence), string(s.OnDrain), s.Upstream, s.Image, s.Site, string(s.NodeName), s.Restart.Policy, s.Resources.GPUModel)
	for _, n := range [...]int64{int64(s.Priority), int64(s.Restart.Attempts), int64(s.StopGrace), int64(s.Resources.CPU), int64(s.Resources.Memory), int64(s.Resources.GPUs), int64(s.Resources.GPUMemory)} {
		w.int(n)
	}
	w.list(s.Command)
	w.list(s.Models)
	w.uint(uint64(len(s.Env)))
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		w.strings(name, s.Env[name])
	}
}

func (w *compactWriter) uint(n uint64) { w.b = binary.AppendUvarint(w.b, n) }
func (w *compactWriter) int(n int64)   { w.b = binary.AppendVarint(w.b, n) }

func (w *compactWriter) list(all []string) {
	w.uint(uint64(len(all)))
	w.strings(all...)
}

// strings writes UTF-8 whatever it is given, as encoding/json does.
func (w *compactWriter) strings(all ...string) {
	for _, s := range all {
		if !utf8.ValidString(s) {
			s = strings.ToValidUTF8(s, "\uFFFD")
		}
		w.uint(uint64(len(s)))
		w.b = append(w.b, s...)
	}
}

// readSubmit reads either form.
func readSubmit(body []byte) (Command, error) {
	if len(body) == 0 || body[0] != compactForm {
		return read[SubmitJob](body)
	}
	r := newCompactReader(body[1:])
	flags := r.byte()
	if flags&^flagsKnown != 0 {
		return nil, fmt.Errorf("flags %#x are not known", flags)
	}
	var k SubmitJob
	r.submit(&k, flags)
	if r.err != nil {
		return nil, r.err
	}
	if len(r.b) > 0 {
		return nil, fmt.Errorf("%d bytes too many", len(r.b))
	}
	return k, nil
}

// compactReader reads what compactWriter wrote. What belongs to the job alone is
// cut out of one copy of the body, which lives as long as the job; what other
// records keep longer (ids, keys) is copied.
type compactReader struct {
	b    []byte // what is not read yet
	text string // the whole body, of which b is the end
	err  error
}

func newCompactReader(body []byte) *compactReader {
	return &compactReader{b: body, text: string(body)}
}

func (r *compactReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *compactReader) byte() byte {
	if len(r.b) == 0 {
		r.fail("it ends too early")
		return 0
	}
	b := r.b[0]
	r.b = r.b[1:]
	return b
}

func (r *compactReader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.fail("it ends within a number")
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *compactReader) int() int64 {
	n := r.uint()
	return int64(n>>1) ^ -int64(n&1)
}

// part is a string within text.
func (r *compactReader) part() string {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail("it ends within a string")
		return ""
	}
	at := len(r.text) - len(r.b)
	s := r.text[at : at+int(n)]
	r.b = r.b[n:]
	if !utf8.ValidString(s) {
		r.fail("a string is no UTF-8")
		return ""
	}
	return s
}

// string is a string of its own, for what a job keeps: a part would keep the
// whole body alive with it. Words that many jobs share are parts, as the state
// keeps one copy of them.
func (r *compactReader) string() string { return strings.Clone(r.part()) }

// count reads the number of members of a list; each takes a byte at least.
func (r *compactReader) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail("it ends within a list")
		return 0
	}
	return int(n)
}

func (r *compactReader) list() []string {
	n := r.count()
	if n == 0 {
		return nil
	}
	out := make([]string, 0, min(n, 64))
	for range n {
		out = append(out, r.string())
	}
	return out
}

func (r *compactReader) submit(k *SubmitJob, flags byte) {
	j, s := &k.Job, &k.Job.Spec
	k.AllowAny, s.Singleton = flags&flagAny != 0, flags&flagSingleton != 0
	k.IdempotencyKey, k.BodyHash, k.Grant, k.Reservation = r.string(), r.string(), r.string(), r.string()
	if flags&flagExpires != 0 {
		k.GrantExpires = r.time()
	}
	j.ID, j.Name, j.Kind, j.Tenant = placement.JobID(r.string()), r.string(), placement.Kind(r.part()), placement.TenantID(r.string())
	j.Residency, j.EntryRegion, j.Origin = r.part(), placement.RegionID(r.part()), placement.RegionID(r.string())
	j.Hops = r.small()
	if n := r.count(); n > 0 {
		j.Policy = make([]placement.Layer, 0, min(n, maxLayers))
		for range n {
			j.Policy = append(j.Policy, placement.Layer{Origin: residency.Origin(r.part()), Tag: r.part()})
		}
	}
	s.Name, s.Kind = j.Name, j.Kind
	if flags&flagNamed != 0 {
		s.Name = r.string()
	}
	if flags&flagKinded != 0 {
		s.Kind = placement.Kind(r.part())
	}
	r.spec(s)
	if flags&flagMore != 0 {
		var more placement.JobSpec
		if text := r.part(); r.err == nil {
			if err := strict([]byte(text), &more); err != nil {
				r.fail("the rest of the spec: %w", err)
			}
		}
		carry(&more, s)
		*s = more
	}
}

func (r *compactReader) spec(s *placement.JobSpec) {
	s.Type, s.Evidence, s.OnDrain = placement.JobType(r.part()), placement.Evidence(r.part()), placement.OnDrain(r.part())
	s.Upstream, s.Image, s.Site, s.NodeName = r.string(), r.string(), r.string(), placement.NodeID(r.string())
	s.Restart.Policy, s.Resources.GPUModel = r.part(), r.part()
	s.Priority, s.Restart.Attempts, s.StopGrace = r.small(), r.small(), placement.Duration(r.int())
	s.Resources.CPU, s.Resources.Memory, s.Resources.GPUs, s.Resources.GPUMemory = r.cpu(), r.bytes(), r.small(), r.bytes()
	s.Command, s.Models = r.list(), r.list()
	n := r.count()
	if n == 0 {
		return
	}
	s.Env = make(map[string]string, min(n, 64))
	last := ""
	for i := range n {
		name, value := r.string(), r.string()
		if i > 0 && name <= last {
			r.fail("variable %q is not sorted", clip(name))
			return
		}
		s.Env[name], last = value, name
	}
}

// small is a number that an int of any processor holds.
func (r *compactReader) small() int {
	n := r.int()
	if n != int64(int32(n)) {
		r.fail("the number %d is not possible", n)
		return 0
	}
	return int(n)
}

// Amounts are bounded to what their JSON in a snapshot gives back exactly: a
// restored replica must not differ from one that read the log.
func (r *compactReader) cpu() placement.MilliCPU {
	n := r.int()
	if n < 0 || n > 1e9 {
		r.fail("the amount of processor %d is not possible", n)
	}
	return placement.MilliCPU(n)
}

func (r *compactReader) bytes() placement.Bytes {
	n := r.int()
	if n < 0 || n > 1<<60 || int64(float64(n)) != n {
		r.fail("the amount of memory %d is not possible", n)
	}
	return placement.Bytes(n)
}

// time is between the years 1 and 9999, which JSON can write.
func (r *compactReader) time() time.Time {
	seconds, nanos := r.int(), r.uint()
	t := time.Unix(seconds, int64(min(nanos, 1e9-1))).UTC()
	if seconds < -62135596800 || seconds > 253402300799 || nanos >= 1e9 {
		r.fail("a time is not possible")
	}
	return t
}
