//go:build linux

package boundary

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What follows are the words that rules are written in. Each gives the kernel's
// expressions for one condition or one deed; a rule is a row of them.

type words []expr.Any

func rule(parts ...words) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func family(proto byte) words {
	return words{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

func familyOf(a netip.Addr) words {
	if a.Is4() {
		return family(unix.NFPROTO_IPV4)
	}
	return family(unix.NFPROTO_IPV6)
}

// device compares the name of the device a packet came by, or leaves by.
func device(key expr.MetaKey, op expr.CmpOp, name string) words {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return words{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func cameBy(name string) words   { return device(expr.MetaKeyIIFNAME, expr.CmpOpEq, name) }
func leavesBy(name string) words { return device(expr.MetaKeyOIFNAME, expr.CmpOpEq, name) }

// address compares the bits of a prefix with one end of a packet; the family
// must have been asked before.
func address(p netip.Prefix, source bool, op expr.CmpOp) words {
	offset, size := uint32(16), 4
	switch {
	case p.Addr().Is4() && source:
		offset = 12
	case p.Addr().Is6() && source:
		offset, size = 8, 16
	case p.Addr().Is6():
		offset, size = 24, 16
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	w := words{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)}}
	if !p.IsSingleIP() {
		w = append(w, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: mask, Xor: make([]byte, size)})
	}
	return append(w, &expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()})
}

// to matches packets for a prefix, of its family.
func to(p netip.Prefix) words {
	return append(familyOf(p.Addr()), address(p, false, expr.CmpOpEq)...)
}

// notFrom matches packets of the address' family that do not come from it.
func notFrom(a netip.Addr) words {
	return append(familyOf(a), address(netip.PrefixFrom(a, a.BitLen()), true, expr.CmpOpNeq)...)
}

func from(a netip.Addr) words {
	return append(familyOf(a), address(netip.PrefixFrom(a, a.BitLen()), true, expr.CmpOpEq)...)
}

// toTheNode matches what the node itself would receive.
func toTheNode() words {
	return words{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

func protocol(op expr.CmpOp, n byte) words {
	return words{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte{n}}}
}

// port matches the destination port of a TCP or UDP packet; the protocol must
// have been asked before.
func port(n uint16) words {
	return words{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, n)},
	}
}

// neighbours matches the messages by which IPv6 finds its neighbours and its
// groups: the kernel sends them by itself, so they are nobody's attempt.
func neighbours() words {
	return append(append(family(unix.NFPROTO_IPV6), protocol(expr.CmpOpEq, unix.IPPROTO_ICMPV6)...),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{130}, ToData: []byte{143}})
}

// answers matches packets of a connection that is there already.
func answers() words {
	mask := make([]byte, 4)
	binary.NativeEndian.PutUint32(mask, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	return words{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// opened matches TCP packets that open no connection.
func opened() words {
	const fin, syn, rst, ack = 1, 2, 4, 16
	return append(protocol(expr.CmpOpEq, unix.IPPROTO_TCP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syn}})
}

func count() words { return words{&expr.Counter{}} }

func verdict(k expr.VerdictKind) words { return words{&expr.Verdict{Kind: k}} }

func accept() words { return verdict(expr.VerdictAccept) }
func drop() words   { return verdict(expr.VerdictDrop) }

func leave(chain string) words {
	return words{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// Registers of 4 bytes, behind an address in register 1 (linux/netfilter/nf_tables.h).
const (
	reg32after4  = 9  // NFT_REG32_01
	reg32after16 = 12 // NFT_REG32_04
)

// note adds the packet's destination to a set, or counts it there. With known
// ports it tells them apart; without, the port is told as 0.
func note(set *nftables.Set, v4, ports, refresh bool) words {
	offset, size, reg := uint32(16), uint32(4), uint32(reg32after4)
	if !v4 {
		offset, size, reg = 24, 16, reg32after16
	}
	w := words{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
	}
	if ports {
		w = append(w, &expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	} else {
		w = append(w, &expr.Immediate{Register: reg + 1, Data: []byte{0, 0}})
	}
	op := uint32(unix.NFT_DYNSET_OP_ADD)
	if refresh {
		op = unix.NFT_DYNSET_OP_UPDATE
	}
	return append(w, &expr.Dynset{SrcRegKey: 1, SetID: set.ID, SetName: set.Name, Operation: op})
}

// refuse answers that the destination is not to be reached.
func refuseTCP() words {
	return append(protocol(expr.CmpOpEq, unix.IPPROTO_TCP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
}

func refuse() words {
	return words{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}
