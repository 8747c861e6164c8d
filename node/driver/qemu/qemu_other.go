//go:build !linux

// Package qemu runs one QEMU process per task; it needs Linux.
package qemu

import (
	"context"
	"errors"
)

// Accel is what a machine runs on; nothing does here.
type Accel struct{}

// Probe finds nothing.
func Probe(context.Context, string) (Accel, error) { return Accel{}, errors.ErrUnsupported }
