package api

import (
	"strings"
	"testing"
	"time"
)

// The keys of a log in a card count only if a node of that very region vouches
// for just these keys, now and for this purpose: whoever carries the card could
// else pair a region's own certificates with a log of his.
func TestACardsKeysAreVouchedForByItsRegion(t *testing.T) {
	w := newWorld(t)
	fra, ber := w.add("fra-1", "FR", 0), w.add("ber-1", "DE", 0)
	now := w.clock.now()
	honest, err := fra.server.card(fra.ledger.View())
	if err != nil {
		t.Fatal(err)
	}
	if honest.KeyProof == "" {
		t.Fatal("the card has no key_proof")
	}
	other, err := ber.server.card(ber.ledger.View())
	if err != nil {
		t.Fatal(err)
	}
	if _, peer, err := honest.read(testMesh, now); err != nil || peer.LogKey != honest.LogKey || peer.WitnessKey != honest.WitnessKey {
		t.Fatalf("an honest card: %v", err)
	}
	signed := func(r *region, context string, payload []byte) string {
		t.Helper()
		s, err := r.server.sign(context, payload)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	tests := []struct {
		name   string
		change func(c *RegionCard)
		at     time.Time
	}{
		{"no proof", func(c *RegionCard) { c.KeyProof = "" }, now},
		{"no statement at all", func(c *RegionCard) { c.KeyProof = "trust me" }, now},
		{"another log key", func(c *RegionCard) { c.LogKey = other.LogKey }, now},
		{"another witness key", func(c *RegionCard) { c.WitnessKey = other.WitnessKey }, now},
		{"no witness key", func(c *RegionCard) { c.WitnessKey = "" }, now},
		{"of another region's node", func(c *RegionCard) {
			c.LogKey, c.WitnessKey = other.LogKey, other.WitnessKey
			c.KeyProof = signed(ber, ContextLedgerKeys, ledgerKeysPayload("fra-1", other.LogKey, other.WitnessKey))
		}, now},
		{"another region's own", func(c *RegionCard) {
			c.LogKey, c.WitnessKey, c.KeyProof = other.LogKey, other.WitnessKey, other.KeyProof
		}, now},
		{"for another purpose", func(c *RegionCard) {
			c.KeyProof = signed(fra, ContextSummary, ledgerKeysPayload("fra-1", c.LogKey, c.WitnessKey))
		}, now},
		{"about another region", func(c *RegionCard) {
			c.KeyProof = signed(fra, ContextLedgerKeys, ledgerKeysPayload("ber-1", c.LogKey, c.WitnessKey))
		}, now},
		{"of a certificate that has run out", func(*RegionCard) {}, now.AddDate(0, 0, 40)},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			card := *honest
			tc.change(&card)
			_, _, err := card.read(testMesh, tc.at)
			if err == nil || CodeOf(err) != CodeBody || !strings.Contains(err.Error(), "vouches for the keys of its log") || !strings.Contains(HintOf(err), "do not federate") {
				t.Errorf("%v (%s)", err, CodeOf(err))
			}
		})
	}
	bad := []byte(honest.KeyProof)
	for i := range bad {
		card := *honest
		changed := append([]byte(nil), bad...)
		changed[i] ^= 1
		card.KeyProof = string(changed)
		if _, _, err := card.read(testMesh, now); err == nil {
			t.Fatalf("byte %d of the proof changed, and it is believed", i)
		}
	}
}
