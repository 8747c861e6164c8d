// Package nvml reads NVIDIA devices through the driver's own library.
//
// A call to a function that the installed library lacks ends the whole process,
// past every recover: so each symbol used is looked up before the first call,
// and a library that lacks a needed one is refused with its name. What this
// does not protect from is a driver that hangs or crashes inside a call: that
// needs a supervised child process, which this package is not. Whoever calls
// [Devices] runs the driver in its own process and may be held up by it.
//
// Where there is no library, or the program was built without cgo, the answer
// is [ErrNoNVML]: a node without NVIDIA devices, not a broken one.
package nvml

import "errors"

// Library is the name under which the driver installs its library.
const Library = "libnvidia-ml.so.1"

// ErrNoNVML means that this machine (or this build) has no NVML.
var ErrNoNVML = errors.New("no NVML on this machine")

// ErrUnusable means that there is an NVML library that cannot be used: it lacks
// functions, or its driver does not answer.
var ErrUnusable = errors.New("NVML cannot be used")
