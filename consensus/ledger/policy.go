package ledger

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a policy; https://c2sp.org/tlog-policy asks for 32 of each.
const (
	MaxPolicy  = 1 << 20 // bytes
	maxDefined = 256     // logs, witnesses, groups, and roots, of each
	maxLine    = 16 << 10
)

// PolicySpec is a policy as data, in the order of its lines.
type PolicySpec struct {
	Logs      []PolicyLog
	Witnesses []PolicyWitness
	Groups    []PolicyGroup
	// Quorum names a witness or a group, or is "none".
	Quorum string
	Roots  []PolicyRoot
}

// PolicyLog is a log whose checkpoints count. Its key's name is its origin.
type PolicyLog struct {
	Key *Verifier
	URL string // may be empty
}

// PolicyWitness is a witness and the name that groups know it by.
type PolicyWitness struct {
	Name string
	Key  *Verifier
	URL  string // may be empty
}

// PolicyGroup has witnessed a checkpoint when Need of its members have.
type PolicyGroup struct {
	Name    string
	Need    int
	Members []string // of witnesses, and of groups above
}

// PolicyRoot is a root certificate of a region's authority.
type PolicyRoot struct {
	Region string
	DER    []byte
}

// Policy says whose word counts: which logs, which witnesses and how many of
// them, and the regions' root certificates. It is all that a verifier trusts.
// Its form is a C2SP tlog-policy; the roots stand in comments, so that foreign
// tools read the rest. It is immutable.
type Policy struct {
	spec PolicySpec
	text string
}

// NoQuorum is the name of the quorum that needs no witness.
const NoQuorum = "none"

// rootDirective begins a comment that foreign readers skip and we do not.
const (
	ourComments   = "sovmesh-"
	rootDirective = "sovmesh-root"
)

// PolicyError says which line of a policy is wrong.
type PolicyError struct {
	Line int // from 1; 0 for the policy as a whole
	What string
}

func (e *PolicyError) Error() string {
	if e.Line == 0 {
		return "no policy: " + e.What
	}
	return fmt.Sprintf("no policy: line %d: %s", e.Line, e.What)
}

// Hint tells the auditor how to go on.
func (e *PolicyError) Hint() string {
	return "ask the region's operator for the policy again, by another way than the evidence came; its lines are those of https://c2sp.org/tlog-policy and \"# sovmesh-root\""
}

// NewPolicy makes a policy out of its parts, after the same checks that
// [ParsePolicy] makes.
func NewPolicy(spec PolicySpec) (*Policy, error) {
	for _, root := range spec.Roots {
		if strings.ContainsAny(root.Region, " \t\n") {
			return nil, &PolicyError{0, fmt.Sprintf("%q is no region", shorten(root.Region))}
		}
	}
	text := spec.encode()
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		return nil, err
	}
	if p.spec.encode() != text {
		return nil, &PolicyError{0, "a name or an address in it reads back differently"}
	}
	return p, nil
}

// encode writes roots first and the quorum last, so that a policy that was cut
// anywhere has no quorum and is refused.
func (s *PolicySpec) encode() string {
	var b strings.Builder
	for _, r := range s.Roots {
		fmt.Fprintf(&b, "# %s %s\n", rootDirective, rootText(r))
	}
	for _, l := range s.Logs {
		fmt.Fprintf(&b, "log %s%s\n", l.Key, behind(l.URL))
	}
	for _, w := range s.Witnesses {
		fmt.Fprintf(&b, "witness %s %s%s\n", w.Name, w.Key, behind(w.URL))
	}
	for _, g := range s.Groups {
		fmt.Fprintf(&b, "group %s %d %s\n", g.Name, g.Need, strings.Join(g.Members, " "))
	}
	fmt.Fprintf(&b, "quorum %s\n", s.Quorum)
	return b.String()
}

func behind(url string) string {
	if url == "" {
		return ""
	}
	return " " + url
}

// rootText is <region>+<8 hex digits>+<base64 DER>: like a vkey, so that a
// mistyped region or a changed letter does not go unseen.
func rootText(r PolicyRoot) string {
	id := HashLeaf([]byte(r.Region + "\n" + string(r.DER)))
	return fmt.Sprintf("%s+%x+%s", r.Region, id[:4], base64.StdEncoding.EncodeToString(r.DER))
}

// Text is the policy as it was read.
func (p *Policy) Text() string { return p.text }

// Logs are the logs whose checkpoints count.
func (p *Policy) Logs() []PolicyLog { return slices.Clone(p.spec.Logs) }

// Witnesses are those the policy knows.
func (p *Policy) Witnesses() []PolicyWitness { return slices.Clone(p.spec.Witnesses) }

// Quorum names the witness or group that must have witnessed a checkpoint.
func (p *Policy) Quorum() string { return p.spec.Quorum }

// Roots are the regions' root certificates, in the order of the policy.
func (p *Policy) Roots() []PolicyRoot { return slices.Clone(p.spec.Roots) }

