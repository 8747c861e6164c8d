//go:build linux

package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// The qcow2 format, as far as an image is judged by it before QEMU sees it, and
// as far as an empty disk is written in it.
// https://www.qemu.org/docs/master/interop/qcow2.html
const (
	qcowMagic     = 0x514649fb
	qcowV2Header  = 72
	qcowV3Header  = 104
	extBacking    = 0xe2792aca // name of the backing file's format
	extDataFile   = 0x44415441 // name of an external data file
	extEncryption = 0x0537be77
)

// The incompatible features that an image may have: left open by somebody that
// crashed, compressed by another method, subclusters.
const featuresTaken = 1<<0 | 1<<3 | 1<<4

// inspectQcow2 reads the header of an image and returns the size of the disk
// that a guest sees. It refuses whatever would make QEMU open another file, and
// what is not a plain image: a backing file, a data file, encryption.
func inspectQcow2(r io.ReaderAt) (virtual int64, err error) {
	var head [64 << 10]byte
	n, err := r.ReadAt(head[:], 0)
	if n < qcowV2Header {
		return 0, errors.New("it is no qcow2 image: it is shorter than a header")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	b := head[:n]
	u32, u64 := binary.BigEndian.Uint32, binary.BigEndian.Uint64
	version, headerLength := u32(b[4:]), uint32(qcowV2Header)
	switch {
	case u32(b) != qcowMagic:
		return 0, errors.New("it is no qcow2 image: it does not begin as one")
	case version != 2 && version != 3:
		return 0, fmt.Errorf("its qcow2 version is %d, not 2 or 3", version)
	case u64(b[8:]) != 0 || u32(b[16:]) != 0:
		return 0, errors.New("it has a backing file: an image must be whole; convert it with qemu-img convert")
	case u32(b[32:]) != 0:
		return 0, errors.New("it is encrypted: QEMU would need its key")
	}
	if bits := u32(b[20:]); bits < 9 || bits > 21 {
		return 0, fmt.Errorf("its clusters are 2^%d bytes", bits)
	}
	if version == 3 {
		if n < qcowV3Header {
			return 0, errors.New("its header is cut off")
		}
		if other := u64(b[72:]) &^ featuresTaken; other != 0 {
			return 0, fmt.Errorf("it has features that are not taken here (%#x): a data file outside of it, or damage", other)
		}
		if headerLength = u32(b[100:]); headerLength < qcowV3Header || headerLength%8 != 0 || int(headerLength) > n {
			return 0, fmt.Errorf("its header is %d bytes long", headerLength)
		}
	}
	if err := inspectExtensions(b[headerLength:]); err != nil {
		return 0, err
	}
	size := u64(b[24:])
	if size == 0 || size > 1<<60 {
		return 0, fmt.Errorf("its disk is %d bytes long", size)
	}
	return int64(size), nil
}

// inspectExtensions walks the header's extensions, each a type, a length and
// data that fills up eight bytes.
func inspectExtensions(b []byte) error {
	for range 64 {
		if len(b) < 8 {
			return nil // they reach as far as the first cluster, which may be short
		}
		kind, length := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		switch kind {
		case 0:
			return nil
		case extBacking, extDataFile:
			return errors.New("it names another file: an image must be whole; convert it with qemu-img convert")
		case extEncryption:
			return errors.New("it is encrypted: QEMU would need its key")
		}
		padded := (uint64(length) + 7) &^ 7
		if uint64(len(b)-8) < padded {
			return errors.New("an extension of its header is cut off")
		}
		b = b[8+padded:]
	}
	return errors.New("its header has more than 64 extensions")
}

// newQcow2 writes an empty disk of the given size, without the name of anything
// that lies beneath it: whoever opens it says that. The file must not exist.
func newQcow2(path string, size int64) error {
	const cluster, perTable = 64 << 10, 64 << 10 / 8
	l1 := (size + perTable*cluster - 1) / (perTable * cluster)
	l1Clusters := (l1*8 + cluster - 1) / cluster
	clusters := 3 + l1Clusters
	if size <= 0 || size%512 != 0 || clusters > cluster/2 {
		return fmt.Errorf("a disk of %d bytes cannot be made", size)
	}
	b := make([]byte, clusters*cluster)
	put32, put64 := binary.BigEndian.PutUint32, binary.BigEndian.PutUint64
	put32(b, qcowMagic)
	put32(b[4:], 3)
	put32(b[20:], 16) // bits of a cluster
	put64(b[24:], uint64(size))
	put32(b[36:], uint32(l1))
	put64(b[40:], 3*cluster) // the L1 table
	put64(b[48:], cluster)   // the table of reference counts
	put32(b[56:], 1)
	put32(b[96:], 4) // 16 bits for a count
	put32(b[100:], qcowV3Header)
	put64(b[cluster:], 2*cluster)
	for i := range clusters {
		binary.BigEndian.PutUint16(b[2*cluster+2*i:], 1)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
