package identity

import (
	"bytes"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
)

var addresses = []string{"10.0.0.1:7443", "[::1]:7443", "voter.example:443"}

func TestJoinTokenRoundTrips(t *testing.T) {
	b := newCA(t, "fra-1").Bundle()
	token, err := NewJoinToken(b, "n2", addresses, t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseJoinToken(" " + token.Encode() + "\n")
	if err != nil || !reflect.DeepEqual(again, token) || again.Hash() != token.Hash() {
		t.Fatalf("%+v, %v", again, err)
	}
	if !token.Expires.Equal(t0.Add(JoinTTL)) || token.Expired(t0.Add(JoinTTL-time.Second)) || !token.Expired(t0.Add(JoinTTL)) {
		t.Errorf("expires %s", token.Expires)
	}
	if err := token.CheckBundle(b); err != nil {
		t.Error(err)
	}
	for name, other := range map[string]Bundle{
		"other keys":          newCA(t, "fra-1").Bundle(),
		"another region":      newCA(t, "ber-1").Bundle(),
		"other serving roots": {TrustDomain: b.TrustDomain, Roots: b.Roots, ServingRoots: newCA(t, "fra-1").Bundle().ServingRoots},
		"other node roots":    {TrustDomain: b.TrustDomain, Roots: newCA(t, "fra-1").Bundle().Roots, ServingRoots: b.ServingRoots},
	} {
		if err := token.CheckBundle(other); err == nil {
			t.Errorf("a bundle with %s was taken", name)
		}
	}
	second, err := NewJoinToken(b, "n2", addresses, t0, 0)
	if err != nil || second.Secret == token.Secret || second.Hash() == token.Hash() {
		t.Errorf("two tokens share a secret: %v", err)
	}
}

func TestCodesKeepTheirSecretOutOfLogs(t *testing.T) {
	b := newCA(t, "fra-1").Bundle()
	token, err := NewJoinToken(b, "n2", addresses, t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	invite, err := NewInvite(b, addresses, t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "token", token, "invite", invite)
	out := log.String() + fmt.Sprintf("%v %+v %#v %s %v %+v %#v", token, token, token, token, invite, invite, invite)
	for _, secret := range []string{token.Encode(), invite.Encode(), fmt.Sprint(token.Secret), fmt.Sprint(invite.Secret), fmt.Sprintf("%#v", token.Secret)} {
		if strings.Contains(out, secret) {
			t.Errorf("a secret was printed: %s", out)
		}
	}
}

func TestInviteRoundTrips(t *testing.T) {
	b := newCA(t, "fra-1").Bundle()
	invite, err := NewInvite(b, addresses, t0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseInvite(invite.Encode())
	if err != nil || !reflect.DeepEqual(again, invite) || again.Hash() != invite.Hash() || again.Fingerprint != b.Fingerprint() {
		t.Fatalf("%+v, %v", again, err)
	}
	if err := invite.CheckBundle(b); err != nil {
		t.Error(err)
	}
	if err := invite.CheckBundle(newCA(t, "fra-1").Bundle()); err == nil {
		t.Error("a bundle with another fingerprint was taken")
	}
	if invite.Expired(t0) || !invite.Expired(t0.Add(time.Hour)) {
		t.Errorf("expires %s", invite.Expires)
	}
}

// One character anywhere makes a code unreadable, and so does a piece of it.
func TestDamagedCodesAreRefused(t *testing.T) {
	b := newCA(t, "fra-1").Bundle()
	token, err := NewJoinToken(b, "", addresses, t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	invite, err := NewInvite(b, addresses, t0, 0)
	if err != nil {
		t.Fatal(err)
	}
	parsers := map[string]func(string) error{
		token.Encode():  func(s string) error { _, err := ParseJoinToken(s); return err },
		invite.Encode(): func(s string) error { _, err := ParseInvite(s); return err },
	}
	for code, parse := range parsers {
		for i := range code {
			flipped := []byte(code)
			if flipped[i] = 'A'; code[i] == 'A' {
				flipped[i] = 'B'
			}
			if parse(string(flipped)) == nil {
				t.Errorf("character %d changed: accepted", i)
			}
			if parse(code[:i]) == nil {
				t.Errorf("%d characters: accepted", i)
			}
			if parse(code[:i]+"\n"+code[i:]) == nil && i > 0 {
				t.Errorf("broken over lines at %d: accepted", i)
			}
		}
		for _, s := range []string{"", "smjoin-", "smjoin-1", "sminvite-1", code + "A", code + "=", code + code, strings.Repeat("A", maxCode+1), "smjoin-2" + code[8:]} {
			if parse(s) == nil {
				t.Errorf("%.40q: accepted", s)
			}
		}
	}
	if _, err := ParseInvite(token.Encode()); err == nil {
		t.Error("a join token was read as an invite")
	}
}

func TestCodesWithBadFieldsAreNotMade(t *testing.T) {
	b := newCA(t, "fra-1").Bundle()
	for name, list := range map[string][]string{
		"no address": nil, "no port": {"10.0.0.1"}, "port 0": {"10.0.0.1:0"}, "port too high": {"h:65536"}, "port with sign": {"h:+1"},
		"a URL": {"https://h:1"}, "a space": {"a b:1"}, "too many": make([]string, maxAddresses+1), "a long name": {strings.Repeat("a", 300) + ":1"},
	} {
		if _, err := NewJoinToken(b, "", list, t0, 0); err == nil {
			t.Errorf("token with %s", name)
		}
		if _, err := NewInvite(b, list, t0, 0); err == nil {
			t.Errorf("invite with %s", name)
		}
	}
	for _, ttl := range []time.Duration{-time.Second, time.Millisecond, MaxCodeTTL + 1} {
		if _, err := NewJoinToken(b, "", addresses, t0, ttl); err == nil {
			t.Errorf("token for %s", ttl)
		}
	}
	if _, err := NewJoinToken(b, "N 2", addresses, t0, 0); err == nil {
		t.Error("token for a node that cannot be named so")
	}
}

func TestBearer(t *testing.T) {
	token := NewBearer("fra-1")
	if region, ok := RegionOfBearer(token); !ok || region != "fra-1" {
		t.Fatalf("%q is of %q, %v", token, region, ok)
	}
	if !strings.HasPrefix(token, "sm_fra-1_") || NewBearer("fra-1") == token || HashBearer(token) == HashBearer(token+"A") {
		t.Errorf("token %q", token)
	}
	for _, s := range []string{"", "sm_", "sm_fra-1_", "sm_fra-1", token[:len(token)-1], token + "A", " " + token, "SM" + token[2:],
		"sm__" + token[9:], "sm_FRA_" + token[9:], "sk-abc", token + "\n", token[:20] + "\n" + token[20:]} {
		if region, ok := RegionOfBearer(s); ok {
			t.Errorf("%q was read as a token of %s", s, region)
		}
	}
	if k := NewKeyringKey(); len(k) != 32 || bytes.Equal(k, NewKeyringKey()) {
		t.Error("keys are not random")
	}
}

func FuzzParseJoinToken(f *testing.F) {
	token, err := NewJoinToken(newCA(f, "fra-1").Bundle(), "n1", addresses, t0, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.Encode())
	f.Add(encodeCode(joinPrefix, []byte("garbage with a check sum")))
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := ParseJoinToken(s); err == nil && token.Encode() != strings.TrimSpace(s) {
			t.Fatalf("%q has a second spelling %q", s, token.Encode())
		}
		// The check sum keeps the fuzzer out; let it in behind it.
		code := encodeCode(joinPrefix, []byte(s))
		if token, err := ParseJoinToken(code); err == nil && token.Encode() != code {
			t.Fatalf("%q has a second spelling %q", code, token.Encode())
		}
	})
}

func FuzzParseInvite(f *testing.F) {
	invite, err := NewInvite(newCA(f, "fra-1").Bundle(), addresses, t0, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(invite.Encode())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if invite, err := ParseInvite(s); err == nil && invite.Encode() != strings.TrimSpace(s) {
			t.Fatalf("%q has a second spelling %q", s, invite.Encode())
		}
		code := encodeCode(invitePrefix, []byte(s))
		if invite, err := ParseInvite(code); err == nil && invite.Encode() != code {
			t.Fatalf("%q has a second spelling %q", code, invite.Encode())
		}
	})
}
