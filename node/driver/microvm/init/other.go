//go:build !linux

// Command init is the first program of a micro-VM, which runs Linux.
package main

func main() {}
