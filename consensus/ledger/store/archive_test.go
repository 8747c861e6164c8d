package store

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

var firstDay = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

// kept is a checkpoint that so many witnesses cosigned at a time; who verifies it
// finds that none did.
func kept(t testing.TB, size uint64, at time.Time, witnesses int) Kept {
	t.Helper()
	signature := func(name string, head ...byte) string {
		return "— " + name + " " + base64.StdEncoding.EncodeToString(append([]byte{1, 2, 3, 4}, append(head, make([]byte, 64)...)...)) + "\n"
	}
	note := fmt.Sprintf("fra-1.mesh.example/ledger\n%d\n%s\n\n", size, base64.StdEncoding.EncodeToString(make([]byte, 32))) + signature("fra-1.mesh.example/ledger")
	for i := range witnesses {
		note += signature(fmt.Sprintf("w%d.example/witness", i), binary.BigEndian.AppendUint64(nil, uint64(at.Unix())+uint64(i))...)
	}
	k, err := NewKept([]byte(note), at)
	if err != nil {
		t.Fatal(err)
	}
	if k.Size != size || k.Witnesses != witnesses || !k.At.Equal(at) {
		t.Fatalf("%+v", k)
	}
	return k
}

func archived(t testing.TB, files Files) *Archive {
	t.Helper()
	a, err := openArchive(files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.close() })
	return a
}

func keep(t testing.TB, a *Archive, k Kept) bool {
	t.Helper()
	wants := a.Wants(k)
	took, err := a.Keep(k)
	if err != nil || took != wants {
		t.Fatalf("it wants the checkpoint of %d: %v, and keeps it: %v, %v", k.Size, wants, took, err)
	}
	return took
}

func sizesIn(t testing.TB, a *Archive) (out []uint64) {
	t.Helper()
	all, err := a.After(0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		out = append(out, k.Size)
	}
	return out
}

// One a minute: what more witnesses cosigned, and of equals the last.
func TestTheArchiveKeepsOneAMinute(t *testing.T) {
	files := Memory()
	a := archived(t, files)
	at := func(s int) time.Time { return firstDay.Add(time.Duration(s) * time.Second) }
	for _, step := range []struct {
		k    Kept
		want bool
	}{
		{kept(t, 10, at(5), 1), true},
		{kept(t, 11, at(6), 0), false}, // nobody has cosigned it yet
		{kept(t, 11, at(7), 1), true},
		{kept(t, 11, at(7), 1), false}, // again
		{kept(t, 10, at(5), 1), false},
		{kept(t, 10, at(5), 2), true},
		{kept(t, 20, at(61), 1), true},
		{kept(t, 21, at(119), 1), true},
		{kept(t, 21, at(122), 1), false}, // says another time, and no more witnesses
		{kept(t, 21, at(122), 2), true},
	} {
		if got := keep(t, a, step.k); got != step.want {
			t.Errorf("%d leaves, %d witnesses, %s: kept %v", step.k.Size, step.k.Witnesses, step.k.At.Format("15:04:05"), got)
		}
	}
	want := []uint64{10, 21}
	if got := sizesIn(t, a); !slices.Equal(got, want) {
		t.Errorf("it has %v, want %v", got, want)
	}
	if err := a.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := sizesIn(t, archived(t, files)); !slices.Equal(got, want) {
		t.Errorf("opened again it has %v, want %v", got, want)
	}
}

