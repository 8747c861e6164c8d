// Command sovmesh is the one binary of the mesh: the agent of a node, the
// operator's and the developer's command line, and the offline checks.
//
// The rule: a command parses, calls the API's client once, prints. It decides
// nothing about residency itself: package residency does, here as on every
// node. Only this package reads files, flags and the environment, and only main
// ends the process. Names, exit codes and JSON fields are a contract with
// programs outside the project.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sovmesh/sovmesh/gpu/nvml"
	"github.com/sovmesh/sovmesh/node/driver/container"
	"github.com/sovmesh/sovmesh/node/driver/microvm"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/driver/vm"
)

// version is set by the linker.
var version = "dev"

func main() {
	// Before anything else: it is on the way of every task's start.
	if len(os.Args) > 1 && os.Args[1] == process.SupervisorCommand {
		os.Exit(process.SupervisorMain(os.Args[2:]))
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case container.SupervisorCommand:
			os.Exit(container.SupervisorMain(os.Args[2:]))
		case microvm.SupervisorCommand:
			os.Exit(microvm.SupervisorMain(os.Args[2:]))
		case vm.SupervisorCommand:
			os.Exit(vm.SupervisorMain(os.Args[2:]))
		}
	}
	if len(os.Args) > 1 && os.Args[1] == nvml.ChildCommand {
		os.Exit(nvml.Child(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(run())
}

// run gives the first interrupt to the command, so that it can tidy up; a
// second one ends the program at once.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop()
	}()
	p, err := newProgram()
	if err != nil {
		fmt.Fprintf(os.Stderr, "sovmesh: %v\n", err)
		return 1
	}
	return p.run(ctx, os.Args[1:])
}
