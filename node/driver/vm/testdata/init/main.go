// Command init is all that runs in the small guest of the tests: it does what
// the seed's user-data says in its line "#test ...", and writes to the serial line.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var out *os.File

func main() {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		_ = os.MkdirAll(m[1], 0o755)
		_ = unix.Mount(m[0], m[1], m[0], 0, "")
	}
	out, _ = os.OpenFile("/dev/ttyS0", os.O_RDWR|unix.O_NOCTTY, 0)
	if t, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS); err == nil {
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
		_ = unix.IoctlSetTermios(int(out.Fd()), unix.TCSETS, t)
	}
	order, _ := os.ReadFile("/modules/order")
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open("/modules/" + name)
		if err != nil {
			continue
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			fmt.Fprintf(out, "module %s: %v\n", name, err)
		}
		_ = f.Close()
	}
	what, rest, _ := strings.Cut(task(), " ")
	do(what, rest)
	off()
}

// task reads what is to be done from the disk that is called seed.
func task() string {
	for range 200 {
		found, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, f := range found {
			if name, _ := os.ReadFile(f); strings.TrimSpace(string(name)) != "seed" {
				continue
			}
			data, _ := os.ReadFile("/dev/" + filepath.Base(filepath.Dir(f)))
			if _, after, ok := bytes.Cut(data, []byte("#cloud-config\n#test ")); ok {
				line, _, _ := bytes.Cut(after, []byte("\n"))
				return string(line)
			}
			return ""
		}
		time.Sleep(50 * time.Millisecond)
	}
	return ""
}

func do(what, rest string) {
	switch what {
	case "exit":
	case "print":
		fmt.Fprintf(out, "%s\n", rest)
	case "sleep":
		button()
	case "stubborn":
		fmt.Fprint(out, "ready\n")
		for { // a program that waits for nothing would be ended by its runtime
			time.Sleep(time.Hour)
		}
	case "flood":
		n, _ := strconv.Atoi(rest)
		block := make([]byte, 4096)
		for ; n > 0; n -= len(block) {
			_, _ = out.Write(block[:min(n, len(block))])
		}
		fmt.Fprint(out, "\nend\n")
	case "panic":
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		select {}
	case "reset":
		fmt.Fprint(out, "boots\n")
		_ = unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1) // until it is written
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "disk":
		disks(rest)
	case "notes":
		notes()
	case "serve":
		serve(rest)
	case "count":
		count()
	case "inputs":
		go inputs(rest)
		count()
	case "write":
		n, _ := strconv.Atoi(rest)
		go write(n)
		count()
	case "tell":
		tell(rest)
	}
}

// inputs mounts the disk of that serial number and reads a file of it again and
// again, from the disk each time.
func inputs(name string) {
	err := fmt.Errorf("there is none")
	found, _ := filepath.Glob("/sys/block/vd*/serial")
	for _, f := range found {
		if serial, _ := os.ReadFile(f); strings.TrimSpace(string(serial)) == "inputs" {
			_ = os.Mkdir("/in", 0o755)
			err = unix.Mount("/dev/"+filepath.Base(filepath.Dir(f)), "/in", "ext4", unix.MS_RDONLY, "noload")
		}
	}
	if err != nil {
		fmt.Fprintf(out, "inputs: %v\n", err)
		return
	}
	if err := unix.Mount("", "/in", "", unix.MS_REMOUNT, ""); err == nil {
		fmt.Fprint(out, "inputs: they can be written to\n")
	}
	for n := 1; ; n++ {
		_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
		data, err := os.ReadFile("/in/" + name)
		fmt.Fprintf(out, "read %d %.20q %d %v\n", n, data, len(data), err)
		time.Sleep(500 * time.Millisecond)
	}
}

// disks tells how large the disks are and what the first and the second said
// before, then writes a word to both.
func disks(word string) {
	for _, name := range []string{"vda", "vdb"} {
		f, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_SYNC, 0)
		if err != nil {
			fmt.Fprintf(out, "%s none\n", name)
			continue
		}
		size, _ := f.Seek(0, io.SeekEnd)
		old := make([]byte, 512)
		_, _ = f.ReadAt(old, 512*100)
		text, _, _ := strings.Cut(string(old), "\x00")
		next := make([]byte, 512)
		copy(next, word)
		_, err = f.WriteAt(next, 512*100)
		_ = f.Sync()
		_ = f.Close()
		fmt.Fprintf(out, "%s %d %q %v\n", name, size, text, err)
	}
}

// notes says what stands on the disks, then writes each line that it reads to all
// of them, and says so; "off" ends it.
func notes() {
	go button()
	fmt.Fprintf(out, "stands %s\n", strings.Join(stands(""), " "))
	in := bufio.NewScanner(out)
	for in.Scan() && in.Text() != "off" {
		fmt.Fprintf(out, "wrote %s\n", strings.Join(stands(in.Text()), " "))
	}
}

// stands writes a word to both disks, if there is one, and reads what they say.
func stands(word string) (said []string) {
	for _, name := range []string{"vda", "vdb"} {
		f, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_SYNC, 0)
		if err != nil {
			return append(said, err.Error())
		}
		size, _ := f.Seek(0, io.SeekEnd)
		for at := int64(512 * 100); word != "" && at < size; at += 64 << 10 { // one in each cluster
			next := make([]byte, 512)
			copy(next, word)
			if _, err := f.WriteAt(next, at); err != nil {
				said = append(said, err.Error())
			}
		}
		first, last := make([]byte, 512), make([]byte, 512)
		_, _ = f.ReadAt(first, 512*100)
		_, _ = f.ReadAt(last, (size-64<<10)/(64<<10)*(64<<10)+512*100)
		_ = f.Close()
		for _, b := range [][]byte{first, last} {
			text, _, _ := strings.Cut(string(b), "\x00")
			said = append(said, fmt.Sprintf("%q", text))
		}
	}
	return said
}

