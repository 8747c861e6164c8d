//go:build !linux

// Package claims keeps the agents of one machine out of each other's way. It needs Linux.
package claims
