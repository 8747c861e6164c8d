//go:build linux

package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests and structures of the KVM API.
// https://docs.kernel.org/virt/kvm/api.html, include/uapi/linux/kvm.h
const (
	kvmCreateVM         = 0xae01
	kvmGetVCPUMapSize   = 0xae04
	kvmCreateVCPU       = 0xae41
	kvmSetTSSAddr       = 0xae47
	kvmSetUserMemory    = 0x4020ae46
	kvmRun              = 0xae80
	kvmSetRegs          = 0x4090ae82
	kvmGetSregs         = 0x8138ae83
	kvmSetSregs         = 0x4138ae84
	kvmExitReasonOffset = 8 // in struct kvm_run
	kvmExitHLT          = 5
	guestMemory         = 64 << 10
	guestCode           = 0x4000
)

type kvmSegment struct {
	Base                            uint64
	Limit                           uint32
	Selector                        uint16
	Type, Present, DPL, DB, S, L, G uint8
	Available, Unusable, Padding    uint8
}

type kvmTable struct {
	Base    uint64
	Limit   uint16
	Padding [3]uint16
}

type kvmSregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT kvmSegment
	GDT, IDT                        kvmTable
	CR0, CR2, CR3, CR4, CR8         uint64
	EFER, APICBase                  uint64
	Interrupts                      [4]uint64
}

type kvmRegs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R                                      [8]uint64
	RIP, RFLAGS                            uint64
}

type kvmMemory struct {
	Slot, Flags       uint32
	Guest, Size, Host uint64
}

// loopInKVM runs a loop of so many turns in 64-bit ring 0 and says how long it
// took; longer than limit if it was cut off. An error is for no KVM at all.
func loopInKVM(turns uint32, limit time.Duration) (time.Duration, error) {
	type result struct {
		took time.Duration
		err  error
	}
	done, thread := make(chan result, 1), make(chan int, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		took, err := loopOnThread(turns, limit, func() { thread <- unix.Gettid() })
		done <- result{took, err}
	}()
	var tid int
	select {
	case r := <-done:
		return r.took, r.err
	case tid = <-thread:
	}
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		select {
		case r := <-done:
			return r.took, r.err
		case <-over.C:
			// What the runtime uses to interrupt its own threads interrupts KVM_RUN too.
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
			over.Reset(10 * time.Millisecond)
		}
	}
}

func loopOnThread(turns uint32, limit time.Duration, begin func()) (time.Duration, error) {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("/dev/kvm: %w", err)
	}
	defer unix.Close(kvm)
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return 0, fmt.Errorf("KVM makes no machine: %w", err)
	}
	defer unix.Close(vm)
	_, _ = ioctl(vm, kvmSetTSSAddr, 0xfffbd000) // some older processors need it
	memory, err := unix.Mmap(-1, 0, guestMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(memory) }()
	layOut(memory, turns)
	region := kvmMemory{Size: guestMemory, Host: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if err := ioctlPtr(vm, kvmSetUserMemory, unsafe.Pointer(&region)); err != nil {
		return 0, fmt.Errorf("KVM takes no memory: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return 0, fmt.Errorf("KVM makes no processor: %w", err)
	}
	defer unix.Close(cpu)
	size, err := ioctl(kvm, kvmGetVCPUMapSize, 0)
	if err != nil {
		return 0, err
	}
	run, err := unix.Mmap(cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(run) }()
	if err := enterLongMode(cpu); err != nil {
		return 0, fmt.Errorf("KVM takes no registers: %w", err)
	}
	begin()
	start := time.Now()
	for {
		_, err := ioctl(cpu, kvmRun, 0)
		took := time.Since(start)
		switch {
		case took > limit:
			return took, nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("KVM does not run: %w", err)
		case binary.LittleEndian.Uint32(run[kvmExitReasonOffset:]) != kvmExitHLT:
			return 0, fmt.Errorf("KVM ends a loop for reason %d", binary.LittleEndian.Uint32(run[kvmExitReasonOffset:]))
		default:
			return took, nil
		}
	}
}

// layOut writes page tables that map the first 2 MiB to themselves, and the loop.
func layOut(memory []byte, turns uint32) {
	const present, writable, large = 1, 2, 1 << 7
	binary.LittleEndian.PutUint64(memory[0x1000:], 0x2000|present|writable)
	binary.LittleEndian.PutUint64(memory[0x2000:], 0x3000|present|writable)
	binary.LittleEndian.PutUint64(memory[0x3000:], present|writable|large)
	code := append([]byte{0xb9}, binary.LittleEndian.AppendUint32(nil, turns)...) // mov ecx, turns
	code = append(code, 0xff, 0xc9, 0x75, 0xfc, 0xf4)                             // dec ecx; jnz -4; hlt
	copy(memory[guestCode:], code)
}

// enterLongMode sets the processor's registers as a 64-bit kernel has them.
func enterLongMode(cpu int) error {
	var s kvmSregs
	if err := ioctlPtr(cpu, kvmGetSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	s.CS = kvmSegment{Limit: 0xffffffff, Selector: 8, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvmSegment{Limit: 0xffffffff, Selector: 16, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.CR3, s.CR4 = 0x1000, 1<<5     // physical address extension
	s.CR0 = 1 | 1<<4 | 1<<5 | 1<<31 // protected, extension type, numeric error, paging
	s.EFER = 1<<8 | 1<<10           // long mode enabled and active
	if err := ioctlPtr(cpu, kvmSetSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	r := kvmRegs{RIP: guestCode, RFLAGS: 2, RSP: guestMemory}
	return ioctlPtr(cpu, kvmSetRegs, unsafe.Pointer(&r))
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func ioctlPtr(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}
