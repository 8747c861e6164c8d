package fetch

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAProofIsOneTenantsAndOfOneFile(t *testing.T) {
	dir := t.TempDir()
	touch := func(name string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file, other := touch("disk-1.ext4"), touch("sha256-2")
	if Proven(file, "acme") {
		t.Error("a file that is there is somebody's without a proof")
	}
	if err := Prove(file, "acme"); err != nil {
		t.Fatal(err)
	}
	if !Proven(file, "acme") || Proven(file, "globex") || Proven(file, "") || Proven(other, "acme") {
		t.Error("a proof is not its tenant's and its file's alone")
	}
	// As it was written before: 12 bytes of a hash, as those of machines' images had.
	touch(filepath.Base(Proof(other, "tenant acme"))[:len("sha256-2.")+24])
	if !Proven(other, "tenant acme") || Proven(other, "tenant globex") {
		t.Error("an older proof does not count, or for others")
	}

	for _, name := range []string{"disk-1.ext4", "sha256-2", "sha256-2.abc", "seed.raw", ".in-1"} {
		if proof, _ := Leftover(filepath.Join(dir, name)); proof {
			t.Errorf("%s counts as a proof", name)
		}
	}
	if proof, gone := Leftover(Proof(file, "acme")); !proof || gone {
		t.Error("a proof of a file that is there may go")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if Proven(file, "acme") {
		t.Error("a file that is gone is proven")
	}
	if proof, gone := Leftover(Proof(file, "acme")); !proof || !gone {
		t.Error("a proof stays without its file")
	}
	if proof, gone := Leftover(Proof(other, "tenant acme")[:len(other)+1+24]); !proof || gone {
		t.Error("an older proof is not seen as one")
	}
}
