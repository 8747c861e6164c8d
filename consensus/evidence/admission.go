package evidence

import (
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// A decision that is lawful by its own tag says nothing if the tag is not the
// job's. The leaf by which a job came in has the layers of its policy; whatever
// is decided of it later has these, and may have more: a region that it goes to
// adds its own rule.

// maxAdmitted bounds the jobs whose policy is remembered, maxPolicies the
// policies. A job beyond that is one of those that are not compared.
const (
	maxAdmitted = 1 << 18
	maxPolicies = 1 << 14
)

// admissions are the policies that jobs came in with.
type admissions struct {
	jobs       map[[16]byte]int32 // into policies, by the hash of the job's id
	policies   []admission
	index      map[admission]int32
	unadmitted int // decisions of jobs whose admission is not here
}

// admission is a policy in canonical form, as a law pack reads it.
type admission struct{ tag, pack string }

func newAdmissions() admissions {
	return admissions{jobs: map[[16]byte]int32{}, index: map[admission]int32{}}
}

func jobKey(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:])
}

// admit remembers the policy of a job that came in.
func (a *admissions) admit(l *ledger.Leaf) {
	if l.Subject == "" || len(l.Judged) == 0 || l.Judged[0].Facts != nil || l.Judged[0].Rule != ruleAdmission || len(a.jobs) >= maxAdmitted {
		return
	}
	p := admission{l.Judged[0].Tag, l.Judged[0].LawPack}
	i, known := a.index[p]
	if !known {
		if len(a.policies) >= maxPolicies {
			return
		}
		i = int32(len(a.policies))
		a.policies = append(a.policies, p)
		a.index[p] = i
	}
	a.jobs[jobKey(l.Subject)] = i
}

// left gives the layers that a job came in with and a decision of it lacks. Under
// another law pack the same layer may read otherwise, so that is not compared.
func (a *admissions) left(job string, j *ledger.Judgement) (tag string, lacks bool) {
	i, known := a.jobs[jobKey(job)]
	if !known || a.policies[i].pack != j.LawPack {
		a.unadmitted++
		return "", false
	}
	tag = a.policies[i].tag
	if tag == j.Tag {
		return tag, false
	}
	has := strings.Split(j.Tag, layerSeparator)
	for layer := range strings.SplitSeq(tag, layerSeparator) {
		lacks = lacks || !slices.Contains(has, layer)
	}
	return tag, lacks
}

// layerSeparator stands between the layers of a canonical policy; no tag holds it.
const layerSeparator = " & "

// judgePolicy compares the policy of each decision about a job with the one that
// the job came in with.
func (r *regionReader) judgePolicy(index uint64, l *ledger.Leaf) {
	switch l.Kind {
	case kindSubmit:
		r.admitted.admit(l)
	case kindAssign, kindForward:
		for i := range l.Judged {
			j := &l.Judged[i]
			if tag, lacks := r.admitted.left(j.Subject, j); lacks {
				r.v.f.fail(Law, "region %s: leaf %d decides of job %s by the tag %s, and it came in with %s", r.desc.Name, index, shorten(j.Subject), shorten(j.Tag), shorten(tag))
			}
		}
	}
}