// Beyond a week one an hour stays, and the file does not grow for ever.
func TestTheArchiveThins(t *testing.T) {
	files := Memory()
	a := archived(t, files)
	const days, hour = 9, 15 // one each four minutes
	for m := range days * 24 * hour {
		at := firstDay.Add(time.Duration(m) * time.Hour / hour)
		keep(t, a, kept(t, uint64(2*m+1), at, 0))
		keep(t, a, kept(t, uint64(2*m+2), at.Add(10*time.Second), 1))
		if m%hour == 0 {
			if err := a.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := a.After(0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	close, wide := 7*24*hour, (days-7)*24
	if n := len(all); n < close+wide || n > close+wide+hour+1 {
		t.Errorf("%d are kept of %d days, want %d", n, days, close+wide)
	}
	var bytes int64
	for i, k := range all {
		bytes += archiveHead + int64(len(k.Note))
		if k.Witnesses != 1 {
			t.Errorf("%d leaves: that without witnesses was kept", k.Size)
		}
		if i > 0 && k.At.Sub(all[i-1].At) > time.Hour {
			t.Errorf("nothing is kept between %s and %s", all[i-1].At, k.At)
		}
	}
	f, err := files.Open(archiveFile)
	if err != nil {
		t.Fatal(err)
	}
	if size, _ := f.Size(); size > 2*bytes+128<<10 {
		t.Errorf("%d bytes for %d of notes", size, bytes)
	}
}

// What a crash tore is cut off, what rotted is left out, and the rest stays.
func TestTheArchiveAfterACrash(t *testing.T) {
	files := Memory()
	a := archived(t, files)
	for i := range 5 {
		keep(t, a, kept(t, uint64(i+1), firstDay.Add(time.Duration(i)*time.Minute), 1))
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	data, err := files.Read(archiveFile)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range data {
		torn := Memory()
		if err := torn.Replace(archiveFile, data[:cut]); err != nil {
			t.Fatal(err)
		}
		b := archived(t, torn)
		if got, want := len(sizesIn(t, b)), cut*5/len(data); got != want {
			t.Fatalf("cut at %d of %d: %d are left, want %d", cut, len(data), got, want)
		}
		keep(t, b, kept(t, 9, firstDay.Add(time.Hour), 1))
		if err := b.close(); err != nil {
			t.Fatal(err)
		}
		if got := sizesIn(t, archived(t, torn)); !slices.Contains(got, 9) {
			t.Fatalf("cut at %d: what came later is lost: %v", cut, got)
		}
	}
	one := len(data) / 5
	for _, at := range []int{archiveHead + 30, one + archiveHead + 40, 0, one, one + 2, one + 3} { // the last four are lengths
		bad := slices.Clone(data)
		bad[at] ^= 1
		rotten := Memory()
		_ = rotten.Replace(archiveFile, bad)
		if got := len(sizesIn(t, archived(t, rotten))); got != 4 {
			t.Errorf("byte %d rotted: %d are left, want 4", at, got)
		}
	}
}

// A checkpoint that rotted is left out when the file is rewritten, and what
// stands behind it is still there at the next start.
func TestARewrittenArchiveLeavesOutWhatRotted(t *testing.T) {
	files := Memory()
	a := archived(t, files)
	for i := range 5 {
		keep(t, a, kept(t, uint64(i+1), firstDay.Add(time.Duration(i)*time.Minute), 1))
	}
	rotten := a.all[1].off + archiveHead + 30
	if _, err := a.file.WriteAt([]byte{0}, rotten); err != nil {
		t.Fatal(err)
	}
	a.dead = 1 << 20
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if got, want := sizesIn(t, archived(t, files)), []uint64{1, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("after the rewrite %v are kept, want %v", got, want)
	}
}

func TestAnArchiveAnswersInPages(t *testing.T) {
	a := archived(t, Memory())
	for i := range 50 {
		keep(t, a, kept(t, uint64(i+1), firstDay.Add(time.Duration(i)*time.Minute), 1))
	}
	var got []uint64
	for last := uint64(0); ; {
		page, err := a.After(last, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		again, err := ParseKept(EncodeKept(page))
		if err != nil || len(again) != len(page) {
			t.Fatal(err)
		}
		for i := range page {
			if !bytes.Equal(again[i].Note, page[i].Note) || !again[i].At.Equal(page[i].At) {
				t.Fatalf("%+v is read as %+v", page[i], again[i])
			}
			got = append(got, page[i].Size)
		}
		last = got[len(got)-1]
	}
	if len(got) != 50 || !slices.IsSorted(got) {
		t.Errorf("the pages have %v", got)
	}
}

func FuzzParseKept(f *testing.F) {
	good := EncodeKept([]Kept{kept(f, 3, firstDay, 1), kept(f, 5, firstDay.Add(time.Minute), 2)})
	f.Add(good)
	f.Add([]byte{})
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := ParseKept(data)
		if err != nil {
			return
		}
		if !bytes.Equal(EncodeKept(all), data) {
			t.Error("what was read is written otherwise")
		}
		for _, k := range all {
			if _, err := ledger.ParseSignedCheckpoint(k.Note); err != nil {
				t.Error(err)
			}
		}
	})
}
