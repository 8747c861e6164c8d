package ledger

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The shape of the example of https://c2sp.org/tlog-policy.
func TestPolicyOfTheSpecification(t *testing.T) {
	text := "log " + vkey(t, Ed25519, "log", 1) + "\n\n"
	for i, name := range []string{"X1", "X2", "X3", "Y1", "Y2", "Y3"} {
		text += "witness " + name + "\t" + vkey(t, CosignatureEd25519, name, byte(10+i)) + " https://example.com/" + name + "\n"
	}
	text += "group X-witnesses 2 X1 X2 X3\n  # a comment\ngroup Y-witnesses any Y1 Y2 Y3\ngroup X-and-Y all X-witnesses Y-witnesses\n\tquorum X-and-Y \n"
	p := must[*Policy](t)(ParsePolicy([]byte(text)))
	for _, tt := range []struct {
		has  string
		want bool
	}{{"", false}, {"X1 X2", false}, {"X1 Y1", false}, {"X1 X3 Y2", true}, {"X1 X2 X3", false}, {"Y1 Y2 Y3", false}, {"X1 X2 X3 Y1 Y2 Y3", true}, {"Z X1 Y1", false}} {
		has := map[string]bool{}
		for _, name := range strings.Fields(tt.has) {
			has[name] = true
		}
		if got := p.quorum(has); got != tt.want {
			t.Errorf("%q: %v", tt.has, got)
		}
	}
	if len(p.Logs()) != 1 || len(p.Witnesses()) != 6 || p.Witnesses()[3].URL != "https://example.com/Y1" || p.Quorum() != "X-and-Y" {
		t.Errorf("%+v", p.spec)
	}
}

func vkey(t testing.TB, algorithm Algorithm, name string, n byte) string {
	t.Helper()
	if algorithm == Ed25519 {
		return must[*Signer](t)(NewSigner(name, seed(n))).Verifier().String()
	}
	return must[*Cosigner](t)(NewCosigner(name, algorithm, seed(n))).Verifier().String()
}

