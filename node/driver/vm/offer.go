//go:build linux

package vm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// The two sides of a move speak in lines of JSON on the stream "control": an
// offer, an answer to it, then how far it got. The streams beside it: "log" is
// the task's output so far, "snapshots" are files, "disk0" and on are NBD, "memory"
// is QEMU's own.
const (
	offerVersion  = 2
	maxLine       = 64 << 10 // bytes of a line
	streamControl = "control"
	streamLog     = "log"
	streamMemory  = "memory"

	streamSnapshots = "snapshots"
)

// offer is what a machine consists of, as far as its guest sees it. The target
// makes the machine from the job, as it would start it, describes that in the
// same way, and takes the guest in if the two are alike. It uses nothing that is
// in an offer.
type offer struct {
	Version int             `json:"version"`
	Key     string          `json:"key"` // see [Driver.MoveKey]
	Machine string          `json:"machine"`
	CPUs    int             `json:"cpus"`
	Memory  placement.Bytes `json:"memory"`
	Copy    string          `json:"copy"` // of which job, and which of its copies
	Boot    placement.Boot  `json:"boot"`
	// Image, Kernel, Initrd, Firmware and Seed are digests.
	Image    string      `json:"image"`
	Kernel   string      `json:"kernel,omitempty"`
	Initrd   string      `json:"initrd,omitempty"`
	Cmdline  string      `json:"cmdline,omitempty"`
	Firmware string      `json:"firmware,omitempty"`
	Seed     string      `json:"seed"`
	Inputs   string      `json:"inputs,omitempty"` // the name of their disk, which says what is on it
	Disks    []offerDisk `json:"disks"`
	Devices  []string    `json:"devices"` // as QEMU is told them
	// Paused: it stood still before it was moved, and is to.
	Paused bool `json:"paused,omitempty"`
	// Storage and Probe tell whether both nodes keep disks in the same place: see
	// [Driver.sees].
	Storage string `json:"storage,omitempty"`
	Probe   string `json:"probe,omitempty"`
	// Snapshots go along, and are not compared.
	Snapshots []offerSnapshot `json:"snapshots,omitempty"`
}

type offerDisk struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes, as the guest sees it
	Kept bool   `json:"kept,omitempty"`
}

// answer is the target's.
type answer struct {
	Refused string `json:"refused,omitempty"` // why it cannot be taken in
	// Disks are the numbers of those that are to be sent.
	Disks []int `json:"disks,omitempty"`
	// Shared: both nodes see what the copy keeps, and none of that is to be sent.
	Shared bool `json:"shared,omitempty"`
}

// step is how far one side got.
type step struct {
	Step stepName `json:"step"`
	// Log is how much of the output there is, of the task as a whole, in bytes.
	Log int64 `json:"log,omitempty"`
	// Sessions is how many streams of sessions were opened.
	Sessions int    `json:"sessions,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

type stepName string

const (
	stepDisks    stepName = "disks"    // from the source: the disks are whole over there
	stepSent     stepName = "sent"     // from the source: all was sent, and it stands here
	stepReceived stepName = "received" // from the target: all is here, and written down
	stepFailed   stepName = "failed"   // from the target: nothing of it will ever run here
)

// describeMachine is the offer of a machine.
func describeMachine(key string, id placement.TaskID, m *qemu.Machine, t told) offer {
	o := offer{
		Version: offerVersion, Key: key, Machine: m.Type, CPUs: m.CPUs, Memory: m.Memory, Copy: place(id), Boot: t.Boot,
		Image: t.Image.Digest, Kernel: filepath.Base(t.Kernel.Image), Initrd: filepath.Base(t.Kernel.Initrd), Cmdline: t.Kernel.Cmdline,
		Firmware: t.Firmware, Seed: t.Seed, Inputs: t.Inputs, Devices: []string{},
	}
	for _, one := range t.Disks {
		o.Disks = append(o.Disks, offerDisk{Name: one.Name, Size: one.Size, Kept: one.Kept})
	}
	for i := 0; i+1 < len(m.Args); i++ {
		if m.Args[i] == "-device" {
			o.Devices = append(o.Devices, m.Args[i+1])
		}
	}
	return o
}

// describeOrder is the offer of a machine that is about to be started.
func (d *Driver) describeOrder(id placement.TaskID, o process.Order) (offer, error) {
	all := o.Told.(qemu.Told)
	var t told
	if err := json.Unmarshal(all.Guest, &t); err != nil {
		return offer{}, err
	}
	key, err := moveKey(all.Machine.Accel, all.Machine.Network != nil)
	return describeMachine(key, id, &all.Machine, t), err
}

// notCompared are an offer's fields that the target has nothing of its own to hold against.
var notCompared = []string{"Paused", "Storage", "Probe", "Snapshots"}

// differs says in words in what a machine that is offered is not the one that
// would be started here; nil if it is the same.
func (o offer) differs(mine offer) error {
	var problems []error
	theirs, ours := reflect.ValueOf(o), reflect.ValueOf(mine)
	for i := range theirs.NumField() {
		name := theirs.Type().Field(i).Name
		if slices.Contains(notCompared, name) || reflect.DeepEqual(theirs.Field(i).Interface(), ours.Field(i).Interface()) {
			continue
		}
		problems = append(problems, fmt.Errorf("its %s is %.200q there and %.200q here", strings.ToLower(name), fmt.Sprint(theirs.Field(i)), fmt.Sprint(ours.Field(i))))
	}
	return errors.Join(problems...)
}

// parseOffer reads an offer and refuses what no honest side sends.
func parseOffer(line []byte) (offer, error) {
	var o offer
	if err := strict(line, &o); err != nil {
		return o, fmt.Errorf("the offer cannot be read: %w", err)
	}
	if o.Version != offerVersion {
		return o, fmt.Errorf("the offer is of version %d, and %d is spoken here: both nodes need the same program", o.Version, offerVersion)
	}
	if len(o.Disks) == 0 || len(o.Disks) > maxDisks || len(o.Devices) > 4*maxDisks {
		return o, fmt.Errorf("the offer has %d disks and %d devices", len(o.Disks), len(o.Devices))
	}
	return o, checkSnapshots(o.Snapshots, o.Disks)
}

// maxDisks bounds what an offer names.
const maxDisks = 64

// strict decodes one value and nothing else.
func strict(line []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

// wire is the control stream.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
}

func newWire(c net.Conn) *wire { return &wire{conn: c, in: bufio.NewReaderSize(c, maxLine)} }

// line reads one, of [maxLine] bytes at most.
func (w *wire) line() ([]byte, error) {
	line, err := w.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("the other side sends a line of more than %d bytes", maxLine)
	}
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the other side hung up")
	}
	return line, err
}

func (w *wire) read(v any) error {
	line, err := w.line()
	if err != nil {
		return err
	}
	return strict(line, v)
}

func (w *wire) write(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) >= maxLine {
		return fmt.Errorf("a line of %d bytes is too long", len(data))
	}
	_, err = w.conn.Write(append(data, '\n'))
	return err
}

// seedDigest is that of what goes into the seed.
func seedDigest(s runner.Spec) string {
	sum := sha256.New()
	for _, part := range []string{s.Setup.CloudInit, string(metaData(s)), s.Setup.CloudNetwork} {
		fmt.Fprintf(sum, "%d %s", len(part), part)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}
