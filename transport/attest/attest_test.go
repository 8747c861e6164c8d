package attest

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestNoneProvesNothing(t *testing.T) {
	e, err := None{}.Quote(context.Background(), []byte("nonce"))
	if err != nil || e.Kind != KindNone {
		t.Fatalf("Quote = %+v, %v", e, err)
	}
	claims, err := Claims(e, time.Now())
	if err != nil || claims == nil || len(claims) != 0 {
		t.Fatalf("Claims = %v, %v; want an empty map", claims, err)
	}
}

func TestClaimsRefusesWhatItCannotVerify(t *testing.T) {
	for _, kind := range []string{"", "None", "sev-snp", "tdx"} {
		claims, err := Claims(Evidence{Kind: kind, Data: []byte{1}}, time.Now())
		var unknown *UnknownKindError
		if !errors.As(err, &unknown) || claims != nil || unknown.Hint() == "" {
			t.Errorf("kind %q: claims %v, err %v", kind, claims, err)
		}
	}
	if _, err := Claims(Evidence{Kind: KindNone, Data: []byte{1}}, time.Now()); err == nil {
		t.Error("evidence of no hardware that carries data was accepted")
	}
	if _, err := Claims(Evidence{Kind: KindNone, Data: make([]byte, MaxEvidence+1)}, time.Now()); err == nil {
		t.Error("oversized evidence was accepted")
	}
}
