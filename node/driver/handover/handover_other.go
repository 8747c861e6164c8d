//go:build !linux

package handover
