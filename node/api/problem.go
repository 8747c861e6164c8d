package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Problem is the error document of the API (RFC 9457), and the error that the
// client returns for one. Code is stable and what programs branch on.
type Problem struct {
	Type   string `json:"type"` // "urn:sovmesh:" and the code
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Advice string `json:"hint,omitempty"`
	Rule   string `json:"rule,omitempty"` // of a residency decision
	Line   int    `json:"line,omitempty"` // of a job file
	Column int    `json:"column,omitempty"`
	// Doors are where the request may go instead; on 421 only.
	Doors []Door `json:"doors,omitempty"`
	// RetryAfter is in seconds, at most 60; it is also a header.
	RetryAfter int `json:"retry_after,omitempty"`
	// Final tells clients that a repetition will have the same answer.
	Final bool `json:"-"`
}

// Error says what and why.
func (p *Problem) Error() string { return p.Detail }

// Hint says what to do.
func (p *Problem) Hint() string { return p.Advice }

// Codes that programs branch on. Those of tags (tag.*), of residency decisions
// (residency.*, law.*, claim.*, control.*, assurance.*) and of the state
// machine's refusals come from there.
const (
	CodeUsage         = "input.usage"
	CodeBody          = "input.body"
	CodeHeaderMissing = "residency_header_missing"
	CodeHeaderDiffers = "residency_header_mismatch"
	CodeMisdirected   = "residency.misdirected"
	CodeNever         = "residency.never"
	CodeNotLawful     = residency.CodeRefused
	CodeAny           = "residency.any"
	CodePeerUnknown   = "peer.unknown"
	CodePeerAnswers   = "peer.answers"
	CodeFingerprint   = "invite.fingerprint"
	CodeLeaderUnknown = "leader.unknown"
	CodeNoToken       = "token.missing"
	CodeBadToken      = "token.invalid"
	CodeForeignToken  = "token.foreign"
	CodeExpiredToken  = "token.expired"
	CodeRole          = "role.missing"
	CodeForeignVerb   = "role.foreign"
	CodeGrant         = "grant.invalid"
	CodeNotFound      = "input.unknown-name"
	CodeAmbiguous     = "input.ambiguous"
	CodeNoCapacity    = "capacity.none"
	CodeNoHardware    = "capacity.never"
	CodeOverLimit     = "quota.never"
	CodeQueueFull     = "queue.full"
	CodeInternal      = "internal"
	CodeUnavailable   = "unavailable"
	CodeDamaged       = "ledger.damaged"
)

func newProblem(status int, code, detail, hint string) *Problem {
	return &Problem{Type: "urn:sovmesh:" + code, Title: http.StatusText(status), Status: status, Detail: detail, Code: code, Advice: hint}
}

// retry says when to come back; more than a minute is never asked for, because
// SDKs ignore it.
func (p *Problem) retry(after time.Duration) *Problem {
	p.RetryAfter = int(math.Ceil(min(max(after, time.Second), MaxRetryAfter).Seconds()))
	return p
}

func (p *Problem) final() *Problem {
	p.Final = true
	return p
}

// problemOf turns any error into what is shown: known refusals with their code,
// anything else as an internal fault without its inner words.
func problemOf(err error) *Problem {
	var (
		problem *Problem
		input   *InputError
		tag     *residency.Error
		refusal *residency.Refusal
		refused *state.Refused
		tooBig  *http.MaxBytesError
	)
	switch {
	case errors.As(err, &problem):
		return problem
	case errors.As(err, &input):
		p := newProblem(http.StatusBadRequest, input.Code, input.Error(), input.Help)
		p.Line, p.Column = input.Line, input.Column
		return p
	case errors.As(err, &tag):
		p := newProblem(http.StatusBadRequest, tag.Code, tag.Error(), tag.Help)
		p.Line, p.Column = tag.Line, tag.Column
		return p
	case errors.As(err, &refusal):
		return problemOfDecision(refusal.Decision, refusal.Error(), refusal.Hint())
	case errors.As(err, &refused):
		return problemOfRefused(refused)
	case errors.As(err, &tooBig):
		return newProblem(http.StatusRequestEntityTooLarge, CodeBody, "the body has more than "+strconv.FormatInt(tooBig.Limit, 10)+" bytes", "send less: data does not belong into a request of the control plane")
	case errors.Is(err, context.DeadlineExceeded):
		return newProblem(http.StatusServiceUnavailable, CodeLeaderUnknown, "no answer in time; whether the change was made is unknown", "ask again, with the same Idempotency-Key if it was a submit").retry(time.Second)
	}
	return problemOfMesh(err)
}

