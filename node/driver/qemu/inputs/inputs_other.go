//go:build !linux

// Package inputs puts the inputs of tasks on disks for machines; it needs Linux.
package inputs
