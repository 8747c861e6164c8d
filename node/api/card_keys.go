package api

import (
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// ContextLedgerKeys is of statements about the keys of a region's log.
const ContextLedgerKeys = "sovmesh/ledger-keys/1"

// ledgerKeysPayload is what such a statement says, one line each.
func ledgerKeysPayload(region placement.RegionID, logKey, witnessKey string) []byte {
	return []byte(string(region) + "\n" + logKey + "\n" + witnessKey + "\n")
}

func (s *Server) proveKeys(self *placement.Region) (string, error) {
	return s.sign(ContextLedgerKeys, ledgerKeysPayload(self.ID, self.LogKey, self.WitnessKey))
}

// checkKeys refuses a card whose keys of the log nobody of that region vouches
// for. The card comes by a secret code, and the code's bearer could else pair a
// region's own bundle, the fingerprint of which is compared, with keys of theirs.
func (k RegionCard) checkKeys(b identity.Bundle, now time.Time) error {
	if k.LogKey == "" && k.WitnessKey == "" {
		return nil
	}
	bundles := &identity.MapBundles{}
	bundles.Set(b)
	v := &identity.Verifier{Home: k.Region, Mesh: k.Mesh, Bundles: bundles, Clock: func() time.Time { return now }}
	said, signer, _, err := identity.Open(k.KeyProof, ContextLedgerKeys, v, now)
	if err == nil && (signer.Region != k.Region || string(said) != string(ledgerKeysPayload(k.Region, k.LogKey, k.WitnessKey))) {
		err = fmt.Errorf("it is of %s and speaks of other keys", signer)
	}
	if err != nil {
		return &InputError{Code: CodeBody, Message: "nobody of region " + string(k.Region) + " vouches for the keys of its log: " + err.Error(), Help: "do not federate: ask the other operator, by another way, for the region's card"}
	}
	return nil
}
