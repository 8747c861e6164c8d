package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// The files of a data directory. All are private to the node's user.
const (
	fileIdentity   = "identity.json" // who this directory belongs to, and whom it knows
	fileCredential = "node.pem"
	fileServing    = "serving.pem"
	fileCA         = "ca.pem"      // voters only
	fileLogKeys    = "ledger.keys" // voters only
	fileKeyring    = "keyring.json"
	fileResetKey   = "reset.key"
	fileBundles    = "bundles.json"
	fileFounding   = "founding.json" // the first commands of a new region, until they are committed
	fileDevices    = "devices.json"  // the health of this machine's devices
	dirRaft        = "raft"
	dirRunner      = "runner"
	dirSnapshots   = "snapshots"
	dirOutputs     = "outputs"  // what tasks left to be fetched
	dirReceipts    = "receipts" // of inference, in files per segment
	dirRefused     = "refused"  // forged certificates that this node was shown
)

// whoami says which node a data directory belongs to. A directory is never
// used by another node or region than the one it was made for.
type whoami struct {
	Version int                `json:"version"`
	Region  placement.RegionID `json:"region"`
	Mesh    string             `json:"mesh"`
	Node    placement.NodeID   `json:"node"`
	Role    placement.NodeRole `json:"role"`
	// Voters are where the node finds its region again before raft has told it.
	Voters []api.NodeAddress `json:"voters,omitempty"`
}

// dataDir is a node's directory. Files are replaced whole, so that a crash
// leaves the old or the new content.
type dataDir string

func (d dataDir) path(name string) string { return filepath.Join(string(d), name) }

func (d dataDir) has(name string) bool {
	_, err := os.Stat(d.path(name))
	return err == nil
}

func (d dataDir) write(name string, data []byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	f, err := os.CreateTemp(string(d), name+".new*")
	if err != nil {
		return fmt.Errorf("write %s: %w", d.path(name), err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.path(name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.path(name), err)
	}
	return nil
}

func (d dataDir) read(name string) ([]byte, error) {
	data, err := os.ReadFile(d.path(name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.path(name), err)
	}
	return data, nil
}

func (d dataDir) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", d.path(name), err)
	}
	return d.write(name, append(data, '\n'))
}

func (d dataDir) readJSON(name string, v any) error {
	data, err := d.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s is damaged: %w; restore it from a backup, or remove the node and join it again", d.path(name), err)
	}
	return nil
}

// whoami reads who the directory belongs to; ok is false for a fresh one.
func (d dataDir) whoami() (w whoami, ok bool, err error) {
	err = d.readJSON(fileIdentity, &w)
	if errors.Is(err, fs.ErrNotExist) {
		return w, false, nil
	}
	return w, err == nil, err
}

// resetKey is the stateless reset key, made at the first start and kept: with
// it a restarted node is back in a tenth of a second.
func (d dataDir) resetKey() (key [32]byte, err error) {
	data, err := os.ReadFile(d.path(fileResetKey))
	if err == nil && len(data) == len(key) {
		return [32]byte(data), nil
	}
	_, _ = rand.Read(key[:])
	return key, d.write(fileResetKey, key[:])
}

// bundles are the bundles accepted so far, by trust domain: a node has to
// believe its peers before raft has told it whom to believe.
func (d dataDir) bundles() (*identity.MapBundles, error) {
	var stored map[string][]byte
	set := &identity.MapBundles{}
	if err := d.readJSON(fileBundles, &stored); err != nil {
		return nil, err
	}
	for domain, raw := range stored {
		b, err := identity.ParseBundle(raw, bundleMax)
		if err != nil {
			return nil, fmt.Errorf("%s: bundle of %s: %w", d.path(fileBundles), domain, err)
		}
		if b.TrustDomain != domain {
			return nil, fmt.Errorf("%s: the bundle of %s speaks for %s", d.path(fileBundles), domain, b.TrustDomain)
		}
		set.Set(b)
	}
	return set, nil
}

// bundleMax bounds a bundle in bytes.
const bundleMax = 64 << 10

// remove deletes a file that may be gone already.
func (d dataDir) remove(name string) error {
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", d.path(name), err)
	}
	return nil
}
