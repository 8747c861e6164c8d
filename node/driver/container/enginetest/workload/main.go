// Command workload is what the containers of the tests run: one static program
// that does what its first argument says.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// arg is the number given, or else.
func arg(args []string, i, otherwise int) int {
	if i < len(args) {
		if n, err := strconv.Atoi(args[i]); err == nil {
			return n
		}
	}
	return otherwise
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to do")
	}
	what, rest := args[0], args[1:]
	text := strings.Join(rest, " ")
	switch what {
	case "exit":
		os.Exit(arg(rest, 0, 0))
	case "print":
		fmt.Println(text)
	case "sleep":
		return untilAsked(0)
	case "tick":
		return tick(time.Duration(arg(rest, 0, 100)) * time.Millisecond)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		for {
			time.Sleep(time.Hour)
		}
	case "flood":
		return flood(arg(rest, 0, 0))
	case "eat":
		return eat(arg(rest, 0, 0))
	case "forks":
		return forks(arg(rest, 0, 10))
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "cat":
		return cat(text)
	case "write":
		return os.WriteFile(text, []byte("written\n"), 0o644)
	case "mkdir":
		return os.Mkdir(text, 0o700)
	case "close":
		return os.Chmod(text, 0)
	case "link":
		return os.Symlink(rest[0], rest[1])
	case "name":
		return os.Link(rest[0], rest[1])
	case "pipe":
		return syscall.Mkfifo(text, 0o666)
	case "stat":
		info, err := os.Stat(text)
		if err == nil {
			fmt.Println(info.Mode())
		}
		return err
	case "whoami":
		wd, _ := os.Getwd()
		fmt.Println(os.Getuid(), os.Getgid(), wd)
	case "listen":
		return listen(text)
	case "serve":
		return serve(text)
	case "dial":
		conn, err := net.DialTimeout("tcp", text, 2*time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	case "each":
		for _, one := range rest {
			fmt.Println("==", one)
			if err := run(strings.Fields(one)); err != nil {
				fmt.Println("error:", err)
			}
		}
	case "signals":
		return untilAsked(arg(rest, 0, 0))
	case "size":
		return size()
	case "end":
		return end(text)
	case "stdin":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	default:
		return fmt.Errorf("%s: no such thing to do", what)
	}
	return nil
}

// untilAsked ends when it is asked to.
func untilAsked(code int) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	<-asked
	os.Exit(code)
	return nil
}

// tick counts aloud until it is asked to end.
func tick(every time.Duration) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	for i := 0; ; i++ {
		fmt.Println("tick", i)
		select {
		case <-asked:
			return nil
		case <-time.After(every):
		}
	}
}

// end asks all others that do one thing to end.
func end(what string) error {
	all, err := os.ReadDir("/proc")
	for _, e := range all {
		pid, numberErr := strconv.Atoi(e.Name())
		if numberErr != nil || pid == os.Getpid() {
			continue
		}
		if line, readErr := os.ReadFile("/proc/" + e.Name() + "/cmdline"); readErr == nil && strings.HasPrefix(string(line), "/workload\x00"+what) {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	return err
}

// serve sends back what comes in, until it is asked to end.
func serve(at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return untilAsked(0)
}

func flood(n int) error {
	part := make([]byte, 4096)
	for n > 0 {
		k, err := os.Stdout.Write(part[:min(n, len(part))])
		if err != nil {
			return err
		}
		n -= k
	}
	_, err := fmt.Println("end")
	return err
}

// eat takes so many MiB of memory and touches all of it.
func eat(mib int) error {
	var all [][]byte
	for range mib {
		part := make([]byte, 1<<20)
		for i := 0; i < len(part); i += 4096 {
			part[i] = 1
		}
		all = append(all, part)
	}
	fmt.Println("ate", len(all))
	return untilAsked(0)
}

// forks starts so many processes that wait, and says how many it got.
func forks(n int) error {
	started := 0
	for range n {
		p, err := os.StartProcess("/proc/self/exe", []string{"workload", "sleep"}, &os.ProcAttr{Env: []string{"GOMAXPROCS=1"}})
		if err != nil {
			fmt.Println("started", started, err)
			return nil
		}
		_ = p.Release()
		started++
	}
	fmt.Println("started", started)
	return nil
}

// size says how large the terminal is.
func size() error {
	var s struct{ rows, columns, x, y uint16 }
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&s))); e != 0 {
		return e
	}
	fmt.Println("size", s.columns, s.rows)
	return nil
}

func cat(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(os.Stdout, f)
	return err
}

// listen says back what it hears, at the address given.
func listen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}
