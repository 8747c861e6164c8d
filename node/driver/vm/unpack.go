//go:build linux

package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// unpackQcow2 writes what a qcow2 image holds to a raw disk that holds nothing yet,
// and leaves holes where the image has no data. It takes what QEMU writes into an
// image of ours: nothing beneath it, nothing compressed, no subclusters, and each
// cluster once, so that no more is written than the most bytes of its file.
func unpackQcow2(ctx context.Context, to io.WriterAt, from io.ReaderAt, most int64) error {
	size, err := inspectQcow2(from)
	if err != nil {
		return err
	}
	var head [qcowV3Header]byte
	if _, err := from.ReadAt(head[:], 0); err != nil {
		return err
	}
	if version, features := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint64(head[72:]); version != 3 || features&^1 != 0 {
		return fmt.Errorf("its qcow2 version is %d, with features %#x, which no copy has", version, features)
	}
	u := unpacker{to: to, from: from, size: size, left: most, cluster: 1 << binary.BigEndian.Uint32(head[20:])}
	perTable := u.cluster / 8
	tables, have := (size+perTable*u.cluster-1)/(perTable*u.cluster), int64(binary.BigEndian.Uint32(head[36:]))
	if have < tables {
		return fmt.Errorf("its table has %d entries, and its disk needs %d", have, tables)
	}
	u.entries, u.data = make([]byte, u.cluster), make([]byte, u.cluster)
	l1 := int64(binary.BigEndian.Uint64(head[40:]))
	for i := range tables {
		if err := ctx.Err(); err != nil {
			return err
		}
		var entry [8]byte
		if err := u.read(entry[:], l1+8*i); err != nil {
			return fmt.Errorf("its table: %w", err)
		}
		if err := u.table(int64(binary.BigEndian.Uint64(entry[:])&qcowOffset), i*perTable*u.cluster); err != nil {
			return err
		}
	}
	return nil
}

// An entry of a table: where the cluster lies, and bits about it.
// https://www.qemu.org/docs/master/interop/qcow2.html#cluster-mapping
const (
	qcowOffset     = 0x00fffffffffffe00
	qcowCompressed = 1 << 62
	qcowZero       = 1
)

type unpacker struct {
	to            io.WriterAt
	from          io.ReaderAt
	size, cluster int64
	left          int64 // bytes that may still be written
	entries, data []byte
}

// table unpacks what one table of clusters names, which begins at a place of the disk.
func (u *unpacker) table(table, disk int64) error {
	if table == 0 {
		return nil
	}
	if err := u.read(u.entries, table); err != nil {
		return fmt.Errorf("a table of clusters: %w", err)
	}
	for i := int64(0); i < u.cluster/8 && disk+i*u.cluster < u.size; i++ {
		entry := binary.BigEndian.Uint64(u.entries[8*i:])
		lies, at := int64(entry&qcowOffset), disk+i*u.cluster
		if entry&qcowCompressed != 0 {
			return errors.New("a cluster is compressed")
		}
		if entry&qcowZero != 0 || lies == 0 {
			continue
		}
		data := u.data[:min(u.cluster, u.size-at)]
		// The file may end within its last cluster: what is not there is zeros.
		n, err := u.from.ReadAt(data, lies)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return fmt.Errorf("a cluster lies at %d, where the file has ended", lies)
		}
		if u.left -= int64(n); u.left < 0 {
			return errors.New("it has more clusters than its file has room for")
		}
		if _, err := u.to.WriteAt(data[:n], at); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) read(p []byte, at int64) error {
	if n, err := u.from.ReadAt(p, at); n < len(p) {
		return errors.Join(fmt.Errorf("it lies at %d, where the file has ended", at), err)
	}
	return nil
}
