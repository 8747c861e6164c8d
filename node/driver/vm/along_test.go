//go:build linux

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// stills is a line that notes whether the guest stood as each stream was opened.
type stills struct {
	*line
	d     *Driver
	id    placement.TaskID
	mu    sync.Mutex
	names []string // guarded by mu
}

func (s *stills) Open(ctx context.Context, name string) (net.Conn, error) {
	how := " runs"
	if !runs(ctx, s.d, s.id) {
		how = " stands"
	}
	s.mu.Lock()
	s.names = append(s.names, name+how)
	s.mu.Unlock()
	return s.line.Open(ctx, name)
}

// keepsThem is the line of a source that offers snapshots and sends none.
type keepsThem struct{ *line }

func (k keepsThem) Open(ctx context.Context, name string) (net.Conn, error) {
	if name != streamSnapshots {
		return k.line.Open(ctx, name)
	}
	here, _ := net.Pipe()
	return saysYes{here}, nil
}

type saysYes struct{ net.Conn }

func (saysYes) Write(p []byte) (int, error) { return len(p), nil }
func (saysYes) Read(p []byte) (int, error)  { return copy(p, "\n"), nil }

func TestSnapshotsGoAlong(t *testing.T) {
	images := smallGuest(t)
	for i, mode := range []placement.MoveMode{placement.MoveLive, placement.MoveNearLive} {
		t.Run(string(mode), func(t *testing.T) { goAlong(t, twoNodes(t, images, nil), 100+i, mode) })
	}
}

func goAlong(t *testing.T, n *nodes, number int, mode placement.MoveMode) {
	b := openNotebook(t, n.from, notebookSpec(number, 1))
	b.says("stands")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, word := range []string{"first", "second"} {
		b.writes(word)
		if _, err := n.from.SnapshotDisks(ctx, b.h, "before-"+word); err != nil {
			t.Fatal(err)
		}
	}
	b.writes("third")
	before, err := n.from.DiskSnapshots(ctx, b.h)
	if err != nil {
		t.Fatal(err)
	}
	s2 := notebookSpec(number, 2)
	h2 := runner.Handle{Task: s2.Task}
	destroyed(t, n.to, s2.Task)

	n.to.cfg.Reserve = math.MaxInt64 >> 1
	sent, received := move(t, n, b.h, s2, mode, newLine(t, "", 0), nil)
	if sent == nil || received == nil || !strings.Contains(sent.Error(), "does not take it") || !strings.Contains(sent.Error(), "more space than there is") {
		t.Fatalf("to a full node, send: %v\nreceive: %v", sent, received)
	}
	nothingThere(t, n.to, s2.Task)
	n.to.cfg.Reserve = DefaultConfig().Reserve
	b.writes("third")

	if mode == placement.MoveLive {
		sent, received = moveOver(t, n, b.h, s2, mode, keepsThem{newLine(t, "", 0)}, nil)
		if sent == nil || received == nil || !strings.Contains(received.Error(), "not the snapshots of them") {
			t.Fatalf("without those that it offered, send: %v\nreceive: %v", sent, received)
		}
		// The source may have said that all was sent before it heard of that.
		if errors.As(sent, new(*runner.UndecidedError)) {
			if err := n.from.Finish(ctx, b.h, true); err != nil {
				t.Fatal(err)
			}
		}
		nothingThere(t, n.to, s2.Task)
		b.writes("third")
	}

	refused := func(d *Driver, h runner.Handle) {
		t.Helper()
		_, made := d.SnapshotDisks(ctx, h, "now")
		_, set := d.RestoreDisks(ctx, h, "before-first")
		for what, err := range map[string]error{"made": made, "removed": d.RemoveDiskSnapshot(ctx, h, "before-first"), "used": set} {
			if err == nil || !strings.Contains(err.Error(), "is being moved") {
				t.Errorf("while it is moved, one is %s: %v", what, err)
			}
		}
	}
	var sentBytes int64
	l := &stills{line: newLine(t, "", 0), d: n.from, id: b.h.Task}
	sent, received = moveOver(t, n, b.h, s2, mode, l, func(p runner.MoveProgress) {
		if p.Phase == "snapshots" && sentBytes == 0 {
			sentBytes = p.Bytes
			refused(n.from, b.h)
		}
	})
	if sent != nil || received != nil {
		t.Fatalf("send: %v\nreceive: %v", sent, received)
	}
	disk := " runs"
	if mode == placement.MoveNearLive {
		disk = " stands"
	}
	for _, want := range []string{"snapshots runs", "disk0" + disk, "disk1" + disk} {
		if !slices.Contains(l.names, want) {
			t.Errorf("its streams: %q, and not %q", l.names, want)
		}
	}
	if sentBytes == 0 {
		t.Error("nobody is told that snapshots are sent")
	}
	refused(n.to, h2)
	if err := errors.Join(n.to.Finish(ctx, h2, true), n.from.Finish(ctx, b.h, false)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(n.from.kept(b.h.Task)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what it kept lies on the old node still: %v", err)
	}
	after, err := n.to.DiskSnapshots(ctx, h2)
	if err != nil || !same(before, after) {
		t.Fatalf("it had\n%+v, and has\n%+v, %v", before, after, err)
	}
	c, err := n.to.Console(t.Context(), h2)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = drain(c) }()
	b.d, b.h, b.c = n.to, h2, c
	b.writes("fourth")
	for _, word := range []string{"first", "second"} {
		if _, err := n.to.RestoreDisks(ctx, h2, "before-"+word); err != nil {
			t.Fatal(err)
		}
		if got := b.says("stands"); got != all(word) {
			t.Errorf("set back at its new place, there stands %s, want %s", got, word)
		}
	}
	if err := n.to.RemoveDiskSnapshot(ctx, h2, "before-first"); err != nil {
		t.Error(err)
	}
}

