package state

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fill gives every field below v a value of its own that is not zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(day.Add(time.Duration(*n))))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 3 {
			key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(val, n)
			v.SetMapIndex(key, val)
		}
	case reflect.String:
		v.SetString("w" + strings.Repeat("\u00e9", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(*n % 256))
	default:
		panic(v.Type().String())
	}
}

// Whatever a submit says arrives, also in a field that was added to a type
// after the compact form was made; what the state sets itself does not travel.
func TestSubmitTravelsWhole(t *testing.T) {
	var k SubmitJob
	n := 0
	fill(reflect.ValueOf(&k).Elem(), &n)
	j := &k.Job
	j.Region, j.Node, j.Status, j.Reason, j.Code, j.Receipt = "", "", "", "", "", ""
	j.QueuedAt = time.Time{}
	j.SubmittedAt, j.StartedAt, j.EndedAt, j.NotBefore, j.ExitCode = time.Time{}, time.Time{}, time.Time{}, time.Time{}, nil
	j.Attempts, j.Restarts, j.StopRequested, j.StopReason, j.Forward, j.Grant, j.Index = 0, 0, false, "", nil, "", 0
	if isCompact(k) {
		t.Error("what a foreign job brings has no place in the compact form, and nobody noticed")
	}
	far := k
	k.HomeLeaf, k.LawPack = LeafRef{}, ""
	if !isCompact(k) {
		t.Error("a submit of this region is no longer compact: give its new field a place")
	}
	same := k
	same.Job.Spec.Name, same.Job.Spec.Kind, same.GrantExpires = same.Job.Name, same.Job.Kind, time.Time{}
	for _, want := range []SubmitJob{far, k, same, {}} {
		body, err := encodeSubmit(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readSubmit(body)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("sent %+v\ncame %+v, %v", want, got, err)
		}
		if body, err = json.Marshal(want); err != nil {
			t.Fatal(err)
		}
		if got, err := readSubmit(body); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("as JSON: sent %+v\ncame %+v, %v", want, got, err)
		}
	}
}

func TestHostileCompactSubmits(t *testing.T) {
	encode := func(change func(*SubmitJob)) []byte {
		k := SubmitJob{Job: aJob(1, "EU"), GrantExpires: day}
		change(&k)
		body, err := encodeSubmit(k)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	whole := encode(func(*SubmitJob) {})
	for i := range whole {
		if _, err := readSubmit(whole[:i]); err == nil {
			t.Errorf("cut at %d, and read", i)
		}
	}
	shared := encode(func(k *SubmitJob) { k.Job.Spec.Resources.GPUShare = 300 })
	for i := range shared {
		if _, err := readSubmit(shared[:i]); err == nil {
			t.Errorf("with a share: cut at %d, and read", i)
		}
	}
	for name, body := range map[string][]byte{
		"a field that no spec has":          []byte(strings.Replace(string(shared), "gpu_share", "gpu_shore", 1)),
		"a byte too many":                   append(whole[:len(whole):len(whole)], 0),
		"an unknown flag":                   append([]byte{compactForm, flagsKnown + 1}, whole[2:]...),
		"memory that a snapshot would bend": encode(func(k *SubmitJob) { k.Job.Spec.Resources.Memory = 1<<53 + 1 }),
		"negative memory":                   encode(func(k *SubmitJob) { k.Job.Spec.Resources.GPUMemory = -1 }),
		"negative processors":               encode(func(k *SubmitJob) { k.Job.Spec.Resources.CPU = -1 }),
		"too many processors":               encode(func(k *SubmitJob) { k.Job.Spec.Resources.CPU = 1e9 + 1 }),
		"a number beyond 32 bits":           encode(func(k *SubmitJob) { k.Job.Spec.Priority = 1 << 40 }),
		"a time that JSON cannot write":     encode(func(k *SubmitJob) { k.GrantExpires = time.Unix(1<<40, 0) }),
		"a variable twice":                  []byte(strings.Replace(string(encode(func(k *SubmitJob) { k.Job.Spec.Env = map[string]string{"AA": "1", "AB": "2"} })), "AB", "AA", 1)),
		"no UTF-8":                          []byte(strings.Replace(string(whole), "secret-name", "secret-\xff\xff\xff\xff", 1)),
		"a list without end":                append(whole[:len(whole)-1:len(whole)-1], 0xff, 0xff, 0xff, 0xff, 0x7f),
	} {
		if k, err := readSubmit(body); err == nil {
			t.Errorf("%s: read as %+v", name, k)
		}
	}
}
