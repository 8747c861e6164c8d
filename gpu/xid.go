package gpu

import (
	"strconv"

	"github.com/sovmesh/sovmesh/placement"
)

// Class is what kind of trouble an XID is.
type Class string

// The classes, the worst first.
const (
	// ClassFatal: the device cannot be worked with now; its tasks have failed.
	ClassFatal Class = "fatal"
	// ClassContained: the task that met it is lost, the device wants a reset.
	ClassContained Class = "contained"
	// ClassDrain: the device takes no new tasks; those on it go on to their end.
	ClassDrain Class = "drain"
	// ClassUnknown: no entry; the device takes no new tasks until somebody looked.
	ClassUnknown Class = "unknown"
	// ClassNote: a trend; the device is taken after sound ones.
	ClassNote Class = "note"
	// ClassApplication: the program's fault; its owner is told.
	ClassApplication Class = "application"
)

// Recovery is what the driver asks for before a device is worked with again.
type Recovery string

// The recoveries, as NVML names them. Empty: the driver does not say.
const (
	RecoverNone     Recovery = "none"
	RecoverReset    Recovery = "reset-gpu"
	RecoverReboot   Recovery = "reboot"
	RecoverDrainP2P Recovery = "drain-p2p" // end what uses the links between devices
	RecoverDrain    Recovery = "drain-and-reset"
	RecoverFabric   Recovery = "recover-fabric" // the IMEX domain of the NVLink fabric
)

// asks is what a recovery means for the device while it is asked for.
func (r Recovery) asks() (c placement.Cause, is bool) {
	c = placement.Cause{Health: placement.DeviceCordoned, Action: placement.ActionResetGPU}
	switch r {
	case RecoverReset:
		c.Reason = "the driver asks for a reset of the device"
	case RecoverReboot:
		c.Reason, c.Action = "the driver asks for a reboot of the node", placement.ActionReboot
	case RecoverDrainP2P:
		c.Reason, c.Action = "the driver asks that what uses the links between devices ends", placement.ActionNone
	case RecoverDrain:
		c.Reason = "the driver asks for a reset of the device once its tasks have ended"
	case RecoverFabric:
		c.Reason, c.Action = "the driver asks that the NVLink fabric is recovered", placement.ActionNone
	default:
		return c, false
	}
	return c, true
}

// Fault is what an XID means.
type Fault struct {
	XID    uint64
	Class  Class
	Reason string
	Health placement.DeviceHealth
	Action placement.DeviceAction
	// Node: the other devices of the node are not to be trusted either.
	Node bool
	// Suspect: seen from different jobs on one device it is the device's fault.
	Suspect bool
	// Recovery tells apart what XID 154 may mean.
	Recovery Recovery
}

// Code is the fault's name in a [placement.Cause].
func (f Fault) Code() string {
	code := "xid-" + strconv.FormatUint(f.XID, 10)
	if f.Recovery != "" {
		code += "-" + string(f.Recovery)
	}
	return code
}

// recovery is the XID that says that the recovery which the driver asks for changed.
const recovery = 154

// asking is the fault under the recovery that the driver asks for. NVIDIA's
// catalogue of XIDs has 154 for everything from none to a reboot of the node;
// where the driver does not say which, it counts as a reset.
func (f Fault) asking(r Recovery) Fault {
	c, is := r.asks()
	switch {
	case f.XID != recovery || !is && r != RecoverNone:
		return f
	case r == RecoverNone:
		f.Class, f.Health, f.Action, f.Reason = ClassNote, placement.DeviceOK, placement.ActionNone, "the driver asks for no recovery any more"
	case r == RecoverReboot:
		f.Action, f.Reason, f.Node = c.Action, c.Reason, true // the kernel is not to be trusted
	case r == RecoverReset:
		f.Reason = c.Reason
	default:
		f.Class, f.Action, f.Reason = ClassDrain, c.Action, c.Reason
	}
	f.Recovery = r
	return f
}

// FailsTasks reports whether tasks on the device have failed by it.
func (f Fault) FailsTasks() bool { return f.Class == ClassFatal || f.Class == ClassContained }

// XID says what an XID means; one that is not in the table makes the device
// unfit until it was looked at.
func XID(n uint64) Fault {
	for _, f := range faults() {
		if f.XID == n {
			return f
		}
	}
	return Fault{XID: n, Class: ClassUnknown, Reason: "an XID that is not known here", Health: placement.DeviceCordoned, Action: placement.ActionResetGPU}
}

// faults is the table of NVIDIA's XIDs, as its catalogue and its guide to GPU
// memory errors describe them.
func faults() []Fault {
	fatal := func(xid uint64, action placement.DeviceAction, reason string) Fault {
		return Fault{XID: xid, Class: ClassFatal, Reason: reason, Health: placement.DeviceCordoned, Action: action}
	}
	app := func(xid uint64, reason string) Fault {
		return Fault{XID: xid, Class: ClassApplication, Reason: reason, Health: placement.DeviceOK, Action: placement.ActionRestartJob}
	}
	note := func(xid uint64, action placement.DeviceAction, reason string) Fault {
		return Fault{XID: xid, Class: ClassNote, Reason: reason, Health: placement.DeviceDegraded, Action: action}
	}
	contained := func(xid uint64, reason string) Fault {
		return Fault{XID: xid, Class: ClassContained, Reason: reason, Health: placement.DeviceCordoned, Action: placement.ActionResetGPU}
	}
	wide := func(f Fault) Fault { f.Node = true; return f }
	gone := wide(fatal(79, placement.ActionReboot, "it has fallen off the bus"))
	gone.Health = placement.DeviceLost
	exception, page := app(13, "a program caused an exception in the graphics engine"), app(31, "a program touched memory that is not its own")
	exception.Suspect, page.Suspect = true, true
	return []Fault{
		gone,
		fatal(48, placement.ActionResetGPU, "an uncorrectable memory error"),
		fatal(62, placement.ActionResetGPU, "its micro-controller halted"),
		fatal(64, placement.ActionRMA, "a broken memory row could not be recorded for remapping"),
		fatal(74, placement.ActionResetGPU, "an NVLink error"),
		fatal(95, placement.ActionResetGPU, "an uncontained memory error"),
		fatal(110, placement.ActionReboot, "a security fault"),
		wide(fatal(119, placement.ActionReboot, "its system processor (GSP) does not answer")),
		wide(fatal(120, placement.ActionReboot, "an error of its system processor (GSP)")),
		fatal(140, placement.ActionResetGPU, "an unrecovered memory error"),
		fatal(143, placement.ActionResetGPU, "its initialization failed"),
		fatal(recovery, placement.ActionResetGPU, "the driver asks for a recovery of the device"),
		fatal(160, placement.ActionRMA, "its memory is marked for repair"),
		contained(46, "it stopped processing"),
		contained(61, "its micro-controller stopped at a breakpoint"),
		contained(94, "a contained memory error"),
		note(63, placement.ActionResetGPU, "a broken memory row will be remapped at the next reset"),
		note(92, placement.ActionNone, "a high rate of corrected memory errors"),
		note(171, placement.ActionNone, "more on a memory error (DRAM)"),
		note(172, placement.ActionNone, "more on a memory error (SRAM)"),
		app(8, "a program's channel did not answer"),
		app(11, "a program sent an invalid method"),
		exception, page,
		app(43, "a program stopped answering and was ended"),
		app(45, "a program was ended and its channel cleaned up"),
		app(68, "an exception of the video decoder"),
		app(69, "a program caused an error of the graphics engine's class"),
		app(109, "a program's context switch did not end in time"),
	}
}