// Each mistake is refused at its line.
func TestPolicyMistakes(t *testing.T) {
	log, w1, w2 := vkey(t, Ed25519, "log", 1), vkey(t, CosignatureEd25519, "w1", 2), vkey(t, CosignatureMLDSA44, "w2", 3)
	der := root(t, "fra-1")
	rootLine := "# sovmesh-root " + rootText(PolicyRoot{"fra-1", der})
	leaf := *must[*Policy](t)(NewPolicy(PolicySpec{Quorum: NoQuorum, Roots: []PolicyRoot{{"fra-1", der}}}))
	if len(leaf.RootsOf("fra-1")) != 1 || len(leaf.RootsOf("par-1")) != 0 || len(leaf.Roots()) != 1 {
		t.Errorf("%+v", leaf.spec)
	}
	base := "log " + log + "\nwitness a " + w1 + "\nwitness b " + w2 + "\n"
	tests := []struct {
		text string
		line int
		says string
	}{
		{base, 0, "no quorum line"},
		{base + "quorum a", 4, "cut"},
		{base + "quorum c\n", 4, "no line above defines"},
		{base + "quorum none\nquorum a\n", 5, "already"},
		{base + "quorum\n", 4, "a quorum line is"},
		{base + "quorum a b\n", 4, "a quorum line is"},
		{base + "group g all a c\nquorum g\n", 4, "no line above defines"},
		{base + "group g all a g\nquorum g\n", 4, "no line above defines"}, // a cycle
		{base + "group g all h\ngroup h all g\nquorum g\n", 4, "no line above defines"},
		{base + "group g any a a\nquorum g\n", 4, "member already"},
		{base + "group g any a\ngroup h any a b\nquorum h\n", 5, "member already"},
		{base + "group g any none\nquorum g\n", 4, "no line above defines"},
		{base + "group g 0 a b\nquorum g\n", 4, "it is all, any, or 1 to 2"},
		{base + "group g 3 a b\nquorum g\n", 4, "it is all, any, or 1 to 2"},
		{base + "group g 01 a b\nquorum g\n", 4, "it is all, any, or 1 to 2"},
		{base + "group g +1 a b\nquorum g\n", 4, "it is all, any, or 1 to 2"},
		{base + "group g most a b\nquorum g\n", 4, "it is all, any, or 1 to 2"},
		{base + "group g all\nquorum g\n", 4, "a group line is"},
		{base + "group a all b\nquorum a\n", 4, "defined already, in line 2"},
		{base + "group none all b\nquorum none\n", 4, "needs no witness"},
		{base + "witness a " + vkey(t, CosignatureEd25519, "w3", 4) + "\nquorum a\n", 4, "defined already, in line 2"},
		{base + "witness c " + w1 + "\nquorum c\n", 4, "is that of the witness a"},
		{base + "witness c " + vkey(t, CosignatureEd25519, "renamed", 2) + "\nquorum c\n", 4, "is that of the witness a"},
		{base + "witness c " + vkey(t, CosignatureEd25519, "log", 1) + "\nquorum c\n", 4, "is that of the log log"},
		{base + "log " + vkey(t, Ed25519, "renamed", 1) + "\nquorum a\n", 4, "is that of the log log"},
		{base + "log " + vkey(t, CosignatureEd25519, "x", 9) + "\nquorum a\n", 4, "key of a witness"},
		{base + "witness c " + vkey(t, Ed25519, "x", 9) + "\nquorum a\n", 4, "key of a log"},
		{base + "log x+00000000+AAAA\nquorum a\n", 4, "signature type 0x00"},
		{base + "log\nquorum a\n", 4, "a log line is"},
		{base + "witness c\nquorum a\n", 4, "a witness line is"},
		{base + "mirror a\nquorum a\n", 4, "begins no line"},
		{base + "quorum a\r\n", 4, "control character"},
		{base + "quorum a\x00\n", 4, "control character"},
		{base + "# sovmesh-rot x\nquorum a\n", 4, "no comment of ours"},
		{base + "#sovmesh-root fra-1\nquorum a\n", 4, "a root is"},
		{base + rootLine + " more\nquorum a\n", 4, "no comment of ours"},
		{base + rootLine + "\n" + rootLine + "\nquorum a\n", 5, "stands above already"},
		{base + "# sovmesh-root " + rootText(PolicyRoot{"par-1", der}) + "\n" + rootLine + "\nquorum a\n", 5, "stands above already"},
		{base + strings.Replace(rootLine, "fra-1", "fra-2", 1) + "\nquorum a\n", 4, "region or certificate was changed"},
		{base + "# sovmesh-root " + rootText(PolicyRoot{"fra-1", []byte("x")}) + "\nquorum a\n", 4, "the root of fra-1"},
		{base + strings.Repeat("x", maxLine+1) + "\nquorum a\n", 4, "bytes are more than"},
		{strings.Repeat("\n", MaxPolicy+1), 0, "bytes are more than"},
	}
	for _, tt := range tests {
		_, err := ParsePolicy([]byte(tt.text))
		var at *PolicyError
		if !errors.As(err, &at) || at.Line != tt.line || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %v, want line %d and %q", tt.text[min(len(tt.text), len(base)):min(len(tt.text), len(base)+60)], err, tt.line, tt.says)
		}
	}
	der2 := root(t, "x")
	der2[len(der2)-1] ^= 1 // its signature
	if _, err := NewPolicy(PolicySpec{Quorum: NoQuorum, Roots: []PolicyRoot{{"x", der2}}}); err == nil {
		t.Error("a root that did not sign itself was taken")
	}
	for _, spec := range []PolicySpec{
		{}, {Quorum: "x\nquorum none"}, {Quorum: NoQuorum, Roots: []PolicyRoot{{"a b", der}}}, {Quorum: NoQuorum, Roots: []PolicyRoot{{"a\nquorum none\n#", der}}},
		{Quorum: NoQuorum, Logs: []PolicyLog{{must[*Verifier](t)(ParseVerifier(log)), "u v"}}}, {Quorum: NoQuorum, Logs: []PolicyLog{{must[*Verifier](t)(ParseVerifier(log)), " "}}},
	} {
		if p, err := NewPolicy(spec); err == nil {
			t.Errorf("%q was made", p.Text())
		}
	}
}

