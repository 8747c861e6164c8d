package residency

import "strings"

// truth is three-valued: what is not known satisfies nothing.
type truth uint8

const (
	no truth = iota
	unknown
	yes
)

// Causes of an unknown. A mesh adds peer.unknown for a region out of contact.
const (
	causeClaim = "claim.unknown" // the site does not say
	causeLaw   = "law.unknown"   // the pack does not say
	causeWeak  = "claim.weak"    // the site says it, not well enough
)

// answer is the outcome of one question, with what is needed to explain it.
// Words are put together only for who asks.
type answer struct {
	v     truth
	cause string // of unknown
	why   why
	a, b  string // fill the sentence of why
	items []item // stand for b when set: joined only when words are asked for
}

// why numbers the sentences of [answer.words].
type why uint8

const (
	whyNothing why = iota
	whyPlace
	whySubdivision
	whySiteName
	whyCheck
	whyNoGroup
	whyClaim
	whyClaimNone
	whyNotAdequate
	whyExporter
	whyNoMechanism
	whyOutside
	whyHomeUnknown
	whyParentUnknown
	whyOperator
	whyExposed
	whyPartly
	whyNoLaw
	whyLocation
	whyOperatorLevel
	whyAge
	whyLevel
	whyLevelLow
	whyAllow
	whyDeny
	whyDirect
)

// sentences say what an answer means; $a and $b are filled in.
var sentences = [...]string{
	whyNothing:       "",
	whyPlace:         "the country of the site is not known",
	whySubdivision:   "the subdivision of the site within $a is not known",
	whySiteName:      "the site has no name",
	whyCheck:         "the law pack leaves open whether $a belongs to $b",
	whyNoGroup:       "the law pack has no group $a",
	whyClaim:         "the site does not state the claim $a that $b needs",
	whyClaimNone:     "the site states $a: none, which $b needs",
	whyNotAdequate:   "no adequacy decision of $b covers $a",
	whyExporter:      "the law pack has no transfer rule of exporter $a in force on that day",
	whyNoMechanism:   "$a is outside the exporter $b and the tag permits no transfer",
	whyOutside:       "nothing permits a transfer of personal data from $b to $a",
	whyHomeUnknown:   "the home of the operator is not known",
	whyParentUnknown: "the ultimate parent of the operator is not known",
	whyOperator:      "the operator's $a is not in $b",
	whyExposed:       "$a reaches this operator through its $b",
	whyPartly:        "whether $a reaches a foreign subsidiary is disputed, and the parent is in its reach",
	whyNoLaw:         "the law pack has no law $a",
	whyLocation:      "the location is not known as well as $a",
	whyOperatorLevel: "the operator is not known as well as $a",
	whyAge:           "the assurance is not dated within $a days before the decision",
	whyLevel:         "the site does not state a level of $a that the law pack lists",
	whyLevelLow:      "the site states $a, below $b",
	whyAllow:         "$a is not in $b",
	whyDeny:          "$a is denied by !$b",
	whyDirect:        "the tag permits no relay at all",
}

func (x answer) words() string {
	if x.items != nil {
		x.b = words(x.items)
	}
	return strings.ReplaceAll(strings.ReplaceAll(sentences[x.why], "$b", x.b), "$a", x.a)
}

var answerYes = answer{v: yes}

func dontKnow(cause string, w why, a, b string) answer {
	return answer{v: unknown, cause: cause, why: w, a: a, b: b}
}

func deny(w why, a, b string) answer { return answer{v: no, why: w, a: a, b: b} }

// or joins two answers: a true one wins, then the first unknown one.
func or(x, y answer) answer {
	switch {
	case x.v == yes || y.v == no:
		return x
	case y.v == yes || x.v == no:
		return y
	}
	return x
}

// and joins two answers: a false one wins, then the first unknown one.
func and(x, y answer) answer {
	switch {
	case x.v == no || y.v == yes:
		return x
	case y.v == no || x.v == yes:
		return y
	}
	return x
}