// same reports whether snapshots are those of before, on another disk of a node.
func same(before, after []runner.DiskSnapshot) bool {
	return slices.EqualFunc(before, after, func(a, b runner.DiskSnapshot) bool {
		return a.Name == b.Name && a.At.Equal(b.At) && slices.Equal(a.Disks, b.Disks) && a.Frozen == b.Frozen && a.Why == b.Why && b.Bytes > 0
	})
}

// anOfferOf has two kept disks, of 1 MiB and of 2, and snapshots of them.
func anOfferOf(snaps ...offerSnapshot) offer {
	o := anOffer()
	o.Disks = []offerDisk{{Name: "root", Size: 1 << 20, Kept: true}, {Name: "data", Size: 2 << 20, Kept: true}, {Name: "scratch", Size: 1 << 20}}
	o.Snapshots = snaps
	return o
}

func aSnapshot(name string, copies ...offerCopy) offerSnapshot {
	if copies == nil {
		copies = []offerCopy{{0, 1 << 18}, {1, 1 << 18}}
	}
	return offerSnapshot{Name: name, At: time.Now().Round(0), Why: "no agent answers in its guest", Copies: copies}
}

func TestOffersOfSnapshotsAreChecked(t *testing.T) {
	parse := func(o offer) error {
		line, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parseOffer(line)
		return err
	}
	var most []offerSnapshot
	for i := range mostSnapshots {
		most = append(most, aSnapshot(fmt.Sprint("s", i), offerCopy{0, largestCopy(1 << 20)}))
	}
	for _, good := range []offer{anOfferOf(), anOfferOf(aSnapshot("a"), aSnapshot("b", offerCopy{1, 1})), anOfferOf(most...)} {
		if err := parse(good); err != nil {
			t.Error(err)
		}
		if err := good.differs(anOfferOf()); err != nil {
			t.Errorf("snapshots are compared: %v", err)
		}
	}
	long, lines := aSnapshot("a"), aSnapshot("a")
	long.Why, lines.Why = strings.Repeat("x", maxWhy+1), "a\x1b[2J"
	huge, sums := anOfferOf(aSnapshot("a", offerCopy{0, math.MaxInt64})), anOfferOf()
	huge.Disks[0].Size, sums.Disks[0].Size = math.MaxInt64, 1<<60
	for i := range mostSnapshots {
		sums.Snapshots = append(sums.Snapshots, aSnapshot(fmt.Sprint("s", i), offerCopy{0, 1 << 60}))
	}
	for name, bad := range map[string]offer{
		"one too many":         anOfferOf(append(most, aSnapshot("more"))...),
		"no name":              anOfferOf(aSnapshot("")),
		"a way out":            anOfferOf(aSnapshot("../disk-data.raw")),
		"a way up":             anOfferOf(aSnapshot("..")),
		"one being made":       anOfferOf(aSnapshot(".new-a")),
		"a long name":          anOfferOf(aSnapshot(strings.Repeat("a", 41))),
		"one twice":            anOfferOf(aSnapshot("a"), aSnapshot("a")),
		"no disk":              anOfferOf(offerSnapshot{Name: "a"}),
		"a disk twice":         anOfferOf(aSnapshot("a", offerCopy{0, 1}, offerCopy{0, 1})),
		"a disk before":        anOfferOf(aSnapshot("a", offerCopy{-1, 1})),
		"a disk beyond":        anOfferOf(aSnapshot("a", offerCopy{3, 1})),
		"a disk not kept":      anOfferOf(aSnapshot("a", offerCopy{2, 1})),
		"an empty file":        anOfferOf(aSnapshot("a", offerCopy{0, 0})),
		"less than a file":     anOfferOf(aSnapshot("a", offerCopy{0, -1})),
		"a file too large":     anOfferOf(aSnapshot("a", offerCopy{0, largestCopy(1<<20) + 1})),
		"sizes beyond numbers": huge,
		"a sum beyond numbers": sums,
		"a long reason":        anOfferOf(long),
		"no line of a reason":  anOfferOf(lines),
	} {
		if err := parse(bad); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if got := plainLine("it says:\n" + strings.Repeat("ä\xff", maxWhy)); len(got) > maxWhy || strings.Contains(got, "\n") || !utf8.ValidString(got) {
		t.Errorf("it goes over the wire as %q", got)
	}
}

// What a source sends beyond, or other than, what it had offered is not written, or
// not kept.
func TestASourceThatLiesOfSnapshots(t *testing.T) {
	content := bytes.Repeat([]byte("snapshot"), 1<<17)
	sum := sha256.Sum256(content)
	sends := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		sends []byte
		end   bool
		full  bool // the target's disk, once it has said yes
		says  string
	}{
		"what it offered":  {sends: sends(content, sum[:])},
		"another digest":   {sends: sends(content, make([]byte, len(sum))), says: "their digests are not the same"},
		"something else":   {sends: sends(content[:len(content)-1], []byte("T"), sum[:]), says: "their digests are not the same"},
		"less":             {sends: sends(content[:len(content)/2]), end: true, says: "EOF"},
		"more":             {sends: sends(content, content), says: "their digests are not the same"},
		"more than fits":   {sends: sends(content, sum[:]), full: true, says: "more space than there is"},
		"nothing, for one": {end: true, says: "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			d, h := beside(t, nil)
			if c.full {
				d.cfg.Reserve = math.MaxInt64 >> 1
			}
			outside := listed(t, filepath.Dir(d.cfg.Dir))
			here, there := net.Pipe()
			defer here.Close()
			snap := aSnapshot("before", offerCopy{0, int64(len(content))})
			r := &receiver{d: d, h: h, along: []offerSnapshot{snap}}
			over := make(chan error, 1)
			go func() { over <- errors.Join(r.takeSnapshots(t.Context(), there), there.Close()) }()
			heard := make(chan struct{})
			go func() {
				defer close(heard)
				_, _ = here.Write(c.sends)
				if c.end {
					_ = here.Close()
				}
				_, _ = drain(here)
			}()
			err := <-over
			<-heard
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v", err)
			}
			if r.snapped.Load() != (c.says == "") {
				t.Error("it says of them the contrary of what is so")
			}
			all, err := d.DiskSnapshots(t.Context(), h)
			if err != nil || len(all) != 0 != (c.says == "") {
				t.Fatalf("there are %v, %v", all, err)
			}
			path := filepath.Join(d.snapshots(h.Task), "before", "disk0-root.qcow2")
			if c.says == "" {
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) || all[0].Why != snap.Why || fmt.Sprint(all[0].Disks) != "[root]" {
					t.Errorf("%d bytes are there, of %+v, %v", len(got), all, err)
				}
			}
			if st, err := os.Stat(filepath.Join(d.snapshots(h.Task), ".new-before", "disk0-root.qcow2")); err == nil && st.Size() > int64(len(content)) {
				t.Errorf("%d bytes were written of %d", st.Size(), len(content))
			}
			if now := listed(t, filepath.Dir(d.cfg.Dir)); !slices.Equal(now, outside) {
				t.Errorf("beside the node's directory lie %q, and lay %q", now, outside)
			}
		})
	}
}