// RootsOf are a region's root certificates; none for an unknown region.
func (p *Policy) RootsOf(region string) (der [][]byte) {
	for _, r := range p.spec.Roots {
		if r.Region == region {
			der = append(der, r.DER)
		}
	}
	return der
}

// quorum reports whether the witnesses that have, by name, are enough.
func (p *Policy) quorum(has map[string]bool) bool {
	if p.spec.Quorum == NoQuorum {
		return true
	}
	done := make(map[string]bool, len(has)+len(p.spec.Groups))
	for name := range has {
		done[name] = has[name]
	}
	for _, g := range p.spec.Groups { // members stand above their groups
		n := 0
		for _, member := range g.Members {
			if done[member] {
				n++
			}
		}
		done[g.Name] = n >= g.Need
	}
	return done[p.spec.Quorum]
}

// ParsePolicy reads a policy file. Unlike other readers it refuses a comment
// that begins with sovmesh- and is not one it knows.
func ParsePolicy(data []byte) (*Policy, error) {
	if len(data) > MaxPolicy {
		return nil, &PolicyError{0, fmt.Sprintf("%d bytes are more than %d", len(data), MaxPolicy)}
	}
	r := &policyReader{defined: map[string]int{NoQuorum: 0}, member: map[string]int{}}
	for rest := string(data); rest != ""; {
		r.number++
		line, after, ok := cutLine(rest)
		if !ok {
			return nil, &PolicyError{r.number, "it is cut: no newline ends it"}
		}
		if err := r.line(line); err != nil {
			return nil, &PolicyError{r.number, err.Error()}
		}
		rest = after
	}
	if r.spec.Quorum == "" {
		return nil, &PolicyError{0, "it has no quorum line; \"quorum none\" asks for no witness"}
	}
	return &Policy{r.spec, string(data)}, nil
}

type policyReader struct {
	spec    PolicySpec
	number  int
	defined map[string]int // the line of every name
	member  map[string]int // the line that made a name a member
}

func (r *policyReader) line(line string) error {
	if len(line) > maxLine {
		return fmt.Errorf("%d bytes are more than %d", len(line), maxLine)
	}
	for i := range len(line) {
		if c := line[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("byte %d is a control character", i+1)
		}
	}
	words := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' })
	switch {
	case len(words) == 0:
		return nil
	case words[0][0] == '#':
		return r.comment(line)
	}
	rest := words[1:]
	switch words[0] {
	case "log":
		return r.log(rest)
	case "witness":
		return r.witness(rest)
	case "group":
		return r.group(rest)
	case "quorum":
		return r.quorum(rest)
	}
	return fmt.Errorf("%q begins no line of a policy; log, witness, group and quorum do", shorten(words[0]))
}

func (r *policyReader) comment(line string) error {
	words := strings.Fields(strings.TrimLeft(line, " \t#"))
	if len(words) == 0 || !strings.HasPrefix(words[0], ourComments) {
		return nil
	}
	if words[0] != rootDirective || len(words) != 2 {
		return fmt.Errorf("%q is no comment of ours: it is \"# %s <region>+<8 hex digits>+<base64>\"", shorten(line), rootDirective)
	}
	return r.root(words[1])
}

func (r *policyReader) root(text string) error {
	parts := strings.SplitN(text, "+", 3)
	if len(parts) != 3 || parts[0] == "" || len(parts[0]) > maxName {
		return fmt.Errorf("a root is <region>+<8 hex digits>+<base64>")
	}
	der, err := parseBase64(parts[2])
	if err != nil {
		return fmt.Errorf("the root of %s is no base64", parts[0])
	}
	root := PolicyRoot{parts[0], der}
	if rootText(root) != text {
		return fmt.Errorf("the root of %s is not the one its id was made for: region or certificate was changed", parts[0])
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("the root of %s: %w", parts[0], err)
	}
	if !cert.IsCA || cert.CheckSignatureFrom(cert) != nil {
		return fmt.Errorf("the certificate of %s is no root: a root is an authority and signs itself", parts[0])
	}
	for _, other := range r.spec.Roots {
		if string(other.DER) == string(der) {
			return fmt.Errorf("the root of %s stands above already, for %s", parts[0], other.Region)
		}
	}
	r.spec.Roots = append(r.spec.Roots, root)
	return bounded(len(r.spec.Roots), "roots")
}

func (r *policyReader) log(words []string) error {
	if len(words) < 1 || len(words) > 2 {
		return fmt.Errorf("a log line is \"log <vkey> [<url>]\"")
	}
	key, err := ParseVerifier(words[0])
	if err != nil {
		return err
	}
	if key.algorithm == CosignatureEd25519 {
		return fmt.Errorf("%s is the key of a witness; a log signs with Ed25519 or ML-DSA-44", key.name)
	}
	if err := r.fresh(key); err != nil {
		return err
	}
	r.spec.Logs = append(r.spec.Logs, PolicyLog{key, second(words)})
	return bounded(len(r.spec.Logs), "logs")
}

