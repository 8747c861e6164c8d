package nvml

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sovmesh/sovmesh/gpu/probe"
)

// ChildCommand is the command of the program that runs [Child].
const ChildCommand = "gpu-probe"

// Child is the child process of a [probe.Supervisor]: it opens the library and
// says on stdout what it sees. It ends when stdin does, so that it never
// outlives its agent, even from within a call that hangs. It returns the exit
// code of the process. Its arguments are --once and, for tests, --every DURATION.
func Child(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	pace, once := probe.DefaultPace(), false
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--once":
			once = true
		case args[i] == "--every" && i+1 < len(args):
			i++
			every, err := time.ParseDuration(args[i])
			if err != nil || every < 10*time.Millisecond {
				_, _ = fmt.Fprintf(stderr, "%s: --every %s is no duration of at least 10ms\n", ChildCommand, args[i])
				return 2
			}
			pace = probe.Pace{Reading: every, Sample: every, Beat: every}
		default:
			_, _ = fmt.Fprintf(stderr, "usage: sovmesh %s [--once]\nsays in JSON what NVML sees; the agent runs it\n", ChildCommand)
			return 2
		}
	}
	if !once {
		go func() {
			_, _ = io.Copy(io.Discard, stdin) // its end is all that counts
			os.Exit(0)                        // the main thread may hang in the driver
		}()
	}
	driver, err := Open()
	if err == nil {
		defer driver.Close()
		err = probe.Serve(driver, stdout, pace, once)
	} else {
		err = probe.End(stdout, errors.Is(err, ErrNoNVML), err)
	}
	if err != nil && !errors.Is(err, ErrNoNVML) {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}
