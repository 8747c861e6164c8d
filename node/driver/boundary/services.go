//go:build linux

package boundary

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// A service in a task's list has an address in the task's own namespace. What
// connects to it there meets a socket of the agent's, which carries the
// connection to wherever the service runs. No packet of it leaves the namespace,
// so a list of services alone needs no device.

// servicePort is where the agent listens in a task's namespace: outside of the
// ports that the kernel gives to connections by itself.
const servicePort = 61198

// The bounds of the services of one task.
const (
	servedMost    = 256              // connections at one time
	serveWithin   = 15 * time.Minute // from the start of a task until its network is there
	connectWithin = 20 * time.Second // until a service is reached
	serveRetry    = 20 * time.Millisecond
	serveLook     = 2 * time.Second // how often it is looked whether the network is still there
)

// Connect reaches a port of a service. An error with Refused() that is true is one
// of rules, which is counted.
type Connect func(ctx context.Context, service string, port int) (net.Conn, error)

// serving adds the way to the agent's socket, for what runs in the namespace.
func (t *table) serving(n Net, out *nftables.Chain) {
	own := netip.MustParsePrefix("127.0.0.1/32")
	// While no agent is there nobody listens. The kernel's answer to that is held
	// back, so that a connection that begins meanwhile waits for the agent.
	t.add(out, silence(servicePort), drop())
	// Which device it leaves by was decided before it was led here.
	t.add(out, to(own), protocol(expr.CmpOpEq, unix.IPPROTO_TCP), port(servicePort), accept())
	nat := t.natChain("services", nftables.ChainHookOutput)
	for _, s := range n.Policy.Services {
		t.add(nat, to(netip.PrefixFrom(s.Addr, s.Addr.BitLen())), protocol(expr.CmpOpEq, unix.IPPROTO_TCP), lead(servicePort))
	}
}

// servingMachine does the same for a machine, whose packets come by its device.
func (t *table) servingMachine(n Net, first, in *nftables.Chain) {
	nat := t.natChain("machine-services", nftables.ChainHookPrerouting)
	for _, s := range n.Policy.Services {
		t.add(nat, cameBy(n.Tap), to(netip.PrefixFrom(s.Addr, s.Addr.BitLen())), protocol(expr.CmpOpEq, unix.IPPROTO_TCP), lead(servicePort))
	}
	for _, c := range []*nftables.Chain{first, in} {
		t.add(c, cameBy(n.Tap), to(netip.PrefixFrom(MachineGateway, 32)), protocol(expr.CmpOpEq, unix.IPPROTO_TCP), port(servicePort), accept())
	}
}

func (t *table) natChain(name string, hook *nftables.ChainHook) *nftables.Chain {
	return t.c.AddChain(&nftables.Chain{Name: name, Table: t.t, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest})
}

// lead sends a connection to a port of the namespace's own.
func lead(to uint16) words {
	return words{&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, to)}, &expr.Redir{RegisterProtoMin: 1}}
}

// silence matches the kernel's refusal of a connection at a port: a reset that
// answers the first packet has the sequence number 0 (RFC 9293, 3.5.2), one of a
// connection that was there has not.
func silence(from uint16) words {
	const rst = 4
	w := append(family(unix.NFPROTO_IPV4), protocol(expr.CmpOpEq, unix.IPPROTO_TCP)...)
	return append(w,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, from)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 4, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{rst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}})
}

// serving are the tasks whose services this agent answers for.
type serving struct {
	mu     sync.Mutex
	closed bool                            // guarded by mu, as is all
	tasks  map[placement.TaskID]*attendant // those that are answered for
	all    sync.WaitGroup
}

// attendant answers for one task's services.
type attendant struct {
	b        *Boundary
	task     placement.TaskID
	services map[netip.Addr]string
	connect  Connect
	end      context.CancelFunc
	done     chan struct{}
	listens  bool // guarded by serving.mu
}

