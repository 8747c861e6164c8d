//go:build linux && !amd64

package qemu

import (
	"fmt"
	"runtime"
	"time"
)

// loopInKVM: guests are x86 machines, which KVM runs on x86 only.
func loopInKVM(uint32, time.Duration) (time.Duration, error) {
	return 0, fmt.Errorf("guests are x86-64 machines and this one is %s", runtime.GOARCH)
}
