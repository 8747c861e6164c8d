package residency

// Rules of the path, beside those of the place.
const (
	ruleDirect = "transit.direct"
	ruleVia    = "transit.via"
)

// CheckTransit is nil when payload bytes may enter or pass through a region
// that does not execute the job, else a [*Refusal].
//
// The path of a tag is its own allow set, or transit.via where that is given:
// every hop must lie in it, and what the tag denies stays denied. A relay sees
// the payload, so operator, exposure, transfer basis and assurance are asked
// of it too. transit.direct permits no relay at all. Where the tag permits
// sealed payload and o.Sealed says that it is, a relay sees ciphertext: any
// place will do that the tag does not deny.
func CheckTransit(p Policy, relay Site, pack *Pack, o Options) error {
	s := newSituation(pack, o.On, &relay)
	out, l := p.judge(func(b *body) outcome { return s.judgeTransit(b, o) })
	return p.refusal(out, l, &s)
}

// EvaluateTransit is [CheckTransit] with everything needed to state and to
// replay the answer.
func EvaluateTransit(p Policy, relay Site, pack *Pack, o Options) Decision {
	s := newSituation(pack, o.On, &relay)
	out, l := p.judge(func(b *body) outcome { return s.judgeTransit(b, o) })
	return p.decision(out, l, &s)
}

func (s *situation) judgeTransit(b *body, o Options) outcome {
	t := &b.long.Transit
	if t.Direct {
		return outcome{no, ruleDirect, deny(whyDirect, "", "")}
	}
	out := outcome{v: yes, rule: ruleAllow}
	if out.add(ruleDeny, s.notDenied(b)) || t.Sealed && o.Sealed {
		return out
	}
	path, rule := b.allow, ruleAllow
	if b.via != nil {
		path, rule = b.via, ruleVia
	}
	_ = out.add(rule, s.allowed(path)) || s.judgeRest(&out, b, o)
	return out
}