// A move that has failed removes what came: nobody writes there any more.
func TestNothingIsWrittenOnceAMoveIsOver(t *testing.T) {
	d, h := beside(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	here, other := net.Pipe()
	defer here.Close()
	r := &receiver{d: d, h: h, along: []offerSnapshot{aSnapshot("before", offerCopy{0, 1})}}
	if err := r.takeSnapshots(ctx, other); !errors.Is(err, context.Canceled) || there(d.kept(h.Task), snapshotsDir) {
		t.Errorf("it begins: %v", err)
	}
}

// What its disks are to be is not known yet: neither side would have both.
func TestAMachineWhoseDisksAreSetBackStays(t *testing.T) {
	d, h := beside(t, nil)
	for _, path := range []string{filepath.Join(d.kept(h.Task), restoreDir), filepath.Join(d.TaskDir(h.Task), restoreNote)} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := d.Send(t.Context(), h, placement.MoveLive, newLine(t, "", 0), nil); err == nil || !strings.Contains(err.Error(), "being set back") {
			t.Errorf("with %s it goes: %v", filepath.Base(path), err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// Nobody over there knows that its file systems are held still.
func TestAFrozenGuestIsThawedBeforeItGoes(t *testing.T) {
	d, h := beside(t, nil)
	a := &fakeAgent{}
	a.serve(t, d, h)
	if _, why := d.freeze(t.Context(), h); why != "" {
		t.Fatal(why)
	}
	again := newDriver(t, d.cfg.Dir, nil)
	if err := again.Send(t.Context(), h, placement.MoveLive, newLine(t, "", 0), nil); err == nil {
		t.Error("a machine without a QEMU goes")
	}
	if got := a.told(); got != "freeze thaw" {
		t.Errorf("its agent was told %q", got)
	}
}

// A snapshot that could not be told at the other side stays in the way, by its name.
func TestASnapshotOfOtherDisksKeepsAMachine(t *testing.T) {
	d, h := beside(t, nil)
	_, told, err := d.told(h.Task)
	if err != nil {
		t.Fatal(err)
	}
	along := func() ([]offerSnapshot, string) {
		t.Helper()
		all, why, err := d.along(h.Task, told.Disks)
		if err != nil {
			t.Fatal(err)
		}
		return all, why
	}
	dir := filepath.Join(d.snapshots(h.Task), "upgrade")
	note := runner.DiskSnapshot{At: time.Now(), Disks: []string{"root"}, Frozen: true}
	if err := errors.Join(os.MkdirAll(dir, 0o700), writeJSON(filepath.Join(dir, snapshotNote), note), newQcow2(filepath.Join(dir, "disk0-root.qcow2"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if all, why := along(); why != "" || len(all) != 1 || !all[0].Frozen || len(all[0].Copies) != 1 || all[0].Copies[0].Size == 0 {
		t.Errorf("along go %+v, %q", all, why)
	}
	note.Disks = []string{"root", "old"}
	if err := writeJSON(filepath.Join(dir, snapshotNote), note); err != nil {
		t.Fatal(err)
	}
	if all, why := along(); len(all) != 0 || !strings.Contains(why, "its snapshot upgrade is of other disks (root, old)") {
		t.Errorf("along go %+v, %q", all, why)
	}
	if why, err := d.CanMove(t.Context(), h); err != nil || !strings.Contains(fmt.Sprint(why), "--remove upgrade") {
		t.Errorf("in the way is %q, %v", why, err)
	}
}

func drain(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) }

func listed(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
