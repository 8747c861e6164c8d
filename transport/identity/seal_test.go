package identity

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func sealKey(t testing.TB, b byte) *SealKey {
	t.Helper()
	k, err := NewSealKey(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhatIsSealedOpensForItsHolderAndPurposeAlone(t *testing.T) {
	k, other := sealKey(t, 1), sealKey(t, 2)
	if again := sealKey(t, 1); again.Public() != k.Public() || !ValidSealKey(k.Public()) || other.Public() == k.Public() {
		t.Fatal("a seed does not always give the same key, or another gives it too")
	}
	sealed, err := Seal(k.Public(), "job 1", []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open("job 1", sealed); err != nil || string(got) != "hunter2" {
		t.Errorf("it opens as %q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another key":     func() ([]byte, error) { return other.Open("job 1", sealed) },
		"another purpose": func() ([]byte, error) { return k.Open("job 2", sealed) },
		"a changed byte":  func() ([]byte, error) { return k.Open("job 1", sealed[:len(sealed)-2]+"AA") },
		"cut short":       func() ([]byte, error) { return k.Open("job 1", sealed[:40]) },
		"never sealed":    func() ([]byte, error) { return k.Open("job 1", "hunter2") },
		"too large":       func() ([]byte, error) { return k.Open("job 1", sealedPrefix+strings.Repeat("A", MaxSealed+1)) },
	} {
		if got, err := open(); err == nil || len(got) != 0 {
			t.Errorf("%s opens it: %q", name, got)
		}
	}
	if twice, _ := Seal(k.Public(), "job 1", []byte("hunter2")); twice == sealed || strings.Contains(sealed, "hunter2") {
		t.Error("what is sealed twice is the same, or shows what it holds")
	}
	if text := fmt.Sprintf("%v %+v %s %#v", k, k, k, k); strings.Trim(strings.ReplaceAll(text, "a sealing key", ""), " ") != "" {
		t.Errorf("a key is printed as %s", text)
	}
	if _, err := Seal("no key", "p", nil); err == nil {
		t.Error("sealed with no key")
	}
}

func FuzzOpenSealed(f *testing.F) {
	k := sealKey(f, 1)
	sealed, err := Seal(k.Public(), "p", []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealedPrefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if secret, err := k.Open("p", text); err == nil && string(secret) != "x" {
			t.Errorf("%q opens as %q", text, secret)
		}
		ValidSealKey(text)
	})
}
