package ledger

// Under is the same key for another log: that of a region which began its log
// anew. The origin stands in every signed text, so that no checkpoint of one
// log is one of the other.
func (s *Signer) Under(origin string) (*Signer, error) { return NewSigner(origin, s.seed) }

// Under is the same key for another log.
func (v *Verifier) Under(origin string) (*Verifier, error) {
	return newVerifier(origin, v.algorithm, []byte(v.public))
}
