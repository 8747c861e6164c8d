package node

import (
	"log/slog"
	"maps"
	"testing"

	"github.com/sovmesh/sovmesh/gpu"
)

// One XID may stand for anything from nothing to a reboot, by what the driver asks
// for with it: what is counted, and alarms people, is what it was judged to be.
func TestFaultsCountAsTheyAreJudged(t *testing.T) {
	n := &Node{deps: Deps{Log: slog.New(slog.DiscardHandler)}}
	n.devices = newDevices(n)
	for _, asked := range []gpu.Recovery{gpu.RecoverNone, gpu.RecoverDrain, gpu.RecoverReset, gpu.RecoverNone} {
		n.devices.take(gpu.Update{Event: &gpu.Event{UUID: "GPU-1", XID: 154, Recovery: asked}}, nil)
	}
	n.devices.take(gpu.Update{Event: &gpu.Event{UUID: "GPU-1", XID: 31}}, nil)
	want := map[gpu.Class]uint64{gpu.ClassNote: 2, gpu.ClassDrain: 1, gpu.ClassFatal: 1, gpu.ClassApplication: 1}
	if got := n.countGPUs().Faults; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
