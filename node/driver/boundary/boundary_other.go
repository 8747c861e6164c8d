//go:build !linux

// Package boundary holds what a task may reach on the network. It needs Linux;
// elsewhere only policies are read.
package boundary
