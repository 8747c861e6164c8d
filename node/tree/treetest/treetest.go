// Package treetest makes trees that are deeper than a process may open files, for
// the tests of those who remove what workloads left.
package treetest

import (
	"os"
	"syscall"
	"testing"
)

// deep is how many levels a tree has, and few how many files a test may open.
const (
	deep = 3000
	few  = 512
)

// Deep makes a tree below dir that is deeper than any path and than [FewFiles].
func Deep(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range deep {
		below, err := down(at)
		_ = at.Close()
		if err != nil {
			t.Fatal(err)
		}
		at = below
	}
	_ = at.Close()
}

func down(at *os.Root) (*os.Root, error) {
	if err := at.Mkdir("deeper", 0o755); err != nil {
		return nil, err
	}
	return at.OpenRoot("deeper")
}

// FewFiles bounds how many files the test's process may have open, until the test
// is over.
func FewFiles(t *testing.T) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: few, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
}
