//go:build linux

package enginetest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
)

// TestEngineLeavesNothing starts each engine, gives it an image, kills it,
// starts it again and ends it.
func TestEngineLeavesNothing(t *testing.T) {
	for _, kind := range enginetest.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			if why := enginetest.Missing(kind); why != "" {
				t.Skipf("no %s here: %s", kind, why)
			}
			e, err := enginetest.Start(kind)
			if err != nil {
				t.Fatal(err)
			}
			img, err := enginetest.Image()
			if err != nil {
				t.Fatal(err)
			}
			e.Load(t, "example.test/app:1", img)
			if err := e.Kill(); err != nil {
				t.Error(err)
			}
			if err := e.Run(); err != nil {
				t.Error(err)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(e.Dir); !os.IsNotExist(err) {
				t.Errorf("its directory is still there: %v", err)
			}
			mounts, _ := os.ReadFile("/proc/self/mounts")
			if left := filepath.Base(e.Dir); bytes.Contains(mounts, []byte(left)) {
				t.Errorf("a mount of it is still there")
			}
		})
	}
}
