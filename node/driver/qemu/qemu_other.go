//go:build !linux

// Package qemu runs one QEMU process per task; it needs Linux.
package qemu