func (r *policyReader) witness(words []string) error {
	if len(words) < 2 || len(words) > 3 {
		return fmt.Errorf("a witness line is \"witness <name> <vkey> [<url>]\"")
	}
	key, err := ParseVerifier(words[1])
	if err != nil {
		return err
	}
	if key.algorithm == Ed25519 {
		return fmt.Errorf("%s is the key of a log; a witness signs with an Ed25519 cosignature (0x04) or ML-DSA-44 (0x06)", key.name)
	}
	if err := r.fresh(key); err != nil {
		return err
	}
	if err := r.define(words[0]); err != nil {
		return err
	}
	r.spec.Witnesses = append(r.spec.Witnesses, PolicyWitness{words[0], key, second(words[1:])})
	return bounded(len(r.spec.Witnesses), "witnesses")
}

// fresh refuses a public key that has a part already. The specification lets a
// log's key be a witness's too; a log that witnesses itself is no witness. One
// key may stand for a log and for those that were begun in its place: the origin
// is in every signed text, and peers and auditors know the key by comparing it.
func (r *policyReader) fresh(key *Verifier) error {
	for _, l := range r.spec.Logs {
		if key.algorithm == l.Key.algorithm && key.name != l.Key.name && sameLine(key.name, l.Key.name) {
			continue
		}
		if l.Key.samePublicKey(key) {
			return fmt.Errorf("the key of %s is that of the log %s above", key.name, l.Key.name)
		}
	}
	for _, w := range r.spec.Witnesses {
		if w.Key.samePublicKey(key) {
			return fmt.Errorf("the key of %s is that of the witness %s above", key.name, w.Name)
		}
	}
	return nil
}

// sameLine reports whether two origins are of one log and of logs begun anew in
// its place: <region>.<mesh>/ledger and, after the n-th time, /ledger/<n+1>.
func sameLine(a, b string) bool {
	base := func(origin string) string {
		at := strings.LastIndex(origin, "/ledger/")
		if at < 0 {
			return origin
		}
		number := origin[at+len("/ledger/"):]
		if n, err := strconv.Atoi(number); err != nil || n < 2 || n >= 1000 || strconv.Itoa(n) != number {
			return origin
		}
		return origin[:at+len("/ledger")]
	}
	return strings.HasSuffix(base(a), "/ledger") && base(a) == base(b)
}

func (r *policyReader) define(name string) error {
	if name == NoQuorum {
		return fmt.Errorf("%q is the name of the quorum that needs no witness", NoQuorum)
	}
	if line, ok := r.defined[name]; ok {
		return fmt.Errorf("%q is defined already, in line %d", shorten(name), line)
	}
	r.defined[name] = r.number
	return nil
}

func (r *policyReader) group(words []string) error {
	if len(words) < 3 {
		return fmt.Errorf("a group line is \"group <name> all|any|<number> <member>...\"")
	}
	g := PolicyGroup{Name: words[0], Members: words[2:]}
	switch words[1] {
	case "all":
		g.Need = len(g.Members)
	case "any":
		g.Need = 1
	default:
		n, err := strconv.Atoi(words[1])
		if err != nil || strconv.Itoa(n) != words[1] || n < 1 || n > len(g.Members) {
			return fmt.Errorf("group %s needs %q of its %d members; it is all, any, or 1 to %d", shorten(g.Name), shorten(words[1]), len(g.Members), len(g.Members))
		}
		g.Need = n
	}
	for _, member := range g.Members {
		if _, ok := r.defined[member]; !ok || member == NoQuorum {
			return fmt.Errorf("group %s has the member %q, which no line above defines", shorten(g.Name), shorten(member))
		}
		if line, ok := r.member[member]; ok {
			return fmt.Errorf("%q is a member already, in line %d: nobody counts twice", shorten(member), line)
		}
		r.member[member] = r.number
	}
	if err := r.define(g.Name); err != nil {
		return err
	}
	r.spec.Groups = append(r.spec.Groups, g)
	return bounded(len(r.spec.Groups), "groups")
}

func (r *policyReader) quorum(words []string) error {
	if len(words) != 1 {
		return fmt.Errorf("a quorum line is \"quorum <name>\" or \"quorum none\"")
	}
	if r.spec.Quorum != "" {
		return fmt.Errorf("there is a quorum already: %s", shorten(r.spec.Quorum))
	}
	if _, ok := r.defined[words[0]]; !ok {
		return fmt.Errorf("the quorum is %q, which no line above defines", shorten(words[0]))
	}
	r.spec.Quorum = words[0]
	return nil
}

func second(words []string) string {
	if len(words) < 2 {
		return ""
	}
	return words[1]
}

func bounded(n int, what string) error {
	if n > maxDefined {
		return fmt.Errorf("more than %d %s", maxDefined, what)
	}
	return nil
}
