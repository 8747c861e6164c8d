package state

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// The names, keys and notes of logs: ours and those of peers.

// LogOrigin is the name of the region's log: "<region>.<mesh>/ledger", and
// after the n-th recovery "<region>.<mesh>/ledger/<n+1>".
func (v *View) LogOrigin() string {
	if v.self == nil {
		return ""
	}
	return LogOrigin(v.self.ID, v.self.Mesh, v.Restarts)
}

// LogOrigin is the name of a region's log after so many restarts.
func LogOrigin(region placement.RegionID, mesh string, restarts int) string {
	origin := string(region) + "." + mesh + "/ledger"
	if restarts > 0 {
		origin += "/" + strconv.Itoa(restarts+1)
	}
	return origin
}

// WitnessName is the name under which a region cosigns the logs of others.
func WitnessName(region placement.RegionID, mesh string) string {
	return string(region) + "." + mesh + "/witness"
}

// PeerLogKey is the verifier key of a log of an active peer, by the log's
// origin, as it was pinned when the peer was approved; empty if there is none.
func (v *View) PeerLogKey(origin string) (key string) {
	v.regions.ascend("", func(_ string, r *placement.Region) bool {
		base := LogOrigin(r.ID, r.Mesh, 0)
		if !r.Self && r.State == placement.PeerActive && r.LogKey != "" && (origin == base || restartOf(origin, base)) {
			key = keyNamed(r.LogKey, origin)
		}
		return key == ""
	})
	return key
}

// LogKey is the verifier key of the region's own log, named after its origin;
// empty if the region has none.
func (v *View) LogKey() string {
	if v.self == nil || v.self.LogKey == "" {
		return ""
	}
	return keyNamed(v.self.LogKey, v.LogOrigin())
}

// keyNamed is the same key under another name: that of a log begun anew.
func keyNamed(key, name string) string {
	parts := strings.SplitN(key, "+", 3)
	if len(parts) != 3 || parts[0] == name {
		return key
	}
	public, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), public...))
	return fmt.Sprintf("%s+%08x+%s", name, sum[:4], parts[2])
}

// restartOf reports whether an origin is that of a log begun anew.
func restartOf(origin, base string) bool {
	rest, ok := strings.CutPrefix(origin, base+"/")
	n, err := strconv.Atoi(rest)
	return ok && err == nil && n > 1 && n < 1000 && strconv.Itoa(n) == rest
}

// checkpointText is the note's text (https://c2sp.org/tlog-checkpoint).
func checkpointText(origin string, size uint64, root ledger.Hash) string {
	return origin + "\n" + strconv.FormatUint(size, 10) + "\n" + tlog.Hash(root).String() + "\n"
}

func parseCheckpoint(text, origin string) (size uint64, root ledger.Hash, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != origin || lines[3] != "" {
		return 0, root, fmt.Errorf("the note is no checkpoint of %s", clip(origin))
	}
	size, err = strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return 0, root, fmt.Errorf("the checkpoint has no size")
	}
	h, err := tlog.ParseHash(lines[2])
	if err != nil || h.String() != lines[2] {
		return 0, root, fmt.Errorf("the checkpoint has no root")
	}
	return size, ledger.Hash(h), nil
}

// openNote gives the text of a note that the key signed.
func openNote(signed, key string) (string, error) {
	v, err := note.NewVerifier(key)
	if err != nil {
		return "", err
	}
	n, err := note.Open([]byte(signed), note.VerifierList(v))
	if err != nil {
		return "", err
	}
	return n.Text, nil
}
