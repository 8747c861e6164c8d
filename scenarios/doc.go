// Package scenarios holds what is test, demonstration and documentation at
// once: scripts with the output they must print, and the record of which
// package imports which. Nothing imports it.
package scenarios
