package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/witness"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// sealKeyOf is what secrets are sealed with in a region: it follows from the key
// of its log, which voters alone have, so that it needs no custody of its own.
func sealKeyOf(keys *witness.Keys) (*identity.SealKey, error) {
	seed, err := keys.Derive("seal v1")
	if err != nil {
		return nil, err
	}
	return identity.NewSealKey(seed)
}

// Unseal opens what was sealed to this region, where this node votes.
func (a *authority) Unseal(purpose, sealed string) ([]byte, error) {
	keys := a.ledgerKeys()
	if keys == nil {
		return nil, errNoAuthority
	}
	k, err := sealKeyOf(keys)
	if err != nil {
		return nil, err
	}
	return k.Open(purpose, sealed)
}

// secrets are those of a task that this node is about to start: opened here where
// it votes, asked of a voter elsewhere.
func (n *Node) secrets(ctx context.Context, task placement.TaskID, job *placement.Job) (map[string][]byte, error) {
	if job.Spec.Setup == nil || len(job.Spec.Setup.Secrets) == 0 {
		return nil, nil
	}
	if err := n.makeSecretsDir(); err != nil {
		return nil, err
	}
	if n.authority.ledgerKeys() != nil {
		return openSecrets(n.authority, job.ID, job.Spec.Setup.Secrets)
	}
	err := errors.New("no voter of the region is known")
	for _, p := range n.voters() {
		asked, cancel := context.WithTimeout(ctx, keyringWithin)
		var got map[string][]byte
		got, err = n.mesh.TaskSecrets(asked, p, task)
		cancel()
		if err == nil {
			return got, nil
		}
	}
	return nil, fmt.Errorf("open the job's secrets: %w", err)
}

func openSecrets(a *authority, job placement.JobID, sealed map[string]string) (map[string][]byte, error) {
	out := make(map[string][]byte, len(sealed))
	for name, text := range sealed {
		secret, err := a.Unseal(placement.SecretPurpose(job, name), text)
		if err != nil {
			return nil, fmt.Errorf("open the secret %s: %w", name, err)
		}
		out[name] = secret
	}
	return out, nil
}

// unsealed is a job's spec as its author wrote it, for the one region that takes
// the job: over mutual TLS to it, which seals the secrets to itself.
func (n *Node) unsealed(job *placement.Job) (placement.JobSpec, error) {
	spec := job.Spec
	if spec.Setup == nil || len(spec.Setup.Secrets) == 0 {
		return spec, nil
	}
	open, err := openSecrets(n.authority, job.ID, spec.Setup.Secrets)
	if err != nil {
		return spec, err
	}
	setup := *spec.Setup
	setup.Secrets = make(map[string]string, len(open))
	for name, secret := range open {
		setup.Secrets[name] = string(secret)
	}
	spec.Setup = &setup
	return spec, nil
}

// secretsDir is where secrets of running tasks lie, in memory, so that they are on
// no disk and gone with the machine's power; empty where there is no such place.
// It is this node's own, by its data directory, and made when it is needed.
func (n *Node) secretsDir() string {
	for _, base := range []string{"/run", os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm"} {
		if base != "" && inMemory(base) && unix.Access(base, unix.W_OK) == nil {
			return filepath.Join(base, fmt.Sprintf("sovmesh-%d-%s", os.Getuid(), hashHex(sha256.Sum256([]byte(n.dir)))[:16]))
		}
	}
	return ""
}

// makeSecretsDir makes it, and takes nobody else's: anybody may write beside it.
func (n *Node) makeSecretsDir() error {
	dir := n.secretsDir()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make a directory for secrets: %w", err)
	}
	if !private(dir) {
		return fmt.Errorf("the directory %s, which is for this node's secrets, is somebody else's", dir)
	}
	return nil
}
