package node

import (
	"strings"
	"testing"
)

func TestOneAgentPerDirectory(t *testing.T) {
	dir := dataDir(t.TempDir())
	unlock, err := dir.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.lock(); err == nil || !strings.Contains(err.Error(), "another agent runs") {
		t.Errorf("a second agent was told %v", err)
	}
	unlock()
	again, err := dir.lock()
	if err != nil {
		t.Fatalf("after the first agent ended: %v", err)
	}
	again()
}
