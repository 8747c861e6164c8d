package identity

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestRefusalsSayWhatToDo(t *testing.T) {
	for _, r := range []Reason{UnknownTrustDomain, ForeignRegion, NotRaftPeer, WrongPeer, Revoked, Expired, NotYetValid,
		BadCertificate, UnknownClass, NoCredential, BadStatement, WrongContext} {
		err := fmt.Errorf("dial: %w", &RefusedError{Reason: r, Peer: "spiffe://fra-1.mesh/node/n1", Detail: "detail", Err: errors.New("cause")})
		var refused *RefusedError
		if !errors.As(err, &refused) || ReasonOf(err) != r || refused.Hint() == "" || errors.Unwrap(refused) == nil {
			t.Errorf("%s: %v", r, err)
		}
		for _, part := range []string{string(r), "spiffe://fra-1.mesh/node/n1", "detail", "cause"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
	}
	if ReasonOf(errors.New("other")) != "" || ReasonOf(nil) != "" {
		t.Error("a reason was found where there is none")
	}
}