// A policy as we write it, cut anywhere, is none; and every changed byte in a
// key or a root is seen.
func TestEveryByteOfAPolicy(t *testing.T) {
	m := newMesh(t, 1)
	spec := m.policy.spec
	spec.Roots = []PolicyRoot{{"fra-1", root(t, "fra-1")}}
	text := must[*Policy](t)(NewPolicy(spec)).Text()
	for cut := range text {
		if _, err := ParsePolicy([]byte(text[:cut])); err == nil {
			t.Fatalf("cut at %d, and read", cut)
		}
	}
	keys := []string{rootText(spec.Roots[0])}
	for _, l := range spec.Logs {
		keys = append(keys, l.Key.String())
	}
	for _, w := range spec.Witnesses {
		keys = append(keys, w.Key.String())
	}
	for _, key := range keys {
		from := strings.Index(text, key)
		for i := 0; i < len(key); i += 1 + len(key)/150 {
			for _, bit := range []int{0, 1, 5} {
				if p, err := ParsePolicy(flipBit([]byte(text), from+i, bit)); err == nil && len(p.Roots()) == 1 && len(p.Logs()) == 1 && len(p.Witnesses()) == 4 {
					t.Fatalf("byte %d of %s changed, and read", i, key[:12])
				}
			}
		}
	}
}

// The quorum grows with the witnesses and never shrinks.
func TestQuorumIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Policy{}
		n := rapid.IntRange(1, 8).Draw(t, "witnesses")
		var free []string
		for i := range n {
			free = append(free, fmt.Sprint("w", i))
		}
		for i := range rapid.IntRange(1, 5).Draw(t, "groups") {
			if len(free) == 0 {
				break
			}
			k := rapid.IntRange(1, len(free)).Draw(t, "members")
			g := PolicyGroup{fmt.Sprint("g", i), rapid.IntRange(1, k).Draw(t, "need"), free[:k]}
			p.spec.Groups, free = append(p.spec.Groups, g), append(append([]string(nil), free[k:]...), g.Name)
			p.spec.Quorum = g.Name
		}
		has := map[string]bool{}
		before := p.quorum(has)
		if before {
			t.Fatal("nobody is a quorum")
		}
		for i := range n {
			has[fmt.Sprint("w", i)] = true
			now := p.quorum(has)
			if before && !now {
				t.Fatal("a witness more, and the quorum is lost")
			}
			before = now
		}
		if !before {
			t.Fatal("everybody is no quorum")
		}
	})
}

func FuzzPolicy(f *testing.F) {
	m := newMesh(f, 0)
	spec := m.policy.spec
	spec.Roots = []PolicyRoot{{"fra-1", root(f, "fra-1")}}
	f.Add([]byte(must[*Policy](f)(NewPolicy(spec)).Text()))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		var at *PolicyError
		if err != nil {
			if !errors.As(err, &at) {
				t.Fatalf("%v names no line", err)
			}
			return
		}
		again, err := NewPolicy(p.spec)
		if err != nil || again.Text() != must[*Policy](t)(NewPolicy(again.spec)).Text() {
			t.Fatalf("%q is not written again: %v", data, err)
		}
	})
}

// A region that lost its quorum begins a new log under the same key: both stand
// in one policy, and nothing else shares a key.
func TestOneKeyForALogBegunAnew(t *testing.T) {
	first := "log " + vkey(t, Ed25519, "fra-1.mesh.example/ledger", 1) + "\n"
	for _, test := range []struct {
		origin string
		ok     bool
	}{
		{"fra-1.mesh.example/ledger/2", true},
		{"fra-1.mesh.example/ledger/17", true},
		{"fra-1.mesh.example/ledger", false},
		{"fra-1.mesh.example/ledger/1", false},
		{"fra-1.mesh.example/ledger/02", false},
		{"fra-1.mesh.example/ledger/2/ledger", false},
		{"ber-1.mesh.example/ledger/2", false},
		{"ber-1.mesh.example/ledger", false},
	} {
		_, err := ParsePolicy([]byte(first + "log " + vkey(t, Ed25519, test.origin, 1) + "\nquorum none\n"))
		if (err == nil) != test.ok {
			t.Errorf("%s beside its first log, one key: %v", test.origin, err)
		}
	}
	if _, err := ParsePolicy([]byte(first + "witness w " + vkey(t, CosignatureEd25519, "fra-1.mesh.example/ledger/2", 1) + "\nquorum w\n")); err == nil {
		t.Error("a log is its own witness")
	}
}