// problemOfRefused maps what Apply refused to a status. Apply's own codes are
// passed on untouched.
func problemOfRefused(r *state.Refused) *Problem {
	status := http.StatusConflict
	head, _, _ := strings.Cut(r.Code, ".")
	switch {
	case badInput(r.Code):
		status = http.StatusBadRequest
	case r.Code == CodeQueueFull || head == "quota":
		status = http.StatusTooManyRequests
	case residency.UnknownCode(r.Code):
		status = http.StatusServiceUnavailable
	case head == "residency" || head == "law" || head == "claim" || head == "control" || head == "assurance":
		status = http.StatusForbidden
	case head == "tag" || head == "input":
		status = http.StatusBadRequest
	case head == "token" || head == "grant" || head == "invite":
		status = http.StatusUnauthorized
	case strings.HasSuffix(r.Code, ".unknown"):
		status = http.StatusNotFound
	}
	p := newProblem(status, r.Code, r.Message, r.Advice)
	p.Rule = r.Rule
	switch status {
	case http.StatusTooManyRequests:
		p.retry(5 * time.Second) // a quota frees itself as jobs end: a repetition may succeed
	case http.StatusForbidden:
		p.Final = true
	case http.StatusServiceUnavailable: // not until somebody states the claim, or imports the pack
		p.retry(MaxRetryAfter).final()
	}
	return p
}

// writeProblem answers with the problem document.
func writeProblem(w http.ResponseWriter, p *Problem) {
	h := w.Header()
	problemHeaders(h, p)
	body, err := json.Marshal(p)
	if err != nil {
		body = []byte(`{"type":"urn:sovmesh:internal","title":"Internal Server Error","status":500,"code":"internal","detail":"the error could not be written"}`)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the caller is gone: nobody to tell
}

func problemHeaders(h http.Header, p *Problem) {
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	if p.Final {
		h.Set(HeaderShouldRetry, "false")
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="sovmesh"`)
	}
}

// Exit codes of the command line.
const (
	ExitFailed     = 1
	ExitUsage      = 2
	ExitNoCapacity = 10
	ExitNoHardware = 11
	ExitNotLawful  = 20
	ExitUnknown    = 30
	ExitPermission = 40
)

// CodeOf is the stable code of an error that the client or a reader of job
// files returned; empty when it has none.
func CodeOf(err error) string {
	var (
		problem *Problem
		input   *InputError
		tag     *residency.Error
		refusal *residency.Refusal
		refused *state.Refused
	)
	switch {
	case errors.As(err, &problem):
		return problem.Code
	case errors.As(err, &input):
		return input.Code
	case errors.As(err, &tag):
		return tag.Code
	case errors.As(err, &refusal):
		return refusal.Code()
	case errors.As(err, &refused):
		return refused.Code
	}
	return ""
}

// HintOf is the advice that an error carries; empty when it has none.
func HintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// badInput reports whether a code of another family than input.* and tag.* says
// that what was given cannot be used, whoever gives it: nothing was changed, and
// no permission helps. A credential that is good for something else, or for
// nothing any more, is not meant: that is not permitted.
func badInput(code string) bool {
	switch code {
	case CodeHeaderMissing, CodeHeaderDiffers, CodeFingerprint, CodePeerAnswers,
		"invite.invalid", "invite.foreign", "peer.fingerprint", "peer.self", "law.unknown-pack", "law.pack",
		"job.name", "job.kind", "job.type", "job.priority", "job.resources", "idempotency.key",
		"node.name", "node.role", "region.name", "region.facts", "tenant.name", "tenant.quota",
		"token.role", "drain.rule", "drain.reason":
		return true
	}
	return false
}

// noSuch reports whether a code says that there is nothing of the name given.
// Those of what cannot be known sound alike.
func noSuch(code string) bool {
	return code == "job.unknown" || code == "node.unknown" || code == "task.unknown" || code == "token.unknown"
}

// ExitOf is the exit code that an error calls for.
func ExitOf(err error) int {
	if err == nil {
		return 0
	}
	code := CodeOf(err)
	head, _, _ := strings.Cut(code, ".")
	switch {
	case code == CodeNoCapacity:
		return ExitNoCapacity
	case code == CodeNoHardware, code == CodeOverLimit:
		return ExitNoHardware
	case code == CodeNever, code == CodeNotLawful, code == CodeMisdirected:
		return ExitNotLawful
	case badInput(code), noSuch(code):
		return ExitUsage
	case code == CodePeerUnknown, code == CodeLeaderUnknown, residency.UnknownCode(code):
		return ExitUnknown
	case code == CodeAny, head == "token", head == "role", head == "grant", head == "invite":
		return ExitPermission
	case head == "input", head == "tag":
		return ExitUsage
	}
	return ExitFailed
}