// serve echoes what comes in at port 7, and tries to reach others first.
func serve(others string) {
	at := [4]byte{10, 0, 2, 15}
	others, held := strings.CutPrefix(others, "held ")
	if held {
		at = [4]byte{198, 18, 0, 2}
	}
	if err := address("eth0", at); err != nil {
		fmt.Fprintf(out, "eth0: %v\n", err)
	}
	if held {
		if err := wayOut([4]byte{198, 18, 0, 1}); err != nil {
			fmt.Fprintf(out, "route: %v\n", err)
		}
	}
	for _, to := range strings.Fields(others) {
		began := time.Now()
		c, err := net.DialTimeout("tcp4", to, 10*time.Second)
		switch {
		case err == nil:
			fmt.Fprintf(out, "reached %s\n", to)
			_ = c.Close()
		case time.Since(began) < 5*time.Second:
			fmt.Fprintf(out, "at once no %s\n", to)
		}
	}
	l, err := net.Listen("tcp4", ":7")
	if err != nil {
		fmt.Fprintf(out, "listen: %v\n", err)
		return
	}
	fmt.Fprint(out, "serving\n")
	go button()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
	}
}

// wayOut routes all that is elsewhere by a gateway.
func wayOut(gateway [4]byte) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	var r struct { // rtentry, of linux/route.h
		_                  uint64
		dst, gateway, mask unix.RawSockaddrInet4
		flags              uint16
		_                  int16
		_                  uint64
		_                  uintptr
		_                  int16
		_                  uintptr
		_, _               uint64
		_                  uint16
	}
	r.dst.Family, r.gateway.Family, r.mask.Family = unix.AF_INET, unix.AF_INET, unix.AF_INET
	r.gateway.Addr, r.flags = gateway, unix.RTF_UP|unix.RTF_GATEWAY
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

func address(name string, ip [4]byte) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(req uint, at [4]byte) error {
		var r struct {
			name [16]byte
			addr unix.RawSockaddrInet4
			_    [8]byte
		}
		copy(r.name[:], name)
		r.addr.Family, r.addr.Addr = unix.AF_INET, at
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s), uintptr(req), uintptr(unsafe.Pointer(&r))); e != 0 {
			return e
		}
		return nil
	}
	if err := set(unix.SIOCSIFADDR, ip); err != nil {
		return err
	}
	if err := set(unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0}); err != nil {
		return err
	}
	var r struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(r.name[:], name)
	r.flags = unix.IFF_UP | unix.IFF_RUNNING
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

// write fills so many MiB of memory with what does not repeat, then writes to a
// quarter of it over and over, a page a millisecond.
func write(mib int) {
	all := make([]byte, mib<<20)
	x := uint64(88172645463325252)
	for i := 0; i+8 <= len(all); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(all[i:], x)
	}
	fmt.Fprint(out, "written\n")
	for i := 0; ; i = (i + 4096) % (len(all) / 4) {
		all[i]++
		time.Sleep(time.Millisecond)
	}
}

// tell answers at port 7 with its boot id and a counter, which grows as long as
// the guest runs.
func tell(rest string) {
	at := [4]byte{10, 0, 2, 15}
	if rest == "held" {
		at = [4]byte{198, 18, 0, 2}
	}
	if err := address("eth0", at); err != nil {
		fmt.Fprintf(out, "eth0: %v\n", err)
	}
	if rest == "held" {
		if err := wayOut([4]byte{198, 18, 0, 1}); err != nil {
			fmt.Fprintf(out, "route: %v\n", err)
		}
	}
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var n atomic.Int64
	go button()
	go func() {
		for ; ; time.Sleep(100 * time.Millisecond) {
			n.Add(1)
		}
	}()
	l, err := net.Listen("tcp4", ":7")
	if err != nil {
		fmt.Fprintf(out, "listen: %v\n", err)
		return
	}
	fmt.Fprint(out, "telling\n")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%s %d\n", bytes.TrimSpace(id), n.Load())
		_ = c.Close()
	}
}

// count says its boot id, then counts until the power button is pressed or
// something is typed.
func count() {
	go button()
	go func() {
		_, _ = out.Read(make([]byte, 1))
		off()
	}()
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	fmt.Fprintf(out, "boot %s", id)
	for n := 1; ; n++ {
		fmt.Fprintf(out, "count %d\n", n)
		time.Sleep(100 * time.Millisecond)
	}
}

// button waits for the power button, then turns the machine off.
func button() {
	pressed := make(chan struct{}, 8)
	found, _ := filepath.Glob("/dev/input/event*")
	for _, name := range found {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		go func() {
			e := make([]byte, 24)
			for {
				if _, err := io.ReadFull(f, e); err != nil {
					return
				}
				if binary.LittleEndian.Uint16(e[16:]) == 1 && binary.LittleEndian.Uint16(e[18:]) == 116 {
					pressed <- struct{}{}
				}
			}
		}()
	}
	<-pressed
	off()
}

func off() {
	_ = unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1) // until all is written
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