// Serve answers for the services of a task, from when its network is there until
// it is not, or until [Boundary.Close]. It returns at once, and may be called for a
// task over and over: after a restart of the agent the task is answered again.
func (b *Boundary) Serve(task placement.TaskID, services []placement.ServiceAt, connect Connect) {
	s := &b.serving
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(services) == 0 || s.tasks[task] != nil {
		return
	}
	if s.tasks == nil {
		s.tasks = make(map[placement.TaskID]*attendant)
	}
	ctx, end := context.WithCancel(context.Background())
	a := &attendant{b: b, task: task, services: make(map[netip.Addr]string), connect: connect, end: end, done: make(chan struct{})}
	for _, one := range services {
		a.services[one.Addr] = one.Name
	}
	s.tasks[task] = a
	s.all.Go(func() {
		defer close(a.done)
		defer end()
		a.run(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.tasks[task] == a {
			delete(s.tasks, task)
		}
	})
}

// answers reports whether the task's services are answered for.
func (b *Boundary) answers(task placement.TaskID) bool {
	b.serving.mu.Lock()
	defer b.serving.mu.Unlock()
	a := b.serving.tasks[task]
	return a != nil && a.listens
}

// unserve ends what is answered for a task, and its connections.
func (b *Boundary) unserve(task placement.TaskID) {
	b.serving.mu.Lock()
	a := b.serving.tasks[task]
	delete(b.serving.tasks, task)
	b.serving.mu.Unlock()
	if a != nil {
		a.end()
		<-a.done
	}
}

func (b *Boundary) closeServing() {
	b.serving.mu.Lock()
	b.serving.closed = true
	for _, a := range b.serving.tasks {
		a.end()
	}
	b.serving.mu.Unlock()
	b.serving.all.Wait()
}

// run waits for the task's network and answers in it. It is made by somebody else,
// a supervisor it may be, and so is its end.
func (a *attendant) run(ctx context.Context) {
	late := time.Now().Add(serveWithin)
	for pause := serveRetry; ctx.Err() == nil && time.Now().Before(late); pause = min(pause*3/2, serveLook/4) {
		if l, err := a.listen(ctx); err == nil {
			a.serve(ctx, l)
			return
		}
		wait(ctx, pause)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// there reports whether the task's network stands.
func (a *attendant) there() bool {
	s, err := load(a.b.statePath(a.task))
	return err == nil && s.stands()
}

func (a *attendant) listen(ctx context.Context) (l net.Listener, err error) {
	if !a.there() {
		return nil, os.ErrNotExist
	}
	ns, err := a.b.Namespace(a.task)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = inside(ns, func() error {
		var config net.ListenConfig
		l, err = config.Listen(ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", servicePort))
		return err
	})
	return l, err
}

// serve takes connections until the task's network is gone or ctx ends. A socket
// keeps its namespace, so it does not outlive the task's.
func (a *attendant) serve(ctx context.Context, l net.Listener) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	a.tell(true)
	defer a.tell(false)
	var open sync.WaitGroup
	defer open.Wait()
	defer end()
	open.Go(func() {
		for ctx.Err() == nil && a.there() {
			wait(ctx, serveLook)
		}
		end()
	})
	slots := make(chan struct{}, servedMost)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			wait(ctx, serveRetry) // out of descriptors, it may be: nobody is turned away for that
			continue
		}
		conn := c.(*net.TCPConn)
		select {
		case slots <- struct{}{}:
			open.Go(func() { defer func() { <-slots }(); a.carry(ctx, conn) })
		default:
			a.refuse(conn, true)
		}
	}
}

func (a *attendant) tell(listens bool) {
	a.b.serving.mu.Lock()
	defer a.b.serving.mu.Unlock()
	a.listens = listens
}

// carry joins a connection to the service that it was made to.
func (a *attendant) carry(ctx context.Context, conn *net.TCPConn) {
	at, err := meant(conn)
	name := a.services[at.Addr()]
	if err != nil || name == "" {
		a.refuse(conn, true) // it was made to this port itself
		return
	}
	asked, cancel := context.WithTimeout(ctx, connectWithin)
	far, err := a.connect(asked, name, int(at.Port()))
	cancel()
	if err != nil {
		a.refuse(conn, ruled(err))
		return
	}
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), far.Close() })()
	// Whatever ends the connection but its two ends resets it, the death of this
	// process too: half an answer is not taken for a whole one.
	_ = conn.SetLinger(0)
	whole, err := join(conn, far)
	if whole {
		_ = conn.SetLinger(-1)
	} else if ruled(err) {
		a.b.refusals.add(a.task, served(name, at.Port()), a.b.cfg.Distinct)
	}
	_, _ = conn.Close(), far.Close()
}

// ruled reports whether a rule said no.
func ruled(err error) bool {
	var rule interface{ Refused() bool }
	return errors.As(err, &rule) && rule.Refused()
}

// served is how refused connections to a service are counted.
func served(name string, port uint16) string { return fmt.Sprintf("service:%s:%d/tcp", name, port) }

// refuse ends a connection as one that was never wanted, and counts it.
func (a *attendant) refuse(conn *net.TCPConn, count bool) {
	if count {
		text := "the node's proxy"
		if at, err := meant(conn); err == nil {
			if text = at.String() + "/tcp"; a.services[at.Addr()] != "" {
				text = served(a.services[at.Addr()], at.Port())
			}
		}
		a.b.refusals.add(a.task, text, a.b.cfg.Distinct)
	}
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// join carries bytes both ways until both ends have ended, or something broke. The
// end of one direction is passed on as such; a break closes both. It reports whether
// each end has told its own, and if not, why.
func join(a, b net.Conn) (whole bool, why error) {
	one := func(to, from net.Conn) error {
		_, err := io.Copy(to, from)
		if err == nil {
			err = errors.ErrUnsupported
			if half, can := to.(interface{ CloseWrite() error }); can {
				err = half.CloseWrite()
			}
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
		}
		return err
	}
	var both sync.WaitGroup
	var back error
	both.Go(func() { back = one(a, b) })
	there := one(b, a)
	both.Wait()
	why = errors.Join(there, back)
	return why == nil, why
}

// meant is the address that a connection was made to, before it was led to us.
func meant(conn *net.TCPConn) (at netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return at, err
	}
	control := raw.Control(func(fd uintptr) {
		// A sockaddr_in, read as another structure of at least its size.
		var m *unix.IPv6Mreq
		if m, err = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST); err == nil {
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Multiaddr[4:8])), binary.BigEndian.Uint16(m.Multiaddr[2:4]))
		}
	})
	return at, errors.Join(control, err)
}

// refusals are connections to services that were refused and are in no state yet.
type refusals struct {
	mu  sync.Mutex
	all map[placement.TaskID]denials // guarded by mu
}

// add counts one. Beyond so many destinations they are counted together.
func (r *refusals) add(task placement.TaskID, destination string, distinct int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = make(map[placement.TaskID]denials)
	}
	known := r.all[task]
	if known == nil {
		known = make(denials)
		r.all[task] = known
	}
	if _, there := known[destination]; !there && len(known) >= distinct {
		destination = rest
	}
	now := time.Now()
	d := known[destination]
	known[destination] = runner.Denial{Destination: destination, Packets: d.Packets + 1, First: earlier(d.First, now), Last: now}
}

// take adds them to what is known of the task, and forgets them.
func (r *refusals) take(task placement.TaskID, to []runner.Denial) []runner.Denial {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := r.all[task]
	if len(fresh) == 0 {
		return to
	}
	delete(r.all, task)
	return bounded(sum(to, sorted(fresh)))
}
